"""Other packages' steering vectors, where they are installed."""

from importlib import import_module
from typing import Any

import pytest


def installed(name: str) -> Any:
    """The package; the test is skipped where it is not there or does not work with what is (repeng needs NumPy 1)."""
    try:
        return import_module(name)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")
