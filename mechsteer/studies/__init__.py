"""Studies: one folder a paper; tables first, figures from tables, published numbers beside ours.

In the folder of a study, ``study.py`` has ``run``, ``tables.py`` makes tables, ``choose.py`` chooses on validation
data, and ``figures.py`` draws from the tables. All stand on ``core/``; ``sweep/`` computes grids of cells. A study is
here under the name that it is registered by, with underscores; ``Result.load`` reads the folder of one that was run.

Modules are loaded when first used: the worker processes of a sweep need only what their cells need.
"""

from importlib import import_module
from typing import Any

from mechsteer.errors import like
from mechsteer.studies.core.published import published as published
from mechsteer.studies.registry import STUDIES

_MODULES = (*(name.replace("-", "_") for name in STUDIES), "sweep")

__all__ = sorted(["Result", "published", *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"mechsteer.studies.{name}")
    if name == "Result":
        return import_module("mechsteer.studies.core.result").Result
    hint = "" if name.startswith("_") else like(name, __all__, "ms.studies.")
    raise AttributeError(f"module 'mechsteer.studies' has no attribute {name!r}.{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
