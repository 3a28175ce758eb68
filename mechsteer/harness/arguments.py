"""What lm-eval's ``--model_args`` say: ``pretrained=NAME,steer=FILE,instruction=FIELD``."""

import os
from collections.abc import Mapping
from typing import Any

from mechsteer.errors import MechsteerError, positive_int, shown, unknown
from mechsteer.models import load
from mechsteer.steering import Intervention

LOADING = ("device", "dtype", "revision", "fold")
OWN = ("instruction", "seed", "progress", "batch_size", "max_batch_size")
KNOWN = ("pretrained", "steer", *LOADING, *OWN)

AUTO = 64
"""The most requests computed together with ``batch_size=auto``; fewer where they are long."""


def loaded(given: Mapping[str, Any]) -> dict[str, Any]:
    """The model and the other arguments of :class:`mechsteer.harness.SteeredLM`.

    Args:
        given: ``pretrained``, a name for :func:`mechsteer.load`, with its ``device``, ``dtype``, ``revision`` and
            ``fold``; ``steer``, a file that :meth:`mechsteer.Intervention.save` wrote; and what the class takes.

    Raises:
        MechsteerError: for an argument that there is not, no ``pretrained``, or files that cannot be read.
    """
    for name in given:
        if name not in KNOWN:
            raise unknown("argument of the model mechsteer:", name, KNOWN)
    if not given.get("pretrained"):
        raise MechsteerError("The model mechsteer needs pretrained=NAME, e.g. pretrained=organism:instruct-llama.")
    steer = given.get("steer")
    if isinstance(steer, str | os.PathLike):
        steer = Intervention.load(steer)
    model = load(str(given["pretrained"]), **{name: given[name] for name in LOADING if given.get(name) is not None})
    return {"model": model, "steer": steer} | {name: given[name] for name in OWN if given.get(name) is not None}


def rows_of(batch_size: int | str, most: int | None) -> tuple[int, bool]:
    """How many requests are computed together at most, and whether long ones make it fewer.

    Args:
        batch_size: A number, or ``"auto"``, with or without lm-eval's ``":N"``.
        most: lm-eval's ``max_batch_size``: the most for ``"auto"``.

    Raises:
        MechsteerError: for anything else.
    """
    if isinstance(batch_size, str) and batch_size.partition(":")[0] == "auto":
        return positive_int("max_batch_size", AUTO if most is None else most), True
    try:
        return positive_int("batch_size", int(batch_size) if isinstance(batch_size, str) else batch_size), False
    except ValueError:
        raise MechsteerError(f"batch_size must be a number or 'auto', got {shown(batch_size)}.") from None
