"""Successive halving of one method's points, with a budget of generated tokens.

1. Points that are as different as can be (:meth:`mechsteer.tuning.grids.Grid.first`) write the first tokens of three
   answers. Those that go wrong there are dropped.
2. The others answer an eighth of the prompts, the better half of them another eighth.
3. Then, an eighth at a time, that point answers on, tried or not, of which to know more is expected to gain most: by
   draws of what each would score on all prompts, given what was seen (:mod:`mechsteer.tuning.belief`). Where the strong
   end is most likely the best, the ladder grows. It ends when nothing is to be gained, or when no more of the budget is
   left than the one that is expected to be the best needs for the rest of the prompts.

There is no bisection: adherence rises and falls with strength. Better means: not below the floor of quality, then
higher adherence, then quality, then less divergence. The floor is a part of the unsteered model's quality on the same
prompts.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from mechsteer.stats import Interval, mean_interval
from mechsteer.tuning.belief import draws, gained, kernel, posterior
from mechsteer.tuning.grids import Grid
from mechsteer.tuning.halves import blocks
from mechsteer.tuning.ladders import FAMILIES, Candidate
from mechsteer.tuning.trying import FIRST_TOKENS, Asked, Runs

LEAST, MOST = 3, 8
"""The fewest and the most points that a method begins with."""

BEGINNINGS = (0, 3)
"""The prompts whose answers are begun."""

WRONG = 0.5
"""A point is dropped if so much more of its beginnings have collapsed than of the unsteered model's."""

FIRST_SHARE = 0.6
"""The part of the budget that the first points may take, and the best of them to the end."""

GAIN = 1e-3
"""A point of which to know more is expected to gain less, in parts of the largest score, answers no more."""

BATCH, GATE_BATCH = 6, 12
"""Points answer together until so many answers are written at once: of fewer, each takes a model nearly as long. What
other methods ask for is written with them, but for gates, whose own batch must be larger."""

LIKELY = 0.5
"""Where the strong end leads and has this chance to be the best, or has answered all prompts, the ladder grows."""

LIFT = 2.0
"""What it counts to be above the floor: more than any adherence, in parts of the largest score."""


Found = TypeVar("Found")
Steps = Generator[list[Asked], list[pd.DataFrame], Found]
"""Asks for answers, and is sent their tables."""


@dataclass(eq=False)
class Tried:
    """One candidate and what it has answered.

    Attributes:
        candidate: The candidate.
        parts: The rows of its answers, stretch by stretch.
        tokens: How many tokens it has written, its beginnings included.
        dropped: Why it was given up before it had answered all prompts; empty where it was not.
    """

    candidate: Candidate
    parts: list[pd.DataFrame] = field(default_factory=list)
    tokens: int = 0
    dropped: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it went wrong in its first tokens."""
        return bool(self.dropped) and not self.parts

    def values(self, name: str, rungs: int | None = None) -> list[float]:
        """A column over the prompts of the first stretches. Default: of all that were answered."""
        return [float(value) for part in self.parts[:rungs] for value in part[name]]

    def mean(self, name: str, rungs: int | None = None) -> float:
        """Its mean; NaN where nothing was answered."""
        values = self.values(name, rungs)
        return math.fsum(values) / len(values) if values else math.nan

    def interval(self, name: str) -> Interval:
        """Its mean over all that was answered, with the interval."""
        return mean_interval(self.values(name))


@dataclass
class Search:
    """The search of one method.

    Attributes:
        grid: Its points.
        runs: Evaluations on the validation prompts.
        unsteered: What the unsteered model answered.
        beginnings: The share of the unsteered model's beginnings that have collapsed.
        floor: The least quality, as a part of the unsteered model's.
        budget: How many tokens may be generated.
        tried: The candidates so far.
    """

    grid: Grid
    runs: Runs
    unsteered: Tried
    beginnings: float
    floor: float
    budget: int
    tried: list[Tried] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blocks = blocks(len(self.runs.task.samples))

    @property
    def spent(self) -> int:
        """How many tokens the method has generated."""
        return sum(one.tokens for one in self.tried)

    def steps(self) -> Steps[None]:
        """The search: yields what it asks for, is sent the tables of it, and fills :attr:`tried`."""
        alive = yield from self._begun([Tried(point) for point in self.grid.first(self._count())])
        if not self.tried:
            return
        yield from self._answer(alive)
        if len(self.blocks) > 1:
            worth = self._worth().mean(0)
            yield from self._answer(sorted(alive, key=lambda one: -worth[self._place(one)])[: len(alive) // 2])
        while some := (yield from self._next()):
            yield from self._answer(some)
        for one in self.tried:
            if len(one.parts) < len(self.blocks) and not one.dropped:
                one.dropped = f"behind after {len(one.values('adherence'))} prompts"

    def best(self) -> Tried | None:
        """The best of those that have answered all prompts."""
        return max(filter(self._whole, self.tried), key=self.rank, default=None)

    def rank(self, one: Tried) -> tuple[float, ...]:
        """What candidates are ordered by, the larger the better: above the floor, adherence, quality, divergence."""
        least = self.floor * self.unsteered.mean("quality", len(one.parts))
        quality = one.mean("quality")
        return (quality >= least - 1e-9, one.mean("adherence"), quality, -self.grid.moved(one.candidate))

    def _whole(self, one: Tried) -> bool:
        return len(one.parts) == len(self.blocks)

    def _count(self) -> int:
        """How many points there are to begin with."""
        costs = [self._cost(rung) for rung in range(len(self.blocks))]
        start = self._start + costs[0]
        for count in range(MOST, LEAST, -1):
            if count * start + count // 2 * sum(costs[1:2]) + sum(costs[2:]) <= FIRST_SHARE * self.budget:
                return count
        return LEAST

    def _cost(self, rung: int) -> int:
        """The tokens that a stretch takes: as many as the unsteered model wrote."""
        return int(self.unsteered.parts[rung]["n_tokens"].sum())

    @property
    def _start(self) -> int:
        """The tokens that beginnings take; none where answers are so short that they are not worth it."""
        return BEGINNINGS[1] * FIRST_TOKENS if self.runs.task.max_new_tokens > 2 * FIRST_TOKENS else 0

    def _begun(self, begun: Sequence[Tried]) -> Steps[list[Tried]]:
        """Let candidates write their first tokens; those that have not gone wrong there."""
        self.tried += begun
        if begun and self._start:
            tables = yield self._asked(begun, BEGINNINGS, FIRST_TOKENS)
            for one, rows in zip(begun, tables, strict=True):
                one.tokens += int(rows["n_tokens"].sum())
                if float(rows["collapsed"].mean()) >= self.beginnings + WRONG:
                    one.dropped = "wrong in its first tokens"
        return [one for one in begun if not one.dropped]

    def _asked(self, some: Sequence[Tried], stretch: tuple[int, int], limit: int | None = None) -> list[Asked]:
        return [Asked(self.grid.way(one.candidate), stretch, limit) for one in some]

    def _answer(self, some: Sequence[Tried]) -> Steps[None]:
        """Let candidates that have answered equally many prompts answer the next stretch."""
        tables = (yield self._asked(some, self.blocks[len(some[0].parts)])) if some else []
        for one, rows in zip(some, tables, strict=True):
            one.parts.append(rows)
            one.tokens += int(rows["n_tokens"].sum())

    def _next(self) -> Steps[list[Tried]]:
        """Who answers next, as the budget allows; nobody at the end."""
        while (leader := self._leader(worth := self._worth())) is not None:
            points, known = self.grid.points(), {one.candidate: one for one in self.tried}
            place = self._place(leader)
            likely = self._whole(leader) or (worth.argmax(1) == place).mean() >= LIKELY
            if likely and self.grid.grow(leader.candidate):
                continue
            gains = gained(worth, place)
            order = [point for point in np.argsort(-gains, kind="stable").tolist() if gains[point] >= GAIN]
            some = [known.get(points[point]) or Tried(points[point]) for point in order]
            found = self._together([one for one in some if not self._whole(one)], leader)
            if not found:
                return [] if self._whole(leader) else [leader]
            if left := found if found[0].parts else (yield from self._begun(found)):
                return left
        return []

    def _together(self, some: Sequence[Tried], leader: Tried) -> list[Tried]:
        """The first that the budget allows; of those after it that are as far, so many that a batch is worth it."""
        found: list[Tried] = []
        gate = FAMILIES[self.grid.method].kind == "gate"
        for one in some:
            alike = not found or len(one.parts) == len(found[0].parts)
            if alike and self._affordable([*found, one], leader):
                found.append(one)
                first, end = self.blocks[len(one.parts)]
                if len(found) * (end - first) >= (GATE_BATCH if gate else BATCH):
                    break
        return found

    def _leader(self, worth: Float[np.ndarray, "draws points"]) -> Tried | None:
        """Who is expected to be the best, of those that can answer the rest with what is left of the budget."""
        begun = [one for one in self.tried if one.parts]
        enough = max(self.budget - self.spent, min(map(self._rest, begun), default=0))
        allowed = [one for one in begun if self._rest(one) <= enough]
        return max(allowed, key=lambda one: worth[:, self._place(one)].mean(), default=None)

    def _affordable(self, some: Sequence[Tried], leader: Tried) -> bool:
        """Whether they can answer one stretch more, and the leader then the rest."""
        cost = sum(self._cost(len(one.parts)) + (0 if one.parts else self._start) for one in some if one is not leader)
        return self.spent + cost + self._rest(leader) <= self.budget

    def _rest(self, one: Tried) -> int:
        """The tokens that the prompts take which it has not answered."""
        return sum(map(self._cost, range(len(one.parts), len(self.blocks))))

    def _place(self, one: Tried) -> int:
        return self.grid.points().index(one.candidate)

    def _worth(self) -> Float[np.ndarray, "draws points"]:
        """Draws of what every point is worth on all prompts: its adherence, and more if it is above the floor."""
        points, unsteered = self.grid.points(), self.unsteered
        top = max(abs(value) for one in [unsteered, *self.tried] for value in one.values("adherence")) or 1.0
        least = self.floor * unsteered.mean("quality")
        worth = self._drawn(points, "adherence", top)
        worth += LIFT * (self._drawn(points, "quality", 1.0).clip(0) >= least)
        for one in self.tried:
            if one.wrong:
                worth[:, points.index(one.candidate)] = -LIFT
            elif self._whole(one):
                above, adherence, *_ = self.rank(one)
                worth[:, points.index(one.candidate)] = adherence / top + LIFT * above
        return worth

    def _drawn(self, points: Sequence[Candidate], name: str, top: float) -> Float[np.ndarray, "draws points"]:
        """Draws of the mean that each point would have over all prompts, in parts of the largest score.

        The unsteered model is a point too, before the weakest.
        """
        places = [*self.grid.places(points), (0.5, -1 / max(1, len(points) - 1))]
        answered = [*((points.index(one.candidate), one) for one in self.tried), (len(points), self.unsteered)]
        seen = {(p, rung): float(rows[name].mean()) / top for p, one in answered for rung, rows in enumerate(one.parts)}
        sizes = [end - first for first, end in self.blocks]
        mean, covariance = posterior(kernel(places), sizes, seen, self.unsteered.mean(name) / top)
        return draws(mean[:-1], covariance[:-1, :-1], seed=len(name))
