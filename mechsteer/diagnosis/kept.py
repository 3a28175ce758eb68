"""Tables that a killed diagnosis finds again, under the key of all that decides them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mechsteer.errors import MechsteerError
from mechsteer.files import read_table, write_table

if TYPE_CHECKING:
    import pandas as pd


def kept(out: Path | None, name: str, key: str, compute: Callable[[], "pd.DataFrame"]) -> "pd.DataFrame":
    """The table of a name and key, from the folder where it is there and whole; else computed, and written there."""
    if out is None:
        return compute()
    stem = out / "parts" / key / name
    try:
        return read_table(f"{stem}.parquet")
    except MechsteerError:  # not there, or damaged
        write_table(compute(), stem, csv=False)
        return read_table(f"{stem}.parquet")  # so that both ways give the same types
