"""What every study returns: its tables, where they lie, and its figures on demand."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.errors import MechsteerError, one_of
from mechsteer.files import read_record, read_table, write_record, write_table
from mechsteer.models import provenance
from mechsteer.studies.core.study import Study
from mechsteer.studies.registry import STUDIES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RECORD = "study.json"


def _nothing(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """No figures."""
    return {}


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
    draw: "Callable[[Mapping[str, pd.DataFrame]], dict[str, Figure]]" = field(default=_nothing, repr=False)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> "Result":
        """The result of a study that was run before, from its folder alone.

        Raises:
            MechsteerError: if the folder has no record of a finished study, or a table is missing or damaged.
        """
        place = Path(folder)
        study, names = recorded(place)
        return Result(place, {name: read_table(place / f"{name}.parquet") for name in names}, study.draw)

    @property
    def summary(self) -> "pd.DataFrame":
        """The table to look at first."""
        return self.tables["summary"]

    def figures(self) -> "dict[str, Figure]":
        """The study's figures, by name, drawn from the tables."""
        return self.draw(self.tables)


def recorded(folder: Path) -> tuple[Study, list[str]]:
    """Which study a folder is of, and the names of its tables.

    Raises:
        MechsteerError: if the folder has no record of a study that there is.
    """
    if not (folder / RECORD).is_file():
        raise MechsteerError(_no_study(folder))
    record = read_record(folder / RECORD, "record of a study")
    record = record if isinstance(record, dict) else {"study": record}
    return STUDIES[one_of("study", str(record.get("study")), STUDIES)], list(record.get("tables", []))


def _no_study(folder: Path) -> str:
    """What is wrong with a folder that is not a study's, and which ones near it are."""
    if folder.is_dir():
        found = f"{str(folder)!r} is not the folder of a finished study: it has no {RECORD}."
    else:
        found = f"No such folder: {str(folder)!r}; a study's folder with its {RECORD} was expected."
    place = folder if folder.is_dir() else folder.parent
    near = sorted(str(path.parent) for path in place.glob(f"*/{RECORD}"))
    if near:
        return f"{found} Studies near it: {', '.join(near[:8])}."
    return f"{found} `mechsteer reproduce STUDY --out FOLDER` makes one."


def of_model(tables: "Mapping[str, pd.DataFrame]", model: Any, **more: str) -> "dict[str, pd.DataFrame]":
    """The tables with the model's provenance in every row, and what more is said of all rows.

    Columns of these names that a table has already are kept.
    """
    extra = provenance(model) | more
    return {
        name: table.assign(**{key: value for key, value in extra.items() if key not in table.columns})
        for name, table in tables.items()
    }


def finished(
    name: str, folder: Path, about: Mapping[str, Any], tables: "Mapping[str, pd.DataFrame]", *, draw: bool
) -> Result:
    """Write a study's tables and record (see :func:`finish`), and draw its figures from what was written."""
    study = STUDIES[name]
    finish(folder, {"study": name, **about}, tables)
    if draw:
        redraw(study, folder)
    return Result(folder, dict(tables), study.draw)


def finish(folder: Path, about: Mapping[str, Any], tables: "Mapping[str, pd.DataFrame]") -> None:
    """Write a study's tables, and ``study.json``, which says what they are of.

    ``study.json`` is there only while all the tables in the folder are its own: that of an earlier run goes first, with
    the tables that it names and this run does not make, and the new one comes last. Until then, an earlier run's stay.

    Args:
        folder: The study's folder.
        about: The study's name, its settings and the model's provenance.
        tables: The tables, by name.
    """
    record, earlier = folder / RECORD, []
    with suppress(MechsteerError):
        earlier = read_record(record, "record of a study").get("tables", [])
    record.unlink(missing_ok=True)
    for name in set(earlier) - set(tables):
        for suffix in ("parquet", "csv"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, table in tables.items():
        write_table(table, folder / name)
    write_record(record, {**about, "tables": list(tables)})


def redraw(study: Study, folder: Path) -> list[Path]:
    """Draw a study's figures from the parquet tables in ``folder`` into ``folder/figures``.

    Raises:
        MechsteerError: if a table is missing or damaged.
    """
    module = study.module("figures")
    optional = [name for name in getattr(module, "OPTIONAL", ()) if (folder / f"{name}.parquet").exists()]
    made = study.draw({name: read_table(folder / f"{name}.parquet") for name in (*module.TABLES, *optional)})
    return [path for name, figure in made.items() for path in plots.save(figure, folder / "figures" / name)]
