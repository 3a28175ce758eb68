"""``python -m mechsteer``."""

from mechsteer.cli import main

main()
