"""Successive halving of one method's points, with a budget of generated tokens.

1. Points that are as different as can be (:meth:`mechsteer.tuning.grids.Grid.first`) write their first tokens. Those
   that go wrong there are dropped.
2. The others answer an eighth of the prompts, the better half of them the next quarter. A prompt is answered once by
   each.
3. Neighbours of the best in depth and on the ladder (half-way to the next that was tried) answer the same prompts, and
   so does what was given up but cannot be told from the best, until it can: until it is more than a standard error of
   the paired difference behind, or of the floor of quality below that. Where the best is at the strong end, the ladder
   grows; where its quality is below the floor, what is half-way down to what is not is tried.
4. The best answers the rest of the prompts, for which a part of the budget was kept. While more is left, the same goes
   on there. A candidate that a few prompts spoke against by chance is so looked at again, for as long as there are
   tokens.

There is no bisection: adherence rises and falls with strength. Better means: not below the floor of quality (by no more
than a standard error, before all prompts are answered), then higher adherence, then quality, then less divergence. The
floor is a part of the unsteered model's quality on the same prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from mechsteer.stats import Interval, mean_interval
from mechsteer.tuning.grids import Grid
from mechsteer.tuning.halves import blocks
from mechsteer.tuning.ladders import Candidate, Way
from mechsteer.tuning.trying import FIRST_TOKENS, Runs

LEAST, MOST = 3, 8
"""The fewest and the most points that a method begins with."""

WRONG = 0.5
"""A point is dropped if so much more of its beginnings have collapsed than of the unsteered model's."""

CLOSE = 1.0
"""Standard errors by which a candidate may be behind on some prompts and still race on the next."""

FIRST_SHARE = 0.6
"""The part of the budget that the first points may take; the rest is for neighbours."""


@dataclass
class Tried:
    """One candidate and what it has answered.

    Attributes:
        candidate: The candidate.
        parts: The rows of its answers, stretch by stretch.
        tokens: How many tokens it has written, its beginnings included.
        dropped: Why it was given up before it had answered all prompts; empty where it was not.
        over: Whether that was for want of budget.
    """

    candidate: Candidate
    parts: list[pd.DataFrame] = field(default_factory=list)
    tokens: int = 0
    dropped: str = ""
    over: bool = False

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

    def run(self) -> list[Tried]:
        """All that were tried, in the order in which they were begun."""
        alive = [one for one in self._begun(self.grid.first(self._count())) if not one.dropped]
        last = len(self.blocks) - 1
        for rung in range(last):
            self._answer(alive, rung)
            alive = self._halved(alive, rung)
        if last:
            self._explore(last, reserved=self._cost(last))
        found = self.best(last) if last else None
        self._answer(alive if found is None else [found], last)
        self._explore(last + 1)
        for one in self.tried:
            if len(one.parts) <= last and not one.dropped:
                one.dropped = f"behind after {len(one.values('adherence'))} prompts"
        return self.tried

    def best(self, rungs: int | None = None) -> Tried | None:
        """The best of those that have answered so many stretches. Default: all of them."""
        least = len(self.blocks) if rungs is None else rungs
        whole = [one for one in self.tried if len(one.parts) >= least]
        return max(whole, key=lambda one: self.rank(one, least), default=None)

    def rank(self, one: Tried, rungs: int, slack: float | None = None) -> tuple[float, ...]:
        """What candidates are ordered by, the larger the better.

        Args:
            one: A candidate.
            rungs: How many of its stretches count.
            slack: By how many prompts it may be below the floor. Default: by a standard error, of all prompts by none.
        """
        adherence, quality = one.mean("adherence", rungs), one.mean("quality", rungs)
        allowed = slack if slack is not None else self._error(rungs) if rungs < len(self.blocks) else 0.0
        least = self.floor * self.unsteered.mean("quality", rungs) - allowed / self.blocks[rungs - 1][1]
        moved = self.grid.moved(one.candidate)
        return (quality >= least - 1e-9, adherence, quality, -moved)

    def _count(self) -> int:
        """How many points there are to begin with, so that halving them takes most of the budget."""
        costs = [self._cost(rung) for rung in range(len(self.blocks))]
        start = min(1.0, FIRST_TOKENS / self.runs.task.max_new_tokens) * costs[0]
        for count in range(MOST, LEAST, -1):
            left, total = count, count * start
            for cost in costs:
                total += left * cost
                left = max(1, left // 2)
            if total <= FIRST_SHARE * self.budget:
                return count
        return LEAST

    def _cost(self, rung: int) -> int:
        """The tokens that a stretch takes: as many as the unsteered model wrote."""
        return int(self.unsteered.parts[rung]["n_tokens"].sum())

    def _begun(self, candidates: Sequence[Candidate]) -> list[Tried]:
        """Candidates with their first tokens written, and dropped if they have gone wrong."""
        begun = [Tried(candidate) for candidate in candidates]
        self.tried += begun
        if begun and self.runs.task.max_new_tokens > 2 * FIRST_TOKENS:
            for one, rows in zip(begun, self.runs.many(self._ways(begun), self.blocks[0], FIRST_TOKENS), strict=True):
                one.tokens += int(rows["n_tokens"].sum())
                if float(rows["collapsed"].mean()) >= self.beginnings + WRONG:
                    one.dropped = "wrong in its first tokens"
        return begun

    def _ways(self, some: Sequence[Tried]) -> list[Way]:
        return [self.grid.way(one.candidate) for one in some]

    def _answer(self, some: Sequence[Tried], rung: int) -> None:
        """Let candidates answer a stretch."""
        tables = self.runs.many(self._ways(some), self.blocks[rung]) if some else []
        for one, rows in zip(some, tables, strict=True):
            one.parts.append(rows)
            one.tokens += int(rows["n_tokens"].sum())

    def _halved(self, alive: list[Tried], rung: int) -> list[Tried]:
        order = sorted(alive, key=lambda one: self.rank(one, rung + 1), reverse=True)
        kept = order[: max(1, len(order) // 2)]
        for one in order[len(kept) :]:
            one.dropped = f"behind after {self.blocks[rung][1]} prompts"
        return [one for one in alive if one in kept]

    def _explore(self, rungs: int, reserved: int = 0) -> None:
        """Let others race the best on so many stretches, until none is left or the budget, but for a reserve, spent."""
        while (best := self.best(rungs)) is not None and self._affordable(0, reserved):
            one = self._neighbour(best, rungs) or self._contender(best, rungs)
            if one is None:
                return
            self._race(one, best, rungs, reserved)

    def _neighbour(self, best: Tried, rungs: int) -> Tried | None:
        """A neighbour that was not tried; where the best is below the floor, one that is half-way to what is not.

        Quality, unlike adherence, falls with strength, so that its floor may be bisected.
        """
        known = {one.candidate: one for one in self.tried}
        beside = self.grid.beside(best.candidate, list(known))
        if not self.rank(best, rungs)[0]:
            sound = [c for c, one in known.items() if one.parts and self.rank(one, len(one.parts))[0]]
            beside = self.grid.between(best.candidate, sound)
        left = next((point for point in beside if point not in known), None)
        return None if left is None else self._begun([left])[0]

    def _contender(self, best: Tried, rungs: int) -> Tried | None:
        """The best of those that were given up but cannot be told from the best, now that it is known."""
        waiting = [one for one in self.tried if 0 < len(one.parts) < rungs and not one.over and self._near(one, best)]
        return max(waiting, key=lambda one: self._hope(one, best), default=None)

    def _near(self, one: Tried, best: Tried) -> bool:
        """Whether a candidate may still be the best, as far as the prompts tell that both have answered."""
        rungs = len(one.parts)
        above = self.rank(one, rungs, slack=self._error(rungs))[0]
        return above >= self.rank(best, rungs)[0] and self._hope(one, best) > 0

    def _error(self, rungs: int) -> float:
        """The standard error of quality at the floor on some stretches, in prompts; at least one."""
        return max(1.0, math.sqrt(self.floor * (1 - self.floor) * self.blocks[rungs - 1][1]))

    def _hope(self, one: Tried, best: Tried) -> float:
        """By how much it may be ahead of the best: the mean difference on the prompts of both, and its standard error.

        One prompt that changed is counted beside those that were seen, or few prompts would have no error.
        """
        pairs = zip(one.values("adherence"), best.values("adherence", len(one.parts)), strict=True)
        difference = [a - b for a, b in pairs]
        n, mean = len(difference), math.fsum(difference) / len(difference)
        squares = math.fsum((d - mean) ** 2 for d in difference)
        return mean + CLOSE * math.sqrt((squares + 1) / (n + 1) / n)

    def _affordable(self, rung: int, reserved: int = 0) -> bool:
        return self.spent + self._cost(rung) + reserved <= self.budget

    def _race(self, one: Tried, best: Tried, rungs: int, reserved: int) -> None:
        """Let a candidate answer on until it is behind the best."""
        if one.dropped.startswith("wrong"):
            return
        one.dropped = ""
        for rung in range(len(one.parts), rungs):
            answered = len(one.values("adherence"))
            if not self._affordable(rung, reserved):
                one.dropped, one.over = f"the budget ended after {answered} prompts", True
                return
            self._answer([one], rung)
            if rung + 1 < rungs and not self._near(one, best):
                one.dropped = f"behind after {self.blocks[rung][1]} prompts"
                return
