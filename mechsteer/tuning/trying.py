"""Running ways to steer on stretches of prompts, each once: what makes a killed tuning go on where it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mechsteer.comparison.summary import score_column, shares
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import evaluate
from mechsteer.identity import cell_key
from mechsteer.steering.intervention import side_by_side
from mechsteer.studies.core.cells import cell
from mechsteer.tuning.ladders import Way

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST_TOKENS = 12
"""So many tokens say whether an answer goes wrong from its beginning."""


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
        return self.many([way], stretch, limit)[0]

    def many(
        self, ways: Sequence[Way], stretch: tuple[int, int] | None = None, limit: int | None = None
    ) -> list[pd.DataFrame]:
        """The same for several ways; those without a strategy are computed together, each on rows of its own."""
        first, end = stretch or (0, len(self.task.samples))
        longest = min(limit or self.task.max_new_tokens, self.task.max_new_tokens)
        part = replace(self.task, samples=tuple(self.task.samples[first:end]), max_new_tokens=longest)
        if len(ways) > 1 and all(way.strategy is None for way in ways):
            found = self._together(part, ways)
        else:
            found = [self._kept(part, way) for way in ways]
        return [self._counted(table) for table in found]

    def _together(self, part: Any, ways: Sequence[Way]) -> list[pd.DataFrame]:
        """One batch in which every prompt stands once for each way: small batches take a model hardly less time."""
        size = len(part.samples)
        steer = side_by_side([way.steer for way in ways], size)
        table = self._kept(replace(part, samples=part.samples * len(ways)), Way(steer))
        parts = [table.iloc[number * size : (number + 1) * size].reset_index(drop=True) for number in range(len(ways))]
        return [one.assign(sample=range(size)) for one in parts]

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
        def compute() -> pd.DataFrame:
            how = {"steer": way.steer, "strategy": way.strategy, "batch_size": self.batch_size}
            return evaluate(self.model, part, quality=True, **how)

        if self.out is None:
            return compute()
        return cell(self.out, cell_key(self.model, part, way.steer, way.strategy, {"quality": True}), compute)


def kept_number(out: Path | None, key: Callable[[], str], compute: Callable[[], float]) -> float:
    """A number, read where it was computed before."""
    if out is None:
        return compute()
    return float(cell(out, key(), lambda: pd.DataFrame({"value": [compute()]}))["value"].iloc[0])
