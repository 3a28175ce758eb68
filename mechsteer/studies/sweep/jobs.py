"""The cells of a sweep as jobs, and the worker that computes them, wherever it is."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, natural_int, nearest, positive_int

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Job:
    """A cell that is to be computed, and the name of its files."""

    id: str
    cell: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """Why a cell has no table.

    Attributes:
        error: One line.
        traceback: Where it happened; empty if the worker died.
    """

    error: str
    traceback: str = ""


@dataclass(frozen=True)
class Done:
    """A job's id, and its table or why there is none."""

    id: str
    result: "pd.DataFrame | Failure"


@dataclass(frozen=True)
class Work:
    """What workers do with cells.

    Attributes:
        run: ``run(cell, model, **options)`` returns a table; the function itself or ``"module:function"``.
        load: ``load(name, device=..., dtype=...)`` returns a model; likewise.
        device: Passed to ``load``.
        options: Passed to ``run``.
    """

    run: "str | Callable[..., pd.DataFrame]"
    load: str | Callable[..., Any] = "mechsteer.models:load"
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Computes cells, one after another, with a model that is loaded once and kept until a cell has another."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.model: Any = None
        self.key: tuple[Any, Any] = (None, None)

    def compute(self, job: Job) -> Done:
        """The cell's table, or its failure; never raises an error."""
        try:
            return Done(job.id, self._table(job.cell))
        except Exception as error:  # whatever goes wrong in one cell must not stop the others
            return Done(job.id, failure(error))

    def _table(self, cell: Mapping[str, Any]) -> "pd.DataFrame":
        import pandas as pd

        run = function(self.work.run)
        table = run(cell, self._model(cell.get("model"), cell.get("dtype")), **self.work.options)
        if not isinstance(table, pd.DataFrame):
            raise MechsteerError(f"A cell's function must return a DataFrame, got {type(table).__name__}.")
        return table

    def _model(self, name: Any, dtype: Any) -> Any:
        if name is None:
            return None
        if self.key != (name, dtype):
            self.model, self.key = None, (None, None)  # the old one's memory first
            self.model = function(self.work.load)(name, device=self.work.device, dtype=dtype)
            self.key = (name, dtype)
        return self.model


Compute = Callable[[Sequence[Job]], Iterator[Done]]
"""Gives the outcome of each job as soon as it is there. A caller that stops before the last closes the generator."""


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register methods.

    Raises:
        MechsteerError: for what is no list of names, or a module that is not there.
    """
    if isinstance(names, str) or not all(isinstance(name, str) and name and name[0] != "." for name in names):
        raise MechsteerError(f'modules must be a list of names of modules, e.g. ["my_method"], got {names!r}.')
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise MechsteerError(
                f"Cannot import {name!r} of modules: {error}. A file my_method.py of the folder that the command runs "
                'in, or of one on PYTHONPATH, is "my_method".'
            ) from error


def function(named: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that ``"module:function"`` names; a function is returned as it is.

    Raises:
        MechsteerError: if there is none, naming the nearest.
    """
    if not isinstance(named, str):
        if not callable(named):
            raise MechsteerError(f'Expected a function or "module:function", got {named!r}.')
        return named
    module_name, _, name = named.partition(":")
    if not module_name or not name:
        raise MechsteerError(f'A function is named as "module:function", got {named!r}.')
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise MechsteerError(f"Cannot import {module_name!r} of {named!r}: {error}.") from error
    found = getattr(module, name, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise MechsteerError(f"{module_name} has no function {name!r}.{nearest(name, there)}")
    return found


def name_of(called: str | Callable[..., Any]) -> str:
    """``"module:function"`` of a function.

    Raises:
        MechsteerError: for one that has no lasting name, such as a lambda: cells could not be found again.
    """
    if isinstance(called, str):
        return called
    name = getattr(called, "__qualname__", "<none>")
    if "<" in name or "." in name:
        raise MechsteerError(
            f"{called!r} has no name of its own in a module, so that its finished cells could not be found again; "
            "write a function with def at the top of a module."
        )
    return f"{called.__module__}:{name}"


def failure(error: Exception) -> Failure:
    """The record of an error."""
    lines = str(error).strip().splitlines() or [""]
    name = "" if isinstance(error, MechsteerError) else f"{type(error).__name__}: "
    return Failure(f"{name}{lines[0]}", "".join(traceback.format_exception(error)))


def died(times: int, why: str = "") -> Failure:
    """The record of a cell whose worker died so often."""
    return Failure(f"Its worker process died {times} times{why}: killed, out of memory, or a crash in compiled code.")


def check_counts(workers: int, retries: int) -> None:
    """Refuse numbers of workers and of retries that are none."""
    positive_int("workers", workers)
    natural_int("retries", retries)
