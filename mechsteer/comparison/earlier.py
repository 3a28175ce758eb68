"""A finished comparison stays when another is written into its folder, unless that one has all of it."""

import itertools
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mechsteer.errors import MechsteerError
from mechsteer.files import read_record, read_table
from mechsteer.html_report.page import NAME as PAGE

if TYPE_CHECKING:
    import pandas as pd

RECORD, FIGURE = "comparison.json", "comparison"


def keep_earlier(folder: Path, rows: "pd.DataFrame") -> Path | None:
    """Move the comparison in a folder into ``earlier-1`` (2, ...) in it, unless the new rows have all that it is of.

    Args:
        folder: The folder.
        rows: The rows of the new comparison.

    Returns:
        Where it is now; None if there was none that is whole, or it may be replaced.

    Raises:
        MechsteerError: if it cannot be moved.
    """
    earlier = _about_earlier(folder)
    if not earlier or earlier <= _about(rows):
        return None
    names = (folder / f"earlier-{number}" for number in itertools.count(1))
    kept = next(path for path in names if not path.exists())
    files = [f"rows.{kind}" for kind in ("csv", "parquet")] + [f"summary.{kind}" for kind in ("csv", "parquet")]
    files += [path.name for path in folder.glob(f"{FIGURE}.*") if path.name != RECORD]
    try:
        kept.mkdir()
        for name in (*files, PAGE, RECORD):  # the record last: what is moved in part is no comparison
            if (folder / name).exists():
                (folder / name).rename(kept / name)
    except OSError as error:
        raise MechsteerError(f"Cannot move the comparison in {folder} to {kept}: {error.strerror or error}.") from error
    return kept


def _about_earlier(folder: Path) -> set[tuple[str, ...]]:
    """What the comparison in a folder is of; nothing where none is whole."""
    with suppress(MechsteerError):
        read_record(folder / RECORD, "record of a comparison")
        return _about(read_table(folder / "rows.parquet"))
    return set()


def _about(rows: "pd.DataFrame") -> set[tuple[str, ...]]:
    """The methods that rows are of, each with its prompts and model. What checks them may have changed."""
    names = ["name", "model_fingerprint", "prompt" if "prompt" in rows else "data_hash"]
    return set(rows[names].astype(str).itertuples(index=False, name=None))
