"""The methods that the explorer offers: what moves their sliders, and the lines of Python that each comes to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mechsteer.decoding import Directer
from mechsteer.directions import Direction, difference_in_means, random_direction
from mechsteer.errors import MechsteerError, unknown
from mechsteer.explorer.calls import Call, Line, Name
from mechsteer.steering import add, attention_bias, pasta, scale_keys, spotlight

LAYERS = ("several", "one", "none")
"""How a method takes layers."""


@dataclass(frozen=True)
class Chosen:
    """What a method's lines are made from.

    Attributes:
        strength: The number at its slider.
        layers: The layers to act in, from 0; None for all.
        heads: How many heads a layer has.
        norm: ``norm(site)`` measures how long the prompt's last state is there.
        site: ``site(layer)`` names the residual stream after a layer.
        direction: The file of a saved direction, if one was given.
    """

    strength: float
    layers: tuple[int, ...] | None
    heads: int
    norm: Callable[[str], float]
    site: Callable[[int], str]
    direction: str | None = None


@dataclass(frozen=True)
class Control:
    """One method.

    Attributes:
        label: What it is called on the page.
        strength: What its strength is called.
        says: What the strength does, in a sentence.
        strengths: What its slider can be moved to; the one that changes nothing is among them, if there is one.
        start: Where the slider begins.
        grid: The strengths that are compared beside each other.
        lines: Its lines of Python: they make ``steer`` or ``strategy``.
        layers: One of :data:`LAYERS`.
        without: Whether the lines need ``without``, the prompt without its instruction.
    """

    label: str
    strength: str
    says: str
    strengths: tuple[float, ...]
    start: float
    grid: tuple[float, ...]
    lines: Callable[[Chosen], Sequence[Line]]
    layers: str = "several"
    without: bool = False


def _on_span(function: Callable[..., Any], strength: str) -> Callable[[Chosen], Sequence[Line]]:
    def lines(chosen: Chosen) -> Sequence[Line]:
        named: dict[str, Any] = {strength: chosen.strength}
        if chosen.layers is not None and function is pasta:
            named["heads"] = [(layer, head) for layer in chosen.layers for head in range(chosen.heads)]
        elif chosen.layers is not None:
            named["layers"] = list(chosen.layers)
        return [Line(["steer"], Call(function, ("instruction",), named))]

    return lines


def _directer(chosen: Chosen) -> Sequence[Line]:
    return [Line(["strategy"], Call(Directer, (), {"beta": chosen.strength}))]


def _layer(chosen: Chosen) -> int:
    return 0 if chosen.layers is None else chosen.layers[0]


def _added(chosen: Chosen, site: str, made: Call) -> Sequence[Line]:
    """A direction and its addition; the strength is in norms of the prompt's last state at the site."""
    scale = float(f"{chosen.strength * chosen.norm(site):.4g}")
    return [Line(["direction"], made), Line(["steer"], Call(add, (Name("direction"), scale)))]


def _random(chosen: Chosen) -> Sequence[Line]:
    layer = _layer(chosen)
    return _added(chosen, chosen.site(layer), Call(random_direction, (Name("model"),), {"seed": 0, "layer": layer}))


def _contrast(chosen: Chosen) -> Sequence[Line]:
    layer, pairs = _layer(chosen), [(Name("prompt"), Name("without"))]
    made = Call(difference_in_means, (Name("model"), pairs), {"layer": layer})
    return _added(chosen, chosen.site(layer), made)


def _from_file(chosen: Chosen) -> Sequence[Line]:
    assert chosen.direction is not None
    return _added(chosen, Direction.load(chosen.direction).site, Call(Direction.load, (chosen.direction,)))


_RELATIVE = tuple(number / 10 for number in range(-20, 21))
_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_AT_LAYER = "times the length of the prompt's last state at that layer"


def _vector(label: str, says: str, lines: Callable[[Chosen], Sequence[Line]], layers: str = "one") -> Control:
    """A method that adds a direction; its strength is in lengths of the prompt's last state there."""
    return Control(label, "strength", says, _RELATIVE, 0.5, (-0.5, 0.0, 0.2, 0.5, 1.0, 2.0), lines, layers)


CONTROLS: Mapping[str, Control] = {
    "guide": Control(
        "GUIDE",
        "delta",
        "nats added to the attention scores of the instruction",
        tuple(number / 4 for number in range(-8, 25)),
        1.0,
        (0.0, 0.5, 1.0, 2.0, 4.0, 6.0),
        _on_span(attention_bias, "delta"),
    ),
    "pasta": Control(
        "PASTA",
        "alpha",
        "times the attention to everything but the instruction",
        (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.01, 0.001),
        0.3,
        (1.0, 0.5, 0.2, 0.1, 0.03, 0.01),
        _on_span(pasta, "alpha"),
    ),
    "spotlight": Control(
        "SpotLight",
        "target",
        "of each query's attention, at least, is on the instruction",
        _SHARES,
        0.1,
        (0.0, 0.1, 0.2, 0.3, 0.5, 0.7),
        _on_span(spotlight, "target"),
    ),
    "scale_keys": Control(
        "Scaled keys",
        "alpha",
        "times the keys of the instruction",
        (1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0),
        1.5,
        (1.0, 1.2, 1.5, 2.0, 5.0, 100.0),
        _on_span(scale_keys, "alpha"),
    ),
    "directer": Control(
        "DIRECTER",
        "beta",
        "of the best token's unsteered probability, at least, has a steered token",
        (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01),
        0.5,
        (1.0, 0.7, 0.5, 0.3, 0.1, 0.01),
        _directer,
        "none",
    ),
    "contrast": replace(
        _vector("Instruction vector", f"{_AT_LAYER}: with the instruction minus without it", _contrast), without=True
    ),
    "random": _vector("Random vector", f"{_AT_LAYER}: the control of every vector", _random),
    "vector": _vector(
        "Saved vector", "times the length of the prompt's last state at the vector's site", _from_file, "none"
    ),
}
"""The methods by name."""


def control(name: str, direction: str | None = None) -> Control:
    """The method of that name.

    Raises:
        MechsteerError: for an unknown one, or ``vector`` where no direction was given.
    """
    if name not in CONTROLS:
        raise unknown("method", name, CONTROLS)
    if name == "vector" and direction is None:
        raise MechsteerError("The method 'vector' needs the file of a direction: ms.explore(..., direction=FILE).")
    return CONTROLS[name]
