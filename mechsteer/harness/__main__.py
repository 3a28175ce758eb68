"""lm-eval's own command line, in which the model ``mechsteer`` is known; see :mod:`mechsteer.harness`."""

from lm_eval.__main__ import cli_evaluate

import mechsteer.harness  # noqa: F401  # registers it

if __name__ == "__main__":
    cli_evaluate()
