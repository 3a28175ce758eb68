"""Cells of a study, each computed once and kept in ``cells/ID.parquet``, so that a killed study continues."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.evaluation import evaluate as evaluate  # what a bench computes cells with
from mechsteer.files import digest, plain_name, read_table, remove, write_table

if TYPE_CHECKING:
    import pandas as pd


def path_of(folder: Path, key: Any) -> Path:
    """Where a cell lies: a text is its name, of anything else the digest."""
    return folder / "cells" / f"{plain_name(key, 'cell') if isinstance(key, str) else digest(key)}.parquet"


def cell(folder: Path, key: Any, compute: "Callable[[], pd.DataFrame]") -> "pd.DataFrame":
    """The table of a cell: read if it was computed before, else computed and written.

    Args:
        folder: The study's folder.
        key: The cell's id, from all that decides its numbers: :func:`mechsteer.cell_key`.
        compute: Makes the table. Not called when there is a readable one; one that is damaged is made again.
    """
    path = path_of(folder, key)
    if path.exists():
        try:
            return read_table(path)
        except MechsteerError:
            remove(path)
    write(folder, key, compute())
    return read_table(path)


def write(folder: Path, key: Any, table: "pd.DataFrame") -> None:
    """Keep the table of a cell."""
    write_table(table, path_of(folder, key).with_suffix(""), csv=False)
