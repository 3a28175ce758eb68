"""Ways to steer by name, for the command line: ``guide:1``, ``spotlight:0.1``, ``directer``, a saved intervention."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mechsteer.decoding import Directer, DoLa
from mechsteer.errors import MechsteerError, finite, unknown
from mechsteer.files import printable
from mechsteer.steering import METHODS, Intervention, made_of

GUIDE = "attention_bias"
"""The method that ``guide`` is."""

ALONE: Mapping[str, Callable[[], Any]] = {"unsteered": lambda: None, "directer": Directer, "dola": DoLa}
"""What needs no number."""


def methods_of(names: Sequence[str]) -> dict[str, Any]:
    """What ``compare`` takes, unsteered first.

    Args:
        names: ``guide:1`` and the like, the names that need no number, or files that ``Intervention.save`` wrote.

    Raises:
        MechsteerError: for an unknown name, a number that is missing or none, or a file that cannot be read.
    """
    made: dict[str, Any] = {"unsteered": None}
    for text in names:
        made[printable(text)] = _method(text)
    return made


def _method(text: str) -> Any:
    name, colon, value = text.partition(":")
    if Path(text).suffix == ".safetensors":
        return Intervention.load(text)
    if not colon and name in ALONE:
        return ALONE[name]()
    known = _known()
    if name not in known:
        raise unknown("method", text, [*known, *ALONE, "FILE.safetensors"])
    argument, make = known[name]
    if not value.strip():
        raise MechsteerError(f"The method {name!r} needs its {argument}, e.g. {name}:{0.1 if name != 'guide' else 1}.")
    try:
        number = float(value)
    except ValueError:
        raise MechsteerError(f"{argument} of {name} must be a number, got {value!r}.") from None
    return make(finite(f"{argument} of {name}", number))


def _known() -> dict[str, tuple[str, Callable[[float], Any]]]:
    """The number that each takes, and what it makes of it: DIRECTER, and every method that is made of a span."""
    known: dict[str, tuple[str, Callable[[float], Any]]] = {"directer": ("beta", lambda value: Directer(beta=value))}
    for name in made_of("span"):
        found = METHODS[name]
        if found.make is not None:
            known["guide" if name == GUIDE else name] = found.strength, partial(found.make, "instruction")
    return known
