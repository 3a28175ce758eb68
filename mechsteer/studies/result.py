"""What every study returns: its tables, where they lie, and its figures on demand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
