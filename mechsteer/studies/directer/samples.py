"""Answers side by side, for the page of a study: cells that its tables were made from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer.studies.core.bench import Wanted
from mechsteer.studies.directer import bench
from mechsteer.studies.directer.bench import ZERO_SHOT, Setup, Way
from mechsteer.studies.directer.tables import METHODS
from mechsteer.tasks import Instructions

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("name", "sample", "kind", "prompt", "output", "adherence", "fidelity")


def side_by_side(setup: Setup, ways: Mapping[str, tuple[Way, Instructions]]) -> "pd.DataFrame":
    """The answers of some ways to the same questions.

    Columns: name (of the way), sample, kind, prompt (without its notes), output, adherence and fidelity.
    """
    import pandas as pd

    parts = []
    for name, (way, task) in ways.items():
        cell = setup.bench.known(Wanted(task, way.steer, way.strategy, rows=bench.answers))
        asked = [f"{sample.instruction}\n\n{sample.task}" for sample in task.samples]
        parts.append(cell.assign(name=name, prompt=asked)[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def methods_side_by_side(setup: Setup, choice: "pd.DataFrame") -> "pd.DataFrame":
    """The main table's answers: zero-shot, every method as chosen on validation, and DIRECTER as published."""
    task, top = setup.task(), choice[choice["chosen"]].set_index("method")["strength"]
    shown = {"zero-shot": (ZERO_SHOT, task)}
    for method, (make, published, _) in METHODS.items():
        chosen = float(top[method])
        shown[f"{method}, {chosen:g}, chosen on validation"] = (make(chosen), task)
        if method == "directer":
            shown[f"{method}, {published[0]:g}, as published"] = (make(published[0]), task)
    return side_by_side(setup, shown)
