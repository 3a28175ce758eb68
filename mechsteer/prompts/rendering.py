"""Chat templates are programs that a checkpoint's author wrote: they are run within limits.

transformers renders them in Jinja's sandbox, which keeps them from files, modules and the insides of objects. It does
not keep them from running for days or from filling the memory. So here the time, the text and the numbers that a
template makes are watched while it runs: line by line in the template, and at every call that it makes. A step that
would make something very large is refused before it does: an operator (``'x' * 10 ** 10``), a method or a filter
(``replace``, ``join``, ``indent``), a list of two lists of two lists and so on, which is small and whose text has no
end. What no rule here foresees ends where :data:`MEMORY` does, on Linux.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from mechsteer.errors import MechsteerError, one_line, shown
from mechsteer.prompts.steps import ALL_CHARACTERS, CHARACTERS, OPERATORS, TooMuchError, check_call, check_extent

SECONDS = 3.0
"""The most processor time of one rendering. That of a conversation of thousands of turns takes less than one."""

MEMORY = 2_000_000_000
"""By how many bytes the memory of the process may grow in a rendering."""

_NO_MEMORY = f"it needs more than {MEMORY:,} bytes of memory"
_MAKERS = ("filters.py", "sandbox.py")  # where lists come from that no brackets in a template make
_EVENTS = 64  # how often the clock is read
_TEMPLATE = "<template>"  # what Jinja calls the code of a template that comes from a text


def apply_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """What ``apply_chat_template`` makes of messages, as a text.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The messages.
        options: For ``apply_chat_template``.

    Raises:
        MechsteerError: for a template that fails in whatever way, makes no text, or reaches a limit; the reason alone,
            for the message of the caller.
    """
    try:
        with _bounded_operators(), _bounded_memory(), _watched():
            made = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except (Exception, TooMuchError) as error:  # a template is a program, and may fail in any way
        reason = _NO_MEMORY if isinstance(error, MemoryError) else one_line(str(error)) or type(error).__name__
        raise MechsteerError(shown(reason, 200)[1:-1]) from error
    if not isinstance(made, str):
        raise MechsteerError(f"it makes no text, got {shown(made)}")
    return made


@contextmanager
def _watched() -> Iterator[None]:
    """Watch what is called and made in the block, in this thread."""
    before = sys.gettrace()
    sys.settrace(_Watch())
    try:
        yield
    finally:
        sys.settrace(before)


class _Watch:
    """A trace function, see :func:`sys.settrace`: of the template's own code it sees every line."""

    def __init__(self) -> None:
        self.end = time.thread_time() + SECONDS
        self.events, self.characters, self.all = 0, 0, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Something is called."""
        own = frame.f_code.co_filename == _TEMPLATE
        frame.f_trace_lines = own
        if not own:
            check_call(frame)
        return self.inside(frame, event, argument)

    def inside(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A line, or what a function gives back (a template gives back its text piece by piece)."""
        self.events += 1
        own = frame.f_code.co_filename == _TEMPLATE
        if (own or self.events % _EVENTS == 0) and time.thread_time() > self.end:
            raise TooMuchError(f"it runs longer than {SECONDS:g} s")
        if event == "return" and isinstance(argument, str | list | tuple | dict):
            size = len(argument)
            if frame.f_code.co_filename.endswith(_MAKERS) and not isinstance(argument, str):
                check_extent(argument)
            self.characters += size if own else 0
            self.all += size * (1 if isinstance(argument, str) else 8)
            if max(self.characters, size) > CHARACTERS or self.all > ALL_CHARACTERS:
                raise TooMuchError(f"it makes more than {CHARACTERS:,} characters")
        return self.inside


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let the process grow by :data:`MEMORY` in the block, on Linux; then a ``MemoryError`` is raised.

    It holds for the process, so it is left out where other threads may need memory for work of their own.
    """
    size = _memory()
    if size is None or any(t is not threading.current_thread() and not t.daemon for t in threading.enumerate()):
        yield
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + MEMORY if before == resource.RLIM_INFINITY else min(before, size + MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def _memory() -> int | None:
    """Bytes of the addresses that this process uses; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


@contextmanager
def _bounded_operators() -> Iterator[None]:
    """Templates that are compiled in the block use :data:`OPERATORS`, and their lists and dicts are checked."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    ours = {
        "intercepted_binops": frozenset(OPERATORS),
        "default_binop_table": Sandbox.default_binop_table | OPERATORS,
        "code_generator_class": _generator(),
    }
    before = {name: getattr(Sandbox, name) for name in ours}
    Sandbox.check_extent = staticmethod(check_extent)  # type: ignore[attr-defined]  # stays: compiled templates are kept
    for name, value in ours.items():
        setattr(Sandbox, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(Sandbox, name, value)


@cache
def _generator() -> type:
    """Jinja's compiler, that writes a check around what makes a list, a tuple or a dict."""
    from jinja2.compiler import CodeGenerator

    def checked(visit: Callable[..., None]) -> Callable[..., None]:
        def visited(self: Any, node: Any, frame: Any) -> None:
            made = getattr(node, "ctx", "load") == "load"  # not names that values are given to
            self.write("environment.check_extent(" if made else "")
            visit(self, node, frame)
            self.write(")" if made else "")

        return visited

    kinds = ("visit_List", "visit_Tuple", "visit_Dict")
    return type("Checked", (CodeGenerator,), {name: checked(getattr(CodeGenerator, name)) for name in kinds})
