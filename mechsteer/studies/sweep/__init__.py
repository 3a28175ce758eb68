"""Sweeps: a grid of cells, each computed on its own; see :mod:`mechsteer.studies.sweep.engine`.

Names are resolved when first used: a worker process needs no more than its cells do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechsteer.studies.sweep.engine import sweep
    from mechsteer.studies.sweep.executors import Processes, Ray, Serial
    from mechsteer.studies.sweep.grids import Cell, grid, read_grid, read_modules

_HOME_OF = {
    "Cell": "grids",
    "Processes": "executors",
    "Ray": "executors",
    "Serial": "executors",
    "grid": "grids",
    "read_grid": "grids",
    "read_modules": "grids",
    "sweep": "engine",
}
__all__ = ["Cell", "Processes", "Ray", "Serial", "grid", "read_grid", "read_modules", "sweep"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"mechsteer.studies.sweep.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'mechsteer.studies.sweep' has no attribute {name!r}")
