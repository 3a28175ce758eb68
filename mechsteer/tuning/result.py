"""``Tuning``: what a tuning found, as tables, a figure, sentences and a page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mechsteer.decoding import Strategy
from mechsteer.files import read_record, read_table, writable_dir, written_together
from mechsteer.html_report import write
from mechsteer.html_report.page import NAME as PAGE
from mechsteer.plots import save
from mechsteer.plots.tuning import tuning_figure
from mechsteer.report import show
from mechsteer.running_command import command
from mechsteer.steering import Intervention
from mechsteer.tuning.findings import findings
from mechsteer.tuning.html_report import part, report_of
from mechsteer.tuning.ladders import Way

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FILE = "intervention.safetensors"
RECORD = "tuning.json"
TABLES = ("curve", "best", "test", "rows")
EXAMPLES = "examples"
BEST = ["method", "strength", "layer", "divergence", "adherence", "adherence_low", "adherence_high", "quality", "edge"]
BEST += ["side_kept", "chosen"]
TEST = ["name", "n", "adherence", "adherence_low", "adherence_high", "quality", "repaired", "broken", "p_value"]
TEST += ["p_adjusted"]


@dataclass(frozen=True)
class Tuning:
    """What came out.

    Attributes:
        curve: Every candidate on the validation prompts; see :func:`mechsteer.tuning.tables.curve_table`.
        best: The best of each method there, the best first; see :func:`mechsteer.tuning.tables.best_table`.
        test: The held-out prompts: the unsteered model, the tuned way, and other ways to ask.
        rows: One row a held-out prompt and way.
        way: The tuned way; without steering where nothing was better.
        tokens: How many tokens the search generated, by method.
        side_right: The share of unrelated questions that the unsteered model answers well.
        grid_tokens: How many all points of all ladders would take on all validation prompts.
        left_out: Methods and ways to ask that were left out, and why.
        examples: Some validation answers of every candidate that has a layer, for the page; see
            :func:`mechsteer.tuning.shown.examples_table`.

    Example:
        >>> found = ms.tune(model, task)  # doctest: +SKIP
        >>> found.best, found.test, found.intervention  # doctest: +SKIP
    """

    curve: "pd.DataFrame"
    best: "pd.DataFrame"
    test: "pd.DataFrame"
    rows: "pd.DataFrame"
    way: Way
    tokens: Mapping[str, int]
    side_right: float
    grid_tokens: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    examples: "pd.DataFrame | None" = None

    @property
    def intervention(self) -> Intervention | Strategy:
        """What to steer with: an intervention to save, for DIRECTER the strategy; without edits where nothing helps."""
        return self.way.strategy or self.way.steer or Intervention()

    @property
    def saved_as(self) -> str:
        """Where :meth:`save` puts the intervention, in words."""
        setting = self.intervention
        if isinstance(setting, Intervention):
            return FILE if setting.edits else "no intervention, for none helps,"
        return f"the settings ({setting!r}, in tuning.json)"

    @property
    def findings(self) -> list[str]:
        """What was found, in sentences."""
        start = float(self.curve["adherence"].iloc[0])
        said = findings(self.best, self.test, self.rows, start, self.side_right)
        return [*said, self._cost(), *self._left_out()]

    def _cost(self) -> str:
        spent = sum(self.tokens.values())
        part = 100 * spent / max(1, self.grid_tokens)
        return (
            f"The search generated {spent:,} tokens, {part:.0f} % of the {self.grid_tokens:,} that the full grid of "
            f"{', '.join(self.tokens)} would take."
        )

    def _left_out(self) -> list[str]:
        return [f"Left out: {name}: {why}" for name, why in self.left_out.items()]

    def plot(self) -> "Figure":
        """Adherence against quality with the front of the best, and adherence by divergence, on validation prompts."""
        return tuning_figure(self.curve, self.best)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else: findings, tables, figure, and the held-out answers side by side."""
        return write(report_of(self._tables(), self.findings, self.plot(), self._command()), path)

    def _tables(self) -> "dict[str, pd.DataFrame]":
        more = {} if self.examples is None or self.examples.empty else {EXAMPLES: self.examples}
        return {name: getattr(self, name) for name in TABLES} | more

    def _command(self) -> str:
        first, methods = self.rows.iloc[0], tuple(self.tokens)
        return command() or f"ms.tune(ms.load({first['model_name']!r}), task, {methods!r})  # {first['task']}"

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the tables, the figure, the page, the findings, and the intervention (of DIRECTER its settings)."""
        out, setting = writable_dir(folder), self.intervention
        left = (FILE, f"{EXAMPLES}.parquet", f"{EXAMPLES}.csv")  # of another tuning, which may have them
        with written_together(out / RECORD, self._tables(), left) as about:
            save(self.plot(), out / "tuning")
            self.to_html(out / PAGE)
            if isinstance(setting, Intervention) and setting.edits:
                setting.save(out / FILE)
            about.update(way=repr(setting), findings=self.findings, tokens=dict(self.tokens), command=self._command())
        return out

    def _repr_html_(self) -> str:
        return part(self)

    def __repr__(self) -> str:
        said = "\n".join(f"- {one}" for one in self.findings)
        tables = {
            "Held-out prompts": show(self.test[TEST], decimals=2),
            "Best of each method on the validation prompts": show(self.best[BEST], decimals=3),
        }
        return "\n\n".join([said, *(f"{title}\n\n{table}" for title, table in tables.items())])


def repage(folder: Path) -> Path:
    """Write ``report.html`` of a tuning again, from what :meth:`Tuning.save` wrote.

    Raises:
        MechsteerError: if something of it is missing or damaged.
    """
    record = read_record(folder / RECORD, "record of a tuning")
    more = [EXAMPLES] if (folder / f"{EXAMPLES}.parquet").exists() else []
    tables = {name: read_table(folder / f"{name}.parquet") for name in (*TABLES, *more)}
    figure = tuning_figure(tables["curve"], tables["best"])
    return write(report_of(tables, record["findings"], figure, record.get("command", "")), folder / PAGE)
