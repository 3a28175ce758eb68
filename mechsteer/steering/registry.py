"""The methods of steering, by name: each registers itself where it is defined, and nothing else in steering lists them.

Saving, loading, cache keys, explaining, sweeps, the command line and the watch over attention sinks find a method here,
so that a new one is one new file: the function that edits an activation, under :func:`method`, and one that makes an
intervention of it with :meth:`mechsteer.Intervention.of`. What ``tune`` tries and the explorer shows are choices among
ours, in tables of theirs::

    @method("damp", takes="layer", make=lambda layer, share: damp(layer, share), strength="share")
    def apply_damp(edit, x, where):
        return x * (1 - edit.strength)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, one_of, unknown, whole_text

if TYPE_CHECKING:
    from torch import Tensor

    from mechsteer.models import Fused
    from mechsteer.steering.intervention import Edit, Intervention, Where

    Apply = Callable[["Edit", Tensor, "Where"], Tensor | None]
    Fuse = Callable[["Edit", Fused, "Where"], bool]

TAKES = ("", "span", "direction", "layer")
"""What a method may be made of, beside a strength; the first is: more than that."""

_OURS = "mechsteer"
_found: "dict[str, Method]" = {}

METHODS: "Mapping[str, Method]" = MappingProxyType(_found)
"""Every method that was registered, in the order of their modules' import."""


def _never(edit: "Edit") -> bool:
    return False


def _nothing(edit: "Edit") -> float:
    return float("nan")


def _fits_all(edit: "Edit", model: Any) -> None:
    """No model is refused. A function with a name, as :func:`_never`, so that edits can be sent to workers."""


@dataclass(frozen=True)
class Method:
    """What the name of a method stands for.

    Attributes:
        name: Its name in edits and files.
        apply: ``apply(edit, x, where)`` returns the edited activation, or None where it has nothing to do.
        check: ``check(edit, model)`` raises if an edit does not fit the model.
        fuse: ``fuse(edit, fused, where)`` puts what an edit of attention scores does into the inputs of the fused
            kernel, or gives False where it needs the scores; None for no such way.
        pools: Whether what an edit does to a query depends on which others are in the same pass.
        keys: Whether it edits keys. They are made before scores, so that such edits come first wherever they stand in a
            sum, also where keys are scaled in their scores.
        takes: What it is made of, beside a strength: one of :data:`TAKES`.
        make: ``make(first, strength)``, with ``first`` what :attr:`takes` says, for sweeps and the command line.
        strength: What the method calls its strength.
        adds: ``adds(edit)``: the length of the vector that is added, for a method with a direction that adds one, by
            which ``in_norms`` is shown; NaN for other methods.
    """

    name: str
    apply: "Apply"
    check: "Callable[[Edit, Any], None]"
    fuse: "Fuse | None" = None
    pools: "Callable[[Edit], bool]" = _never
    keys: bool = False
    takes: str = ""
    make: "Callable[[Any, float], Intervention] | None" = None
    strength: str = "strength"
    adds: "Callable[[Edit], float]" = _nothing

    @property
    def own(self) -> bool:
        """Whether it is none of ours."""
        return self.apply.__module__.partition(".")[0] != _OURS


def method(
    name: str,
    *,
    check: "Callable[[Edit, Any], None]" = _fits_all,
    fuse: "Fuse | None" = None,
    pools: "Callable[[Edit], bool]" = _never,
    keys: bool = False,
    takes: str = "",
    make: "Callable[[Any, float], Intervention] | None" = None,
    strength: str = "strength",
    adds: "Callable[[Edit], float]" = _nothing,
) -> "Callable[[Apply], Apply]":
    """Register the function below as what edits of this name do; see :class:`Method` for the arguments.

    Registering the same function of the same module again, as a notebook does, replaces it.

    Raises:
        MechsteerError: for a name that is no text or that another function has, or ``takes`` without ``make``.
    """
    if not isinstance(name, str) or not name:
        raise MechsteerError(f"A method's name must be a text, got {name!r}.")
    whole_text("A method's name", name)
    if bool(one_of("takes", takes, TAKES)) != (make is not None):
        raise MechsteerError(f"The method {name!r} needs both takes= and make=, or neither.")

    def register(apply: "Apply") -> "Apply":
        there = _found.get(name)
        if there is not None and _place(there.apply) != _place(apply):
            raise MechsteerError(f"There is a method {name!r} already, {':'.join(_place(there.apply))}; take another.")
        _found[name] = Method(name, apply, check, fuse, pools, keys, takes, make, strength, adds)
        return apply

    return register


def _place(function: Any) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def find(name: str) -> Method:
    """The method of that name.

    Raises:
        MechsteerError: for an unknown one, with the nearest.
    """
    if name not in METHODS:
        error = unknown("steering method", name, METHODS)
        raise MechsteerError(f"{error} If it is your own, import the module that registers it first.")
    return METHODS[name]


def made_of(takes: str) -> list[str]:
    """The names of the methods that are made of a ``"span"``, a ``"direction"`` or a ``"layer"``, and a strength."""
    return [name for name, found in METHODS.items() if found.takes == takes]


def registered(edit: "Edit") -> Method | None:
    """The method of an edit; None if its function is another than the one that is registered under its name."""
    found = METHODS.get(edit.method)
    return found if found is not None and found.apply is edit.apply else None


def on_keys(edit: "Edit") -> bool:
    """Whether an edit is of keys; see :attr:`Method.keys`."""
    found = registered(edit)
    return found is not None and found.keys


def is_own(edit: "Edit") -> bool:
    """Whether an edit's function is none that is registered, whatever its method is called."""
    return registered(edit) is None
