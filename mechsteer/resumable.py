"""Rows written as they come: a run that was killed goes on where it was and ends with the same table.

The samples of a run are computed in parts, one file each, under the key of all that decides their rows::

    FOLDER/parts/KEY/000000-000016.parquet    samples 0 to 15
    FOLDER/parts/KEY/000016-000032.parquet

A part has its name only when it is whole. The parts of other keys stay: an evaluation that is run again under earlier
settings finds its rows.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mechsteer.errors import MechsteerError
from mechsteer.files import read_table, remove, write_table

if TYPE_CHECKING:
    import pandas as pd

Compute = Callable[[int, int], "pd.DataFrame"]
"""``compute(first, end)`` gives the rows of those samples."""

_NAME = re.compile(r"(\d{6,})-(\d{6,})")


@dataclass(frozen=True)
class Parts:
    """The parts of one run.

    Attributes:
        folder: Where they lie.
        total: How many samples the run has.
    """

    folder: Path
    total: int

    def found(self) -> "list[tuple[int, int, pd.DataFrame]]":
        """First sample, end and rows of the readable parts, in order and without overlap."""
        parts: list[tuple[int, int, pd.DataFrame]] = []
        covered = 0
        for path in sorted(self.folder.glob("[!.]*.parquet")):
            name = _NAME.fullmatch(path.stem)
            first, end = (int(name[1]), int(name[2])) if name else (-1, -1)
            if not covered <= first < end <= self.total:
                continue
            try:
                parts.append((first, end, read_table(path)))
            except MechsteerError:  # damaged: computed again
                remove(path)
                continue
            covered = end
        return parts

    def missing(self, size: int) -> list[tuple[int, int]]:
        """The stretches of at most ``size`` samples that have no part."""
        gaps, covered = [], 0
        for first, end, _ in [*self.found(), (self.total, self.total, None)]:
            gaps += [(start, min(start + size, first)) for start in range(covered, first, size)]
            covered = end
        return gaps

    def complete(self, size: int, compute: Compute) -> "tuple[pd.DataFrame, int]":
        """All rows in order, and how many samples there were before; what is missing is computed and written.

        Columns that the first part lacks stand behind all of its columns.
        """
        import pandas as pd

        gaps = self.missing(size)
        before = self.total - sum(end - first for first, end in gaps)
        while gaps:  # again where another process wrote parts of other sizes meanwhile
            for first, end in gaps:
                write_table(compute(first, end), self.folder / f"{first:06d}-{end:06d}", csv=False)
            gaps = self.missing(size)
        tables = [table for _, _, table in self.found()]
        return pd.concat(tables, ignore_index=True), before
