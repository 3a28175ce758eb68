"""What every study returns: its tables, where they lie, and its figures on demand."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.files import read_table

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
