"""What every study returns: its tables, where they lie, and its figures on demand."""

import html
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.display import STRIP, folded, rows_of, titled
from mechsteer.errors import MechsteerError, one_of
from mechsteer.files import as_path, is_there, read_record, read_table, tables_of, written_together
from mechsteer.html_report import write
from mechsteer.html_report.page import NAME as PAGE
from mechsteer.models import provenance
from mechsteer.plots.base import thumbnail
from mechsteer.report import PROVENANCE, show
from mechsteer.running_command import command
from mechsteer.studies.core.study import Study
from mechsteer.studies.html_report.findings import findings
from mechsteer.studies.html_report.report import report_of
from mechsteer.studies.registry import STUDIES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RECORD = "study.json"

SWEEP = "sweep.json"
"""The record of a sweep, which is no study's."""

OTHERS = ("comparison", "tuning", "diagnosis")
"""What else has a folder of its own, with a record of that name."""

ROWS = 12
"""Rows of a table in a notebook and in a terminal."""


def _nothing(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """No figures."""
    return {}


@dataclass(frozen=True, repr=False)
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
        place = as_path(folder)
        study, names = recorded(place)
        return Result(place, {name: read_table(place / f"{name}.parquet") for name in names}, study.draw)

    @property
    def summary(self) -> "pd.DataFrame":
        """The table to look at first."""
        return self.tables["summary"]

    @property
    def findings(self) -> list[str]:
        """What the summary says, in sentences."""
        return findings(self.tables["summary"]) if "summary" in self.tables else []

    def figures(self) -> "dict[str, Figure]":
        """The study's figures, by name, drawn from the tables."""
        return self.draw(self.tables)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else: findings, figures, tables, answers side by side, provenance.

        Raises:
            MechsteerError: if the folder has no record of a study, or the page cannot be written.
        """
        study, _ = recorded(self.folder)
        record = read_record(self.folder / RECORD, "record of a study")
        return write(report_of(study, self.folder, record, self.tables, pictures(study, self.folder)), path)

    def __repr__(self) -> str:
        first = next(iter(self.tables.values()), None)
        tables = ", ".join(f"{name} ({len(table)} rows)" for name, table in self.tables.items())
        head = [f"Result in {self.folder}: {self._about()}", *(f"- {one}" for one in self.findings)]
        shown = [] if first is None else [show(first.head(ROWS))]
        return "\n".join([*head, f"Tables: {tables or 'none'}", *shown])

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(one)}</li>" for one in self.findings)
        parts = [
            folded(f"{name}, {len(table)} rows", _shown(table), unfolded=not place)
            for place, (name, table) in enumerate(self.tables.items())
        ]
        body = []
        for part in parts:  # what does not fit into a cell is named in the text form
            if sum(len(one.encode()) for one in (*body, part)) < STRIP:
                body.append(part)
        where = folded("where it lies", html.escape(str(self.folder)))
        return titled(f"Result: {self._about()}", f"<ul>{said}</ul>", *body, where)

    def _about(self) -> str:
        """What the study is about; of another folder, whether it is a sweep's."""
        with suppress(MechsteerError):
            return recorded(self.folder)[0].title
        return "a sweep" if is_there(self.folder / SWEEP) else "tables"


def _shown(table: "pd.DataFrame") -> str:
    kept = [str(name) for name in table.columns if not str(name).startswith(PROVENANCE)]
    return rows_of(table[kept].itertuples(index=False), kept, rows=ROWS)


def recorded(folder: Path) -> tuple[Study, list[str]]:
    """Which study a folder is of, and the names of its tables.

    Raises:
        MechsteerError: if the folder has no record of a study that there is.
    """
    if not is_there(folder / RECORD):
        raise MechsteerError(_no_study(folder))
    record = read_record(folder / RECORD, "record of a study")
    record = record if isinstance(record, dict) else {"study": record}
    return STUDIES[one_of("study", str(record.get("study")), STUDIES)], tables_of(record, folder / RECORD)


def _no_study(folder: Path) -> str:
    """What is wrong with a folder that is not a study's, and which ones near it are."""
    if is_dir := is_there(folder) and folder.is_dir():
        found = f"{str(folder)!r} is not the folder of a finished study: it has no {RECORD}."
        other = next((kind for kind in OTHERS if is_there(folder / f"{kind}.json")), None)
        if other is not None:
            return f"{found} It is a {other}'s; `mechsteer report` makes its page again, pictures and all."
    elif is_there(folder):
        found = f"{str(folder)!r} is a file; a study's folder with its {RECORD} was expected."
    else:
        found = f"No such folder: {str(folder)!r}; a study's folder with its {RECORD} was expected."
    place = folder if is_dir else folder.parent
    near = sorted(str(path.parent) for path in place.glob(f"*/{RECORD}")) if is_there(place) else []
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
    study, typed = STUDIES[name], command()
    record = {"study": name, **about, **({"command": typed} if typed else {})}
    finish(folder, record, tables)
    if draw:
        redraw(study, folder)
        write(report_of(study, folder, record, tables, pictures(study, folder)), folder / PAGE)
    return Result(folder, dict(tables), study.draw)


def finish(folder: Path, about: Mapping[str, Any], tables: "Mapping[str, pd.DataFrame]") -> None:
    """Write a study's tables, and ``study.json``, which says what they are of.

    Args:
        folder: The study's folder.
        about: The study's name, its settings and the model's provenance.
        tables: The tables, by name.
    """
    with written_together(folder / RECORD, tables) as said:
        said.update(about)


def redraw(study: Study, folder: Path, out: Path | None = None) -> list[Path]:
    """Draw a study's figures from the parquet tables in ``folder`` into ``out``; default ``folder/figures``.

    Raises:
        MechsteerError: if a table is missing or damaged; for a figure that cannot be drawn for the page, with its name,
            when all others are drawn.
    """
    module = study.module("figures")
    optional = [name for name in getattr(module, "OPTIONAL", ()) if (folder / f"{name}.parquet").exists()]
    made = study.draw({name: read_table(folder / f"{name}.parquet") for name in (*module.TABLES, *optional)})
    out = folder / "figures" if out is None else out
    paths, refused = [], []
    for name, figure in made.items():
        try:
            paths += plots.save(figure, out / name)
        except MechsteerError as error:
            refused.append(f"{name}: {error}")
    if refused:
        raise MechsteerError(
            f"{len(refused)} of {len(made)} figures could not be drawn; the others are in {out}. {' '.join(refused)}"
        )
    return paths


def pictures(study: Study, folder: Path) -> dict[str, bytes]:
    """A study's figures for its page, by name; drawn first where they are not there, or are older than a table.

    Raises:
        MechsteerError: if they have to be drawn, and a table is missing or damaged.
    """
    paths = sorted((folder / "figures").glob("[!.]*.png"))  # nothing that a killed writer left
    written = max((path.stat().st_mtime for path in folder.glob("[!.]*.parquet")), default=0.0)
    if not paths or min(path.stat().st_mtime for path in paths) < written:
        with plots.paper():
            paths = sorted(path for path in redraw(study, folder) if path.suffix == ".png")
    return {path.stem: thumbnail(path) for path in paths}


def repage(folder: Path) -> Path:
    """Write ``report.html`` of a study again, from its folder alone.

    Raises:
        MechsteerError: if the folder is of no study, or a table is missing or damaged.
    """
    return Result.load(folder).to_html(folder / PAGE)
