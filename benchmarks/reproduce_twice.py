"""Every study on bundled models twice from scratch, in two processes at once, and whether both made the same.

Tables and the cells that they are made of are compared to the bit (provenance, times and memory apart, see
:mod:`benchmarks.same_tables`), figures byte by byte, those of measured times apart. All studies take an hour and a half
on two cores; one of them is chosen by its name, and made smaller by arguments of its ``run``.

Run: ``make reproduce-twice``, or ``make reproduce-twice STUDY=t5-dola``, or
``.venv/bin/python -m benchmarks.reproduce_twice guide --sizes n=2 'tasks=["json"]'``. The exit code is 1 where
something differs.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.same_tables import differences, read, tables
from mechsteer.studies.registry import STUDIES

TIMES = ("first", "second")
BUNDLED = tuple(name for name, study in STUDIES.items() if study.models)
DRAWN = (".png", ".pdf", ".svg")
OF_TIMES = ("cost",)
"""Figures of measured times, by the names of their files."""


@dataclass(frozen=True)
class Options:
    """Which studies, and how small."""

    studies: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="STUDY ...")]] = ()
    """Default: all that run on bundled models."""
    out: Path = Path("results/twice")
    """Folder for both runs; what they left there before goes first."""
    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=JSON ...")] = ()
    """Arguments of the studies' ``run``, such as n=2."""


@dataclass(frozen=True)
class Compared:
    """What of two runs was compared.

    Attributes:
        kind: ``tables``, ``cells`` or ``figures``.
        same: Those that are identical, by name.
        different: The others, a line each.
    """

    kind: str
    same: list[str]
    different: list[str]


def once(name: str, folder: Path, sizes: dict[str, Any]) -> None:
    """Run a study into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    STUDIES[name].run(out=folder, progress=False, **sizes)


def twice(name: str, out: Path, sizes: dict[str, Any]) -> Iterator[Compared]:
    """Run a study twice at once, each in a process of its own, and compare."""
    with ProcessPoolExecutor(len(TIMES), get_context("spawn"), max_tasks_per_child=1) as processes:
        runs = [processes.submit(once, name, out / name / time, sizes) for time in TIMES]
        for run in runs:
            run.result()
    yield from compared(*(out / name / time for time in TIMES))


def compared(first: Path, second: Path) -> Iterator[Compared]:
    """Two folders of one study beside each other: tables, cells, figures."""
    both = [tables(folder, cells=True) for folder in (first, second)]
    for kind, cells in (("tables", False), ("cells", True)):
        yield _beside(
            kind, *({n: p for n, p in found.items() if ("cells" in Path(n).parts) == cells} for found in both)
        )
    yield _beside("figures", _figures(first), _figures(second))


def _figures(folder: Path) -> dict[str, Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in DRAWN and path.stem not in OF_TIMES]
    return {str(path.relative_to(folder)): path for path in found}


def _beside(kind: str, first: dict[str, Path], second: dict[str, Path]) -> Compared:
    found = Compared(kind, [], [])
    for name in sorted({*first, *second}):
        if name not in first or name not in second:
            found.different.append(f"{name}: only in the {TIMES[name not in first]} run")
        elif kind == "figures":
            same = first[name].read_bytes() == second[name].read_bytes()
            (found.same if same else found.different).append(name if same else f"{name}: other bytes")
        else:
            lines = list(differences(read(first[name]), read(second[name])))
            found.different.extend(f"{name}: {line}" for line in lines)
            found.same.extend([] if lines else [name])
    return found


def main(options: Options) -> None:
    """Run, and say what is identical and what is not."""
    unknown = [name for name in options.studies if name not in BUNDLED]
    if unknown:
        sys.exit(f"no study of bundled models: {', '.join(unknown)}; there are: {', '.join(BUNDLED)}")
    sizes = {name: json.loads(value) for name, _, value in (size.partition("=") for size in options.sizes)}
    wrong = 0
    for study in options.studies or BUNDLED:
        for found in twice(study, options.out, sizes):
            total = len(found.same) + len(found.different)
            names = f": {', '.join(found.same)}" if found.same and found.kind != "cells" else ""
            print(f"{study}: {len(found.same)} of {total} {found.kind} identical{names}", flush=True)
            print("".join(f"    {line}\n" for line in found.different), end="")
            wrong += len(found.different)
            wrong += found.kind == "tables" and not total  # nothing compared is nothing shown
    print(f"{wrong} differences.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
