"""Cells of a grid, computed once: what makes a killed study continue where it was."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.files import digest, read_table, write_table

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
