"""Cells of a grid, computed once: what makes a killed study continue where it was."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Strategy
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import Task, evaluate
from mechsteer.files import digest, read_table, versions, write_table
from mechsteer.models import model_info
from mechsteer.steering import Intervention, describe_edits

if TYPE_CHECKING:
    import pandas as pd


def cell(folder: Path, key: dict[str, Any], compute: "Callable[[], pd.DataFrame]") -> "pd.DataFrame":
    """The table of a cell: read if it was computed before, else computed and written.

    Args:
        folder: The study's folder; cells lie in ``folder/cells``.
        key: All that decides the cell's numbers: model fingerprint, data hash, method, site, strength, versions ...
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
    info = model_info(model)
    key = {
        "task": task.name,
        "data": task.data_hash,
        "max_new_tokens": getattr(task, "max_new_tokens", None),
        "model": [info.name if info.fingerprint == "unknown" else "", info.fingerprint, info.dtype],
        "steer": describe_edits(steer) if steer is not None else [],
        "versions": versions(),
    }
    if strategy is not None:
        key["strategy"] = repr(strategy)
    return cell(folder, key, lambda: evaluate(model, task, steer=steer, strategy=strategy, batch_size=batch_size))
