"""The points of one method: strengths by layer, how far each moves the model, and which to try first."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mechsteer.directions import Direction
from mechsteer.tuning.ladders import FAMILIES, Candidate, Way

STILL = 1e-4
"""Nats: a way that moves less than this (95th percentile) writes what the unsteered model writes."""

Measure = Callable[[Way], float]
"""The divergence of a way."""


@dataclass
class Grid:
    """One method's points.

    Attributes:
        method: Its name.
        directions: By layer, for methods that need one.
        measure: The divergence of a way.
        ladder: The strengths, from weak to strong; it grows.
        divergence: Of each candidate that was measured.
    """

    method: str
    directions: Mapping[int, Direction]
    measure: Measure
    ladder: list[float] = field(default_factory=list)
    divergence: dict[Candidate, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ladder = self.ladder or list(FAMILIES[self.method].ladder)

    @property
    def layers(self) -> list[int]:
        """The layers; -1 alone for methods without."""
        return list(self.directions) if FAMILIES[self.method].kind == "vector" else [-1]

    @property
    def size(self) -> int:
        """How many points the full grid has."""
        return len(self.layers) * len(FAMILIES[self.method].ladder)

    def at(self, place: int, layer: int) -> Candidate:
        """The candidate of a place on the ladder."""
        return Candidate(self.method, self.ladder[place], layer)

    def way(self, candidate: Candidate) -> Way:
        """What a candidate does."""
        return candidate.way(self.directions)

    def moved(self, candidate: Candidate) -> float:
        """How far a candidate moves the model."""
        if candidate not in self.divergence:
            self.divergence[candidate] = self.measure(self.way(candidate))
        return self.divergence[candidate]

    def points(self) -> list[Candidate]:
        """All points that move the model at all, layer by layer, weak before strong."""
        every = [self.at(place, layer) for layer in self.layers for place in range(len(self.ladder))]
        return [point for point in every if self._moves(point)]

    def _moves(self, point: Candidate) -> bool:
        """Whether it does anything; of a gate, whose divergence takes new tokens, it is not asked."""
        return FAMILIES[self.method].kind == "gate" or self.moved(point) >= STILL

    def first(self, count: int) -> list[Candidate]:
        """So many points, as different as can be: each the one that is farthest from those before it.

        The distance is by depth and by rank of the divergence; of gates by rank of the strength. The first point is the
        middle one.
        """
        points = self.points()
        places = self.places(points)
        if not points:
            return []
        centre = [sum(axis) / len(places) for axis in zip(*places, strict=True)]
        chosen = [min(range(len(points)), key=lambda i: _distance(places[i], centre))]
        while len(chosen) < min(count, len(points)):
            left = [i for i in range(len(points)) if i not in chosen]
            chosen.append(max(left, key=lambda i: min(_distance(places[i], places[j]) for j in chosen)))
        return [points[i] for i in sorted(chosen)]

    def places(self, points: Sequence[Candidate]) -> list[tuple[float, float]]:
        """Depth of each point, and rank of its divergence (of gates, of its strength), from 0 to 1."""
        gate = FAMILIES[self.method].kind == "gate"
        by = [float(self.ladder.index(p.strength)) if gate else self.moved(p) for p in points]
        ranks = {value: rank for rank, value in enumerate(sorted(set(by)))}
        layers = {layer: rank for rank, layer in enumerate(self.layers)}
        deep, strong = max(1, len(layers) - 1), max(1, len(ranks) - 1)
        return [(layers[p.layer] / deep, ranks[value] / strong) for p, value in zip(points, by, strict=True)]

    def grow(self, candidate: Candidate) -> bool:
        """Make the ladder longer if a candidate is at its strong end and its method has a stronger one."""
        beyond = FAMILIES[self.method].stronger(candidate.strength) if candidate.strength == self.ladder[-1] else None
        self.ladder += [] if beyond is None else [beyond]
        return beyond is not None

    def is_edge(self, candidate: Candidate, tried: Sequence[Candidate]) -> bool:
        """Whether nothing stronger was tried in its layer; at the weak end is the unsteered model."""
        place = self.ladder.index(candidate.strength)
        stronger = [c for c in tried if c.layer == candidate.layer and self.ladder.index(c.strength) > place]
        return not stronger


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return math.dist(a, b)
