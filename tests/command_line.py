"""Running the command line in this process."""

from collections.abc import Callable

CommandLine = Callable[..., tuple[int, str, str]]
"""Arguments to exit code, stdout, stderr."""
