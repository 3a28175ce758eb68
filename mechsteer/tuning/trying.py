"""Running ways to steer on stretches of prompts, each once: what makes a killed tuning go on where it was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from mechsteer.comparison.summary import score_column, shares
from mechsteer.decoding import Directer
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import evaluate
from mechsteer.evaluation_run import scored_again
from mechsteer.identity import cell_key
from mechsteer.quality.columns import as_numbers
from mechsteer.steering.intervention import side_by_side
from mechsteer.studies.core.cells import cell
from mechsteer.tuning.ladders import Way

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST_TOKENS = 12
"""So many tokens say whether an answer goes wrong from its beginning."""

PART = 2
"""So many times ``batch_size`` answers, at most, are one part of what was computed: a killed tuning loses no more."""


class Asked(NamedTuple):
    """Answers that are wanted.

    Attributes:
        way: How to steer.
        stretch: First prompt and end; None for all.
        limit: The most new tokens, where that is less than the task's.
    """

    way: Way
    stretch: tuple[int, int] | None = None
    limit: int | None = None


@dataclass
class Runs:
    """Evaluations of one task.

    Attributes:
        model: A loaded model.
        task: The task.
        out: The folder for what was computed; None for none.
        batch_size: Prompts computed together.
        score: The column that says how well a prompt was followed; None for the task's own.
        bar: Counts tokens.
    """

    model: Any
    task: Any
    out: Path | None
    batch_size: int
    score: str | None = None
    bar: "tqdm[Any] | None" = None

    def rows(self, way: Way, stretch: tuple[int, int] | None = None, limit: int | None = None) -> pd.DataFrame:
        """The rows of some prompts, and what counts in each.

        Args:
            way: How to steer.
            stretch: First prompt and end. Default: all.
            limit: The most new tokens, where that is less than the task's.

        Returns:
            The columns of :func:`mechsteer.evaluate`, and ``followed`` (the task's score), ``adherence`` (the same, 0
            where the answer has collapsed) and ``quality`` (0 where it has collapsed, else 1, or its ``fidelity``).

        Raises:
            MechsteerError: for a task that has more or less than one answer a prompt, another score, or one that is not
                from 0 to 1.
        """
        return self.many([Asked(way, stretch, limit)])[0]

    def many(self, asked: Sequence[Asked]) -> list[pd.DataFrame]:
        """The same for several: as many answers as may be are computed together, each on a row of its own."""
        found: dict[int, pd.DataFrame] = {}
        for places in self._parts(asked):
            found |= zip(places, self._together([asked[place] for place in places]), strict=True)
        return [self._counted(found[place]) for place in range(len(asked))]

    def _parts(self, asked: Sequence[Asked]) -> list[list[int]]:
        """What is computed together: of one limit and one strategy (of DIRECTER's, whatever beta), in equal parts."""
        alike: dict[Any, list[int]] = {}
        for place, one in enumerate(asked):
            gate = one.way.strategy
            kind = repr(replace(gate, beta=1.0) if isinstance(gate, Directer) else gate)
            alike.setdefault((one.limit, kind), []).append(place)
        parts: list[list[int]] = []
        for places in alike.values():
            sizes = [len(self._samples(asked[place])) for place in places]
            count = -(-sum(sizes) // (PART * self.batch_size))
            ends = [-(-end * count // sum(sizes)) for end in accumulate(sizes)]
            parts += [[p for p, e in zip(places, ends, strict=True) if e == number + 1] for number in range(count)]
        return [part for part in parts if part]

    def _samples(self, one: Asked) -> tuple[Any, ...]:
        first, end = one.stretch or (0, len(self.task.samples))
        return tuple(self.task.samples[first:end])

    def _together(self, asked: Sequence[Asked]) -> list[pd.DataFrame]:
        """One run in which every prompt stands once for each way: small batches take a model hardly less time."""
        samples = [self._samples(one) for one in asked]
        sizes = list(map(len, samples))
        longest = min(asked[0].limit or self.task.max_new_tokens, self.task.max_new_tokens)
        part = replace(self.task, samples=tuple(chain.from_iterable(samples)), max_new_tokens=longest)
        table = self._kept(part, asked[0].way if len(asked) == 1 else _joined([one.way for one in asked], sizes))
        ends = accumulate(sizes)
        parts = [table.iloc[end - size : end].reset_index(drop=True) for end, size in zip(ends, sizes, strict=True)]
        return [one.assign(sample=range(len(one))) for one in parts]

    def _counted(self, table: pd.DataFrame) -> pd.DataFrame:
        if "n_tokens" not in table or "collapsed" not in table:
            raise MechsteerError(f"tune needs a task with one generated answer a prompt; {self.task.name!r} is none.")
        if self.bar is not None:
            self.bar.update(int(table["n_tokens"].sum()))
        sound = ~table["collapsed"].astype(bool)
        followed = shares(table, score_column(table, self.score))
        true = table["fidelity"].fillna(1.0).astype(float) if "fidelity" in table else 1.0
        return table.assign(followed=followed, adherence=followed * sound, quality=true * sound)

    def _kept(self, part: Any, way: Way) -> pd.DataFrame:
        new = []

        def compute() -> pd.DataFrame:
            new.append(True)
            how = {"steer": way.steer, "strategy": way.strategy, "batch_size": self.batch_size}
            return evaluate(self.model, part, quality=True, **how)

        if self.out is None:
            return compute()
        table = cell(self.out, cell_key(self.model, part, way.steer, way.strategy, {"quality": True}), compute)
        # What is kept are answers; their scores are those of the check of now, of which the key does not know all.
        return table if new else as_numbers(scored_again(part, table))


def all_or_each(asked: Mapping[str, Any], run: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """What a run of all that is asked gives, by name; where it raises, of each by itself, or why it could not be."""
    if not asked:
        return {}
    try:
        return dict(run(asked))
    except MechsteerError as error:
        if len(asked) == 1:
            return dict.fromkeys(asked, str(error))
        return {name: all_or_each({name: one}, run)[name] for name, one in asked.items()}


def _joined(ways: Sequence[Way], sizes: Sequence[int]) -> Way:
    """Ways that have one strategy, or DIRECTER's with several betas, each for so many prompts of one list."""
    steer, gate = side_by_side([way.steer for way in ways], sizes), ways[0].strategy
    if isinstance(gate, Directer):
        betas = [getattr(way.strategy, "beta", 1.0) for way in ways]
        gate = replace(gate, beta=tuple(beta for beta, size in zip(betas, sizes, strict=True) for _ in range(size)))
    return Way(steer if steer.edits else None, gate)


def kept_number(out: Path | None, key: Callable[[], str], compute: Callable[[], float]) -> float:
    """A number, read where it was computed before."""
    if out is None:
        return compute()
    return float(cell(out, key(), lambda: pd.DataFrame({"value": [compute()]}))["value"].iloc[0])
