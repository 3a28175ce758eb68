"""What every study returns: its tables, where they lie, and its figures on demand."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.errors import MechsteerError
from mechsteer.files import read_record, read_table, write_record, write_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """A study's result.

    Attributes:
        folder: Where its tables and figures lie.
        tables: The tables, by name.
        draw: Makes the figures from the tables.
    """

    folder: Path
    tables: "dict[str, pd.DataFrame]"
    draw: "Callable[[Mapping[str, pd.DataFrame]], dict[str, Figure]]" = field(repr=False)

    @property
    def summary(self) -> "pd.DataFrame":
        """The table to look at first."""
        return self.tables["summary"]

    def figures(self) -> "dict[str, Figure]":
        """The study's figures, by name, drawn from the tables."""
        return self.draw(self.tables)


def finish(folder: Path, about: Mapping[str, Any], tables: "Mapping[str, pd.DataFrame]") -> None:
    """Write a study's tables, and ``study.json``, which says what they are of.

    ``study.json`` is there only while all the tables in the folder are its own: that of an earlier run goes first, with
    the tables that it names and this run does not make, and the new one comes last. Until then, an earlier run's stay.

    Args:
        folder: The study's folder.
        about: The study's name, its settings and the model's provenance.
        tables: The tables, by name.
    """
    record, earlier = folder / "study.json", []
    with suppress(MechsteerError):
        earlier = read_record(record, "record of a study").get("tables", [])
    record.unlink(missing_ok=True)
    for name in set(earlier) - set(tables):
        for suffix in ("parquet", "csv"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, table in tables.items():
        write_table(table, folder / name)
    write_record(record, {**about, "tables": list(tables)})


def redraw(
    folder: Path,
    draw: "Callable[[Mapping[str, pd.DataFrame]], dict[str, Figure]]",
    tables: Iterable[str],
    optional: Iterable[str] = (),
) -> list[Path]:
    """Draw a study's figures from the parquet tables in ``folder`` into ``folder/figures``.

    Args:
        folder: The study's folder.
        draw: Makes the figures from the tables.
        tables: The tables that must be there.
        optional: Those that are read where they are there.

    Raises:
        MechsteerError: if a table is missing or damaged.
    """
    names = [*tables, *(name for name in optional if (folder / f"{name}.parquet").exists())]
    made = draw({name: read_table(folder / f"{name}.parquet") for name in names})
    return [path for name, figure in made.items() for path in plots.save(figure, folder / "figures" / name)]
