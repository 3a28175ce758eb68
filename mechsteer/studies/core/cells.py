"""Cells of a grid, computed once: what makes a killed study continue where it was."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Strategy
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import Task, evaluate
from mechsteer.files import digest, read_table, write_table
from mechsteer.identity import cell_key
from mechsteer.models import taken_once
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd


def cell(folder: Path, key: Any, compute: "Callable[[], pd.DataFrame]") -> "pd.DataFrame":
    """The table of a cell: read if it was computed before, else computed and written.

    Args:
        folder: The study's folder; cells lie in ``folder/cells``.
        key: All that decides the cell's numbers: :func:`mechsteer.cell_key`.
        compute: Makes the table. Not called when there is a readable one; one that is damaged is made again.
    """
    stem = folder / "cells" / digest(key)
    path = stem.with_suffix(".parquet")
    if path.exists():
        try:
            return read_table(path)
        except MechsteerError:
            path.unlink()
    table = compute()
    write_table(table, stem, csv=False)
    return read_table(path)


def evaluated(
    folder: Path,
    model: Any,
    task: Task,
    steer: Intervention | None = None,
    *,
    strategy: Strategy | None = None,
    batch_size: int,
) -> "pd.DataFrame":
    """The sample rows of a task under an intervention and a strategy (see :func:`mechsteer.evaluate`), as a cell."""
    with taken_once():
        key = cell_key(model, task, steer, strategy)
        return cell(folder, key, lambda: evaluate(model, task, steer=steer, strategy=strategy, batch_size=batch_size))
