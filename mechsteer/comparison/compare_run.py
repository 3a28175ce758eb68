"""Run a task under several ways to steer, and hold what came out."""

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.earlier import FIGURE, RECORD, keep_earlier
from mechsteer.comparison.html_report import part, report_of, side_by_side
from mechsteer.comparison.summary import repeats, score_column, summarise
from mechsteer.decoding import Strategy
from mechsteer.errors import MechsteerError, shown, whole_text
from mechsteer.evaluation import Task, timed
from mechsteer.evaluation_run import Run
from mechsteer.files import as_path, digest, read_record, read_table, writable_dir, written_together
from mechsteer.html_report import write
from mechsteer.html_report.page import NAME as PAGE
from mechsteer.plots import save
from mechsteer.plots.comparison import comparison_figure
from mechsteer.report import show
from mechsteer.running_command import command, running
from mechsteer.steering import Intervention, as_intervention, several

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LONGEST = 200
"""Letters of a method's name, which may be a path, in that of its folder."""

SHOWN = 5
"""Prompts in the text and in a notebook."""


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        rows: The rows of :func:`mechsteer.evaluate` for each method, with its ``name`` first.
        summary: One row a method; see :func:`mechsteer.comparison.summary.summarise`.
        score: The column of ``rows`` that counts as adherence.

    Example:
        >>> found = ms.compare(model, task, {"unsteered": None, "SpotLight": ms.spotlight()}, quality=False)
        >>> found.summary[["name", "n"]], found.rows
    """

    rows: "pd.DataFrame"
    summary: "pd.DataFrame"
    score: str

    def plot(self) -> "Figure":
        """Adherence with its 95 % interval, with and without collapsed rows, and the share that collapsed."""
        return comparison_figure(self.summary, self.rows[self.score])

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else: summary, figure, and all answers side by side, changes marked."""
        return write(report_of(self.rows, self.summary, self.score, self.plot(), command()), path)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the rows, the summary, the figure and ``report.html``, which they suffice to make again.

        A finished comparison in the folder is replaced where this one has all of it. Otherwise (it has other methods,
        prompts or another model) it is kept, in a folder of its own beside the new files.

        Warns:
            UserWarning: if an earlier comparison was kept, with its folder.
        """
        out = writable_dir(folder)
        if kept := keep_earlier(out, self.rows):
            warnings.warn(
                f"{out} held a comparison that this one does not have all of; it is now in {kept}.", stacklevel=2
            )
        with written_together(out / RECORD, {"rows": self.rows, "summary": self.summary}) as about:
            save(self.plot(), out / FIGURE)
            self.to_html(out / PAGE)
            about.update(score=self.score, command=command())
        return out

    def _repr_html_(self) -> str:
        return part(self.rows, self.summary, self.score, SHOWN)

    def __repr__(self) -> str:
        columns = ["name", "n", "adherence", "adherence_low", "adherence_high", "adherence_uncollapsed", "repaired"]
        columns += ["broken", "p_value", "p_adjusted", "collapsed", "n_tokens", "surprise", "tokens_per_second"]
        table = self.summary[[name for name in columns if not self.summary[name].isna().all()]]
        first = self.rows[self.rows["name"] == self.rows["name"].iloc[0]]
        parts = [show(table, decimals=2), repeats(first), side_by_side(self.rows, self.score, SHOWN)]
        return "\n\n".join(part for part in parts if part)


def repage(folder: Path) -> Path:
    """Write ``report.html`` of a comparison again, from what :meth:`Comparison.save` wrote.

    Raises:
        MechsteerError: if something of it is missing or damaged.
    """
    record = read_record(folder / RECORD, "record of a comparison")
    found = Comparison(read_table(folder / "rows.parquet"), read_table(folder / "summary.parquet"), record["score"])
    with running(record["command"]):
        return found.to_html(folder / PAGE)


def compare(
    model: Any,
    task: Task,
    methods: Mapping[str, Any],
    *,
    score: str | None = None,
    quality: bool = True,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare ways to steer on the same prompts.

    Args:
        model: A loaded model.
        task: The task, e.g. :func:`mechsteer.task`.
        methods: Names and what they stand for: None (unsteered), an intervention, a strategy, or both as a pair. The
            first is what the others are compared with.
        score: The column that counts as adherence. Default: the task's adherence, strict, correct, found, score or
            success, or its first score.
        quality: Measure surprise and collapse; one more pass of the unsteered model for each method.
        batch_size: Prompts computed together; does not change the results but for the speed.
        out: A folder; each method's rows are kept there and a killed comparison goes on (the speed of what it had
            already computed is what it was then).
        progress: Show bars.

    Raises:
        MechsteerError: for no methods, a value that is none of these or one that does not fit the model, before
            anything is generated; and for a score that is not there, after the first method.

    Example:
        >>> ms.compare(model, task, {"unsteered": None, "GUIDE 1": ms.attention_bias(delta=1.0)}).plot()
    """
    import pandas as pd

    chosen = {name: _method(model, name, value) for name, value in _named(methods).items()}
    tables, seconds, column = [], {}, ""
    for name, (steer, strategy) in chosen.items():
        folder = None if out is None else as_path(out) / _folder(name)
        first = tables[0] if tables and "output" in tables[0] else None
        table, took = timed(Run(model, task, steer, strategy, batch_size, quality, progress), folder, first)
        seconds[name] = took
        column = column or score_column(table, score)
        table.insert(0, "name", name)
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    if "changed" in rows:
        rows["changed"] = rows["changed"].eq(True)
    return Comparison(rows, summarise(rows, column, seconds), column)


def _named(methods: Any) -> dict[str, Any]:
    if not isinstance(methods, Mapping) or not methods:
        raise MechsteerError(
            f"methods must map names to ways to steer, e.g. {{'unsteered': None}}, got {shown(methods)}."
        )
    wrong = next((name for name in methods if not isinstance(name, str) or not name.strip()), None)
    if wrong is not None:
        raise MechsteerError(f"A method's name must be a text, got {wrong!r}.")
    return {whole_text("A method's name", name): value for name, value in methods.items()}


def _method(model: Any, name: str, value: Any) -> tuple[Intervention | None, Strategy | None]:
    """The intervention and the strategy of a method, if they fit the model."""
    pair = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if not isinstance(value, Intervention | tuple) and isinstance(value, Strategy):
        pair = (None, value)
    steer, strategy = pair
    if not (steer is None or isinstance(steer, Intervention)) or not (
        strategy is None or isinstance(strategy, Strategy)
    ):
        raise MechsteerError(
            f"The method {name!r} must be None, an intervention, a strategy, or (intervention, strategy), got "
            f"{shown(value)}.{several(value) or several(steer)}"
        )
    try:
        as_intervention(steer).check(model)
        if strategy is not None:
            strategy.chooser(model)
    except MechsteerError as error:
        raise MechsteerError(f"The method {name!r}: {error}") from error
    return steer, strategy


def _folder(name: str) -> str:
    """A folder's name for a method, as long as file systems allow; two names never share one."""
    letters = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:LONGEST]
    return f"{letters or 'method'}-{digest(name)[:6]}"
