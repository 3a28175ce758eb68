"""Whether two folders of studies hold the same tables: column by column, to the bit.

Provenance of the run (models' revisions, versions, hashes of data), times and memory may differ; what is left out is
printed. To see whether a change of the code changed a number: run a study before and after it, and compare.

Run: ``.venv/bin/python -m benchmarks.same_tables OLD NEW``; the exit code is 1 where something differs.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

APART = ("model_revision", "version_", "data_hash", "model_fingerprint")
"""Columns that say what a table was made with."""

MEASURED = ("first_token_ms", "token_ms", "tokens_per_second", "peak_mb", "threads", "cores")
"""Columns of times and memory, never the same twice; rows with such a name in ``our_measure`` have one in ``ours``."""


@dataclass(frozen=True)
class Options:
    """What is compared."""

    old: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OLD")]]
    """A folder with parquet or CSV tables, also in folders below it."""
    new: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="NEW")]]
    """Another."""
    cells: bool = False
    """Compare also single cells, whose names depend on the version."""


def tables(folder: Path, *, cells: bool = False) -> dict[str, Path]:
    """The tables below a folder by their path in it; of one that is there as parquet and as CSV, the parquet file."""
    found: dict[str, Path] = {}
    for path in sorted([*folder.rglob("*.csv"), *folder.rglob("*.parquet")]):
        if cells or "cells" not in path.relative_to(folder).parts:
            found[str(path.relative_to(folder).with_suffix(""))] = path
    return found


def read(path: Path) -> pd.DataFrame:
    """A table."""
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def left_out(name: str) -> bool:
    """Whether a column may differ."""
    return name.startswith((*APART, *MEASURED))


def differences(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[str]:
    """What differs between two tables, a line each."""
    gone, come = ([name for name in a if name not in b] for a, b in ((old, new), (new, old)))
    if gone or come:
        yield f"columns that are gone: {gone or 'none'}, and new: {come or 'none'}"
    elif list(old.columns) != list(new.columns):
        yield "the columns have another order"
    if len(old) != len(new):
        yield f"{len(old)} rows became {len(new)}"
        return
    timed = old.get("our_measure", pd.Series("", index=old.index)).astype(str).str.startswith(MEASURED).to_numpy()
    for name in [name for name in old.columns if name in new.columns and not left_out(name)]:
        a, b = (table[name].reset_index(drop=True).map(_plain) for table in (old, new))
        same = ((a == b) | (a.isna() & b.isna())).fillna(False).to_numpy(dtype=bool)
        wrong = ~same & ~(timed if name == "ours" else False)
        if wrong.any():
            first = int(wrong.argmax())
            before, after = a.tolist()[first], b.tolist()[first]
            yield f"{name}: {int(wrong.sum())} of {len(old)} rows, first {before!r} became {after!r}"


def _plain(value: Any) -> Any:
    """A list, which is read as an array and has no one truth value beside another, as a text of all its items."""
    return (
        json.dumps(value, default=lambda part: part.tolist()) if isinstance(value, np.ndarray | list | dict) else value
    )


def compare(old: Path, new: Path, *, cells: bool = False) -> tuple[list[str], int]:
    """What differs between two folders, and how many tables both have."""
    before, after = tables(old, cells=cells), tables(new, cells=cells)
    found = [f"{name}: only in {old}" for name in before if name not in after]
    found += [f"{name}: only in {new}" for name in after if name not in before]
    both = [name for name in before if name in after]
    for name in both:
        lines = differences(read(before[name]), read(after[name]))
        found += [f"{name}: {line}" for line in lines]
    return found, len(both)


def main(options: Options) -> None:
    """Print what differs."""
    found, count = compare(options.old, options.new, cells=options.cells)
    print("\n".join(found))
    if not count:
        sys.exit(f"{options.old} and {options.new} have no table in common.")
    apart = ", ".join(f"{name}*" for name in (*APART, *MEASURED))
    print(f"{count} tables compared, {len(found)} differences (columns left out: {apart}).")
    if found:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
