"""Ways to steer by name, for the command line: ``guide:1``, ``spotlight:0.1``, ``directer``, a saved intervention."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mechsteer.decoding import Directer, DoLa
from mechsteer.errors import MechsteerError, finite, unknown
from mechsteer.steering import Intervention, attention_bias, pasta, scale_keys, spotlight

METHODS: Mapping[str, tuple[str, Callable[[float], Any]]] = {
    "guide": ("delta", lambda value: attention_bias("instruction", value)),
    "spotlight": ("target", lambda value: spotlight("instruction", value)),
    "pasta": ("alpha", lambda value: pasta("instruction", value)),
    "scale_keys": ("alpha", lambda value: scale_keys("instruction", value)),
    "directer": ("beta", lambda value: Directer(beta=value)),
}
"""The number that each takes, and what it makes of it."""

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
        made[text] = _method(text)
    return made


def _method(text: str) -> Any:
    name, colon, value = text.partition(":")
    if Path(text).suffix == ".safetensors":
        return Intervention.load(text)
    if not colon and name in ALONE:
        return ALONE[name]()
    if name not in METHODS:
        raise unknown("method", text, [*METHODS, *ALONE, "FILE.safetensors"])
    argument, make = METHODS[name]
    if not value.strip():
        raise MechsteerError(f"The method {name!r} needs its {argument}, e.g. {name}:{0.1 if name != 'guide' else 1}.")
    try:
        number = float(value)
    except ValueError:
        raise MechsteerError(f"{argument} of {name} must be a number, got {value!r}.") from None
    return make(finite(f"{argument} of {name}", number))
