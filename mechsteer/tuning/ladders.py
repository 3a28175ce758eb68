"""The ways to steer that are tuned: each with its number, a ladder of strengths for it, and what goes beyond.

Ladders go from weak to strong. Vectors have theirs in shares of the stream's norm (``Direction.activation_norm``), so
that one ladder fits every layer of every model; attention methods have the number of their paper.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from mechsteer.decoding import Directer, Strategy
from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError, listed, unknown
from mechsteer.steering import Intervention, add, attention_bias, pasta, project, scale_keys, spotlight


class Way(NamedTuple):
    """What is given to ``generate``."""

    steer: Intervention | None = None
    strategy: Strategy | None = None


@dataclass(frozen=True)
class Family:
    """One way to steer.

    Attributes:
        argument: What its number is.
        ladder: Strengths, from weak to strong.
        stronger: The next one beyond a strength; None where the method has no stronger one.
        make: The way of a strength; of families of vectors, of a strength and a direction.
        kind: ``"span"`` (acts on the instruction's span), ``"gate"`` (the same, as a strategy) or ``"vector"`` (needs a
            direction at a layer).
    """

    argument: str
    ladder: tuple[float, ...]
    stronger: Callable[[float], float | None]
    make: Callable[..., Way]
    kind: str = "span"


def _added(share: float, d: Direction) -> Way:
    return Way(add(d, share * d.activation_norm, scope="content"))


def _projected(share: float, d: Direction) -> Way:
    """The projection that states without the instruction have, moved by a share of the norm."""
    without = d.mean_projection - d.norm
    return Way(project(d, target=without + share * d.activation_norm, scope="content"))


SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "guide": Family(
            "delta (nats)",
            (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0),
            lambda s: 1.5 * s if s < 50 else None,
            lambda s: Way(attention_bias("instruction", s)),
        ),
        "spotlight": Family(
            "target (share of attention)",
            (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9),
            lambda s: (1 + s) / 2 if s < 0.99 else None,
            lambda s: Way(spotlight("instruction", s)),
        ),
        "pasta": Family(
            "alpha",
            (0.9, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.03, 0.01, 0.003, 0.001),
            lambda s: s / 3 if s > 1e-8 else None,
            lambda s: Way(pasta("instruction", s)),
        ),
        "scale_keys": Family(
            "alpha",
            (1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 3.0, 4.0, 6.0, 10.0, 100.0),
            lambda s: 10 * s if s < 1e6 else None,
            lambda s: Way(scale_keys("instruction", s)),
        ),
        "directer": Family(
            "beta",
            (0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02),
            lambda s: s / 2 if s > 1e-6 else None,
            lambda s: Way(strategy=Directer(beta=s)),
            "gate",
        ),
        "vector": Family("share of the activation norm", SHARES, lambda s: 1.5 * s, _added, "vector"),
        "project": Family("share of the activation norm", SHARES, lambda s: 1.5 * s, _projected, "vector"),
    }
)
"""By name. ``vector`` adds the difference in means of the prompts with and without their instruction, ``project`` sets
the projection on it; both at all positions but the first."""

ALIASES: Mapping[str, str] = MappingProxyType({"add": "vector", "attention_bias": "guide"})
"""Other names of families: those of the functions."""

DEFAULT = ("guide", "spotlight", "pasta", "scale_keys", "directer", "vector", "project")

LAYERS = 6
"""At most so many layers are tried for a vector."""


def families_of(names: str | Sequence[str]) -> dict[str, Family]:
    """The families of some names, each once.

    Raises:
        MechsteerError: for no names or an unknown one.
    """
    chosen = [names] if isinstance(names, str) else listed("methods", names)
    if not chosen:
        raise MechsteerError(f"methods must name at least one of {', '.join(FAMILIES)}, got none.")
    found: dict[str, Family] = {}
    for given in chosen:
        name = ALIASES.get(given, given) if isinstance(given, str) else given
        if name not in FAMILIES:
            raise unknown("method", given, [*FAMILIES, *ALIASES])
        found[name] = FAMILIES[name]
    return found


def layers_tried(count: int) -> list[int]:
    """The layers that vectors are tried at: all of few, else six from 15 % to 85 % of the depth."""
    if count <= LAYERS:
        return list(range(count))
    return sorted({round((0.15 + 0.7 * place / (LAYERS - 1)) * (count - 1)) for place in range(LAYERS)})


@dataclass(frozen=True)
class Candidate:
    """One setting of one family.

    Attributes:
        method: The family's name.
        strength: Its number.
        layer: Where a vector acts; -1 for families without.
    """

    method: str
    strength: float
    layer: int = -1

    @property
    def name(self) -> str:
        """For people: ``guide 1.5``, ``vector 0.2 at layer 3``."""
        at = f" at layer {self.layer}" if self.layer >= 0 else ""
        return f"{self.method} {self.strength:g}{at}"

    def way(self, directions: Mapping[int, Direction]) -> Way:
        """What it does; ``directions`` by layer, for families of vectors."""
        family = FAMILIES[self.method]
        made: Any = (self.strength, directions[self.layer]) if family.kind == "vector" else (self.strength,)
        return family.make(*made)
