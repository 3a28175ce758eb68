"""lm-eval's own command line, in which the model ``mechsteer`` is known; see :mod:`mechsteer.harness`."""

import sys

from lm_eval.__main__ import cli_evaluate

import mechsteer.harness  # noqa: F401  # registers it
from mechsteer.errors import MechsteerError

if __name__ == "__main__":
    try:
        cli_evaluate()
    except MechsteerError as error:
        print(f"mechsteer: {error}", file=sys.stderr)
        sys.exit(2)
