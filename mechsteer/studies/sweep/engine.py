"""Sweeps: a grid of cells, each computed on its own, that can be killed at any time and goes on where it was.

In the folder of a sweep:

- ``cells/ID.parquet``: the rows of a finished cell, written under another name and then renamed, so that a file is
  there as a whole or not at all. It holds a checksum of itself, so that a damaged one is known and computed again. ID
  hashes all that decides the rows (:func:`mechsteer.cell_key`): the cell, the function that computes it, all files of
  the model's checkpoint, the prompts, and the versions of mechsteer, PyTorch, transformers and TransformerLens; of a
  function of your own its code and the file that it stands in. It does not hash the device and the batch size, which
  change no more than rounding, nor other files that your function uses: give the sweep another folder when you change
  them. Cells of several grids may lie in one folder.
- ``errors/ID.json``: the error of a cell that failed. It is computed again in the next run.
- ``results.parquet``: the rows of all finished cells, in the order of the grid. Made from the cells alone, so it is the
  same file whether the sweep was killed or not, and whoever computed the cells. ``summary.parquet`` and
  ``summary.csv``: one row a cell.
- ``sweep.json``: how many cells there are, finished and failed, and whether that is all.
- ``directions/``: vectors that the cells of a steering sweep share.

Cells are computed model by model, whatever the grid's order, and each worker holds one model at a time.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.checksums import check
from mechsteer.errors import MechsteerError, one_of, positive_int
from mechsteer.files import (
    atomic_path,
    digest,
    parquet_bytes,
    read_bytes,
    read_record,
    read_table,
    remove,
    versions,
    writable_dir,
    write_record,
    write_table,
)
from mechsteer.identity import cell_key, described
from mechsteer.studies.core.result import Result
from mechsteer.studies.sweep.executors import EXECUTORS, Executor, Failure, Job, Work, function, name_of
from mechsteer.studies.sweep.grids import Cell, distinct
from mechsteer.studies.sweep.jobs import import_modules

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from mechsteer.steering import Method


NAME = "sweep"
STEERING = "mechsteer.studies.sweep.steering:run"
LOAD = "mechsteer.models:load"


def sweep(
    cells: Iterable[Cell],
    out: str | os.PathLike[str],
    *,
    run: "str | Callable[..., pd.DataFrame]" = STEERING,
    executor: str | Executor = "serial",
    workers: int = 2,
    resume: bool = True,
    load: str | Callable[..., Any] = LOAD,
    device: str | None = None,
    batch_size: int = 64,
    modules: Sequence[str] = (),
    progress: bool = True,
) -> Result:
    """Compute cells; those that were finished before in the same folder are not computed again.

    Args:
        cells: What to compute, e.g. from :func:`grid`; equal ones are computed once.
        out: The sweep's folder; see the top of this module.
        run: What computes a cell. Default: :mod:`mechsteer.studies.sweep.steering`, which explains the names of its
            cells. Else ``run(cell, model)``, a function at the top of a module or its name ``"module:function"``, that
            returns a DataFrame. ``model`` is None for cells without a model. It should depend on the cell alone.
        executor: ``"serial"``, in this process; ``"processes"``, on this machine; ``"ray"``, on a Ray cluster; or an
            executor with options of its own, such as ``Ray(workers=8, num_gpus=1, address="auto")``, of
            :mod:`mechsteer.studies.sweep.executors`.
        workers: How many processes or actors; not used if ``executor`` is no name.
        resume: False refuses a folder that has finished cells.
        load: How a worker gets a cell's model: ``load(name, device=device, dtype=dtype)``, ``dtype`` being the cell's
            or None.
        device: Passed to ``load``.
        batch_size: Prompts computed together, in a steering sweep.
        modules: Of a steering sweep: names of modules that register methods of your own, imported here before the cells
            are read, and in each worker.
        progress: Show a bar.

    Returns:
        The tables ``results``, all rows in the order of the cells (``cell``, the cell's id and values, and what ``run``
        gave; a column that ``run`` gave under the name of a value is kept), and ``summary``, one row a cell: its id and
        values, ``state`` (``finished`` or ``failed``), ``error``, ``rows``, and the mean of each column of truth values
        or floating-point numbers. A cell that fails does not stop the others: look at ``state``.

    Raises:
        MechsteerError: for no cells, an unknown name or value in them, a module or executor that is not there, or a
            folder that cannot be written to.
    """
    if isinstance(executor, str):
        one_of("executor", executor, EXECUTORS)
        executor = EXECUTORS[executor](positive_int("workers", workers))
    if isinstance(executor, type) or not isinstance(executor, Executor):  # a class has what its objects have
        raise MechsteerError(f"executor must be one of {', '.join(EXECUTORS)} or an executor, got {executor!r}.")
    positive_int("batch_size", batch_size)
    run_name, load_name = name_of(run), name_of(load)
    for called in (run, load):
        if name_of(called) != LOAD:
            function(called)  # one that is not there is named before anything is written
    if modules and run_name != STEERING:
        raise MechsteerError(f"modules are for steering sweeps; the module of {run_name} imports what it needs itself.")
    import_modules(modules)
    chosen = _chosen(cells, run_name)
    jobs = _jobs(chosen, run_name, load_name)
    folder = _Folder(writable_dir(out), run_name, jobs)
    folder.look()
    folder.begin(resume=resume)
    options: dict[str, Any] = {}
    if run_name == STEERING:
        known = {found.apply.__module__ for found in _own_methods(chosen)} - {"__main__", *modules}
        options = {"directions": str(folder.path / "directions"), "batch_size": batch_size}
        options["modules"] = [*modules, *sorted(known)]
    work = Work(run, load, device, options)
    left = _model_by_model([job for job in jobs if job.id not in folder.found])
    try:
        with tqdm(desc=NAME, unit="cell", total=len(jobs), initial=len(jobs) - len(left), disable=not progress) as bar:
            if left:
                _compute(executor, work, left, folder, bar)
    except KeyboardInterrupt:
        folder.end(complete=False)
        raise
    return Result(folder.path, folder.end(complete=True))


def _compute(executor: Executor, work: Work, jobs: Sequence[Job], folder: "_Folder", bar: Any) -> None:
    """Compute the jobs and write each as soon as it is there."""
    by_id, failed = {job.id: job for job in jobs}, 0
    with closing(executor.run(work, jobs)) as outcomes:  # type: ignore[type-var]  # every one is a generator
        for done in outcomes:
            folder.write(by_id[done.id], done.result)
            if isinstance(done.result, Failure):
                failed += 1
                bar.set_postfix(failed=failed)
            bar.update()


def _chosen(cells: Iterable[Cell], run: str) -> list[Cell]:
    """The cells, each once; those of a steering sweep in normal form."""
    chosen = list(cells)
    wrong = [cell for cell in chosen if not isinstance(cell, Cell)]
    if wrong or not chosen:
        raise MechsteerError(f"A sweep needs cells, e.g. from grid(layer=[0, 1]); got {wrong[:1] or 'none'}.")
    if run == STEERING:
        from mechsteer.studies.sweep.steering import normal

        chosen = [normal(cell) for cell in chosen]
    for name in dict.fromkeys(name for cell in chosen for name in cell):
        _check_column(name, [cell.get(name) for cell in chosen])
    return distinct(chosen)


def _check_column(name: str, values: Iterable[Any]) -> None:
    """Raise if values of one name are of types that no column can hold together.

    Raises:
        MechsteerError: with an example of each.
    """
    kinds = {_KINDS.get(type(value), "text"): value for value in values if value is not None}
    if len(kinds) > 1:
        raise MechsteerError(f"{name} must be of one type in all cells, got {' and '.join(map(repr, kinds.values()))}.")


_KINDS: dict[type, str] = {bool: "truth value", int: "number", float: "number"}


def _jobs(cells: Sequence[Cell], run: str, load: str) -> list[Job]:
    """The cells with their ids: hashes of all that decides their rows."""
    checkpoint, data = cache(_checkpoint), cache(_data_hash)
    own = {called: described(function(called)) for called in (run, load) if called not in (STEERING, LOAD)}
    jobs = []
    for cell in cells:
        options: dict[str, Any] = {"run": run, "load": load, "own": own, "cell": dict(cell)}
        if cell.get("model") is not None and load == LOAD:
            options["checkpoint"] = checkpoint(cell["model"])
        if run == STEERING:
            from mechsteer.studies.sweep.steering import DATA_NAMES

            options["own"] = own | {found.name: described(found.apply) for found in _own_methods([cell])}
            options["data"] = data(Cell.of({**dict.fromkeys(cell), **{name: cell[name] for name in DATA_NAMES}}))
        jobs.append(Job(cell_key(None, options=options)[:16], cell))
    return jobs


def _own_methods(cells: Iterable[Cell]) -> "list[Method]":
    """The methods of steering cells that are none of ours."""
    from mechsteer.steering import METHODS

    named = dict.fromkeys(cell["method"] for cell in cells)
    return [METHODS[name] for name in named if name in METHODS and METHODS[name].own]


def _data_hash(cell: Cell) -> str:
    from mechsteer.studies.sweep.steering import data_hash

    return data_hash(cell)


def _checkpoint(name: Any) -> str:
    from mechsteer.models.checkpoint.resolve import checkpoint_digest

    if not isinstance(name, str):
        raise MechsteerError(f"model must be a name for mechsteer.load, got {name!r}.")
    return checkpoint_digest(name)


def _model_by_model(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in their order, but all of one model before the next."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(digest([job.cell.get("model"), job.cell.get("dtype")]), []).append(job)
    return [job for group in groups.values() for job in group]


@dataclass(frozen=True)
class _Folder:
    """The files of a sweep."""

    path: Path
    run: str
    jobs: Sequence[Job]
    found: dict[str, Path] = field(default_factory=dict)
    """The sound files of finished cells, by id."""

    def look(self) -> None:
        """Find the finished cells, of whatever grid."""
        for path in sorted((self.path / "cells").glob("[!.]*.parquet")):
            with suppress(MechsteerError):  # a damaged one is computed again
                check(read_bytes(path), path, "cell")
                self.found[path.stem] = path

    def error_of(self, job: Job) -> Path:
        return self.path / "errors" / f"{job.id}.json"

    def begin(self, *, resume: bool) -> None:
        """Say what is to be done; results of an earlier run go, for they could be taken for those of this one.

        Raises:
            MechsteerError: if there are finished cells and that is not wanted.
        """
        if self.found and not resume:
            raise MechsteerError(
                f"{self.path} has {len(self.found)} finished cells. To compute all again, give another folder or "
                "delete this one; resume=True goes on."
            )
        finished = sum(job.id in self.found for job in self.jobs)
        if finished < len(self.jobs):
            for name in ("results.parquet", "summary.parquet", "summary.csv"):
                remove(self.path / name)
        self._report(finished, 0, complete=False)

    def write(self, job: Job, result: "pd.DataFrame | Failure") -> None:
        """Write a cell's rows or error."""
        if not isinstance(result, Failure):
            try:
                content = parquet_bytes(_labelled(job, result), part=True)
            except (ValueError, TypeError, NotImplementedError, ArithmeticError) as error:  # pyarrow's are among these
                result = Failure(f"Its table cannot be written as parquet: {error}")
            else:
                path = self.path / "cells" / f"{job.id}.parquet"
                _write(content, path)
                self.found[job.id] = path
                remove(self.error_of(job))
                return
        record = {"cell": dict(job.cell), "error": result.error, "traceback": result.traceback}
        write_record(self.error_of(job), record)

    def end(self, *, complete: bool) -> "dict[str, pd.DataFrame]":
        """Put the cells together, in the order of the grid."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables, summary = [], []
        for job in self.jobs:
            rows = pq.read_table(self.found[job.id]) if job.id in self.found else None
            if rows is not None:
                tables.append(rows)
            if rows is not None or self.error_of(job).exists():
                summary.append(self._summary(job, rows))
        try:
            results = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        except pa.ArrowException as error:
            raise MechsteerError(
                f"The cells in {self.path / 'cells'} have columns of one name whose types do not go together: {error}"
            ) from None
        _write(parquet_bytes(results), self.path / "results.parquet")
        write_table(_frame(summary), self.path / "summary")
        failed = sum(row["state"] == "failed" for row in summary)
        self._report(len(tables), failed, complete=complete)
        return {name: read_table(self.path / f"{name}.parquet") for name in ("results", "summary")}

    def _summary(self, job: Job, rows: "pa.Table | None") -> dict[str, Any]:
        """One row: what the cell is, and the means of its scores."""
        row = {"cell": job.id, **_columns(job.cell), "state": "failed", "error": "", "rows": 0}
        if rows is None:
            return row | {"error": read_record(self.error_of(job), "record of an error")["error"]}
        table = rows.to_pandas()
        scores = [name for name in table.columns if table[name].dtype.kind in "bf" and name not in row]
        means = {name: float(table[name].mean()) for name in scores}
        return row | {"state": "finished", "rows": len(table)} | means

    def _report(self, finished: int, failed: int, *, complete: bool) -> None:
        counts = {"cells": len(self.jobs), "finished": finished, "failed": failed, "complete": complete}
        write_record(self.path / "sweep.json", {"study": NAME, "run": self.run, **counts, "versions": versions()})


def _labelled(job: Job, table: "pd.DataFrame") -> "pa.Table":
    """The rows with their cell's id and values first."""
    import pyarrow as pa

    if index := [name for name in table.index.names if name is not None and name not in table]:  # of a grouped table
        table = table.reset_index(level=index)
    labels = {"cell": job.id} | _columns(job.cell)
    rows = table.assign(**{name: [value] * len(table) for name, value in labels.items() if name not in table})
    first = [name for name in labels if name not in table]
    made = pa.Table.from_pandas(rows[[*first, *table.columns]], preserve_index=False)
    return made.replace_schema_metadata(None)  # pandas's notes on one cell's columns are not true of all cells


def _frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """The rows as a table in which whole numbers stay whole where some cells have none."""
    import pandas as pd

    types: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            types.setdefault(name, set()).add(type(value))
    return pd.DataFrame(rows).astype({name: "Int64" for name, found in types.items() if found == {int, type(None)}})


def _columns(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a cell, as columns: lists and dicts as text."""
    return {name: str(value) if isinstance(value, (list, dict)) else value for name, value in cell.items()}


def _write(content: bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
