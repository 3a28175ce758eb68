"""A study's page, from its folder alone: what is written by :func:`mechsteer.studies.core.result.finished`."""

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.html_report import Heat, Report, Samples, provenance_of, samples_of
from mechsteer.html_report.samples import verdict_of
from mechsteer.studies.core.study import Study
from mechsteer.studies.html_report.examples import answers_in
from mechsteer.studies.html_report.findings import findings

if TYPE_CHECKING:
    import pandas as pd

_WAYS = ("name", "method", "setting", "wording", "strategy")
_SAME = ("model_name", "task", "scoring", "kind", "sample")
_KEYED = ("model_name", "key")
"""What says which prompt an answer is to; a prompt with a key of its own has it also in another wording or split."""


STEERED = ", steered"
"""How a way's name ends that is another one, steered: that one is what it is compared with."""


def report_of(
    study: Study,
    folder: Path,
    record: Mapping[str, Any],
    tables: "Mapping[str, pd.DataFrame]",
    figures: Mapping[str, bytes],
) -> Report:
    """What a study's page says.

    Args:
        study: The study.
        folder: Its folder: answers of its cells are read from there.
        record: Its ``study.json``.
        tables: Its tables; the summary first.
        figures: Its figures, as PNG.
    """
    summary = tables.get("summary")
    models = [] if summary is None or "model_name" not in summary else list(dict.fromkeys(summary["model_name"]))
    where = f", on {', '.join(map(str, models))}" if models else ""
    shown = {name: table for name, table in tables.items() if "output" not in table}
    return Report(
        title=f"{study.title[:1].upper()}{study.title[1:]}{where}",
        asked=_asked(study),
        found=_found(study, summary),
        figures={caption(study, name): figure for name, figure in figures.items()},
        heats=_heats(study, folder, tables),
        tables=shown,
        samples=_samples(folder, tables),
        provenance=provenance_of(tables.values()),
        command=record.get("command") or _command(study, folder, record, models),
    )


def _asked(study: Study) -> list[str]:
    """The first paragraphs of what the study's module says of itself."""
    return _paragraphs(study.module("study").__doc__ or study.title)[:2]


def _found(study: Study, summary: "pd.DataFrame | None") -> Mapping[str, Sequence[str]]:
    """What was found: in the study's own words, where it has some, or what its summary says."""
    own = getattr(study.module("report"), "found", None)
    if summary is None:
        return {}
    return {"": findings(summary)} if own is None else own(summary)


def _paragraphs(doc: str) -> list[str]:
    """The running text of a docstring, as people read it; what led to a list that is left out ends there."""
    plain = re.sub(r":\w+:`[~.]*([^`]*)`", r"\1", inspect.cleandoc(doc))
    plain = re.sub(r"``([^`]*)``", r"“\1”", plain)
    parts = [" ".join(part.split()) for part in plain.split("\n\n") if not part.startswith((" ", "-", "*"))]
    return [f"{part[:-1]}." if part.endswith(":") else part for part in parts]


def caption(study: Study, name: str) -> str:
    """What a figure shows: what the function that draws it says, and what the figure's name says beyond that."""
    module = study.module("figures")
    functions = dict(inspect.getmembers(module, inspect.isfunction)) | getattr(module, "DRAWN", {})
    which = max((one for one in functions if name.startswith(one)), key=len, default="")
    doc = functions[which].__doc__ if which else None
    more = name.removeprefix(which).strip("_").replace("_", " ")
    said = name.replace("_", " ") if doc is None else _paragraphs(doc)[0]
    return f"{said.removesuffix('.')} ({more})." if more and doc else said


def _heats(study: Study, folder: Path, tables: "Mapping[str, pd.DataFrame]") -> Sequence[Heat]:
    made = getattr(study.module("figures"), "heats", None)
    return () if made is None else made(tables, folder)


def _samples(folder: Path, tables: "Mapping[str, pd.DataFrame]") -> Samples | None:
    """The answers that the study keeps in a table, or those of its cells that say most."""
    rows = next((table for table in tables.values() if "output" in table), None)
    if rows is None:
        rows = answers_in(folder)
    if rows is None:
        return None
    by = next((name for name in _WAYS if name in rows and rows[name].nunique() > 1), None)
    if by is None:
        return None
    same = _KEYED if "key" in rows else _SAME
    key = [name for name in same if name in rows]
    return samples_of(rows, by, verdict_of(rows), key=key, against=_own_unsteered)


def _own_unsteered(way: str) -> str:
    return way.removesuffix(STEERED) if way.endswith(STEERED) else ""


def _command(study: Study, folder: Path, record: Mapping[str, Any], models: Sequence[str]) -> str:
    """For a study that Python ran: the command with the same model and settings; a file of data is to be named."""
    parts = ["mechsteer", "reproduce", study.name]
    if models and tuple(models) != study.models:
        parts += ["--model", *map(str, models[:1])]
    if not study.models:
        parts += ["--data", "FILE"]
    usual = inspect.signature(study.run).parameters
    for option, argument in study.options.items():
        value = record.get(argument)
        if option != "data" and value is not None and value != usual[argument].default:
            parts += [f"--{option.replace('_', '-')}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join([*parts, "--out", str(folder)])
