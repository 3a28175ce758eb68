"""Studies: one folder a paper; tables first, figures from tables, published numbers beside ours.

In the folder of a study, ``study.py`` has ``run``, ``tables.py`` makes tables, ``choose.py`` chooses on validation
data, and ``figures.py`` draws from the tables. All stand on ``core/``; ``sweep/`` computes grids of cells.

Modules are loaded when first used: the worker processes of a sweep need only what their cells need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mechsteer.studies.core.published import published

if TYPE_CHECKING:
    from mechsteer.studies import (
        compose,
        directer,
        dola_decoding,
        guide,
        ifeval,
        ifeval_vectors,
        inside,
        layerwise,
        steer_instruct,
        steering,
        sweep,
        t5_dola,
    )

__all__ = [
    "compose",
    "directer",
    "dola_decoding",
    "guide",
    "ifeval",
    "ifeval_vectors",
    "inside",
    "layerwise",
    "published",
    "steer_instruct",
    "steering",
    "sweep",
    "t5_dola",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"mechsteer.studies.{name}")
    raise AttributeError(f"module 'mechsteer.studies' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
