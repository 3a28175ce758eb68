"""Where the cells of a sweep are computed: in this process, in a pool of processes, or on Ray.

An executor yields each job's outcome as soon as it is there, in any order. A cell that raises an error is an outcome
like any other. A worker process that dies (killed, out of memory, a crash in compiled code) loses only the cell that it
was computing: the cell is given to a new worker, ``retries`` times at most.

- :class:`Processes`: one ``concurrent.futures`` pool of a single spawned process for each worker, so that a process
  that dies breaks no other's work and it is known whose fault it was. Workers use one thread each, and end when the
  process that started them is killed.
- :class:`Ray`: actors in a ``ray.util.ActorPool``. Restarting and retrying, placement and GPUs are Ray's.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mechsteer.errors import MechsteerError, finite, nearest, positive_int

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


@runtime_checkable
class Executor(Protocol):
    """What an executor must have."""

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Done]:
        """Compute jobs, with workers that end with them."""
        ...

    def started(self, work: Work) -> AbstractContextManager[Compute]:
        """What computes jobs, once or several times; its workers end with the block."""
        ...


@dataclass
class Kept:
    """An executor whose workers, with their models, stay from one run to the next of the same work."""

    executor: Executor
    stack: ExitStack
    work: Work | None = None
    compute: Compute | None = None

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Done]:
        """Compute jobs."""
        if self.compute is None or work != self.work:
            self.stack.close()
            self.work, self.compute = work, self.stack.enter_context(self.executor.started(work))
        yield from self.compute(jobs)

    def started(self, work: Work) -> AbstractContextManager[Compute]:
        """Workers of their own."""
        return self.executor.started(work)


@contextmanager
def kept(executor: Executor | None) -> Iterator[Executor | None]:
    """The executor with workers that stay until this block ends."""
    with ExitStack() as stack:
        yield None if executor is None else Kept(executor, stack)


@dataclass(frozen=True)
class Serial:
    """Cells one after another in this process."""

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Done]:
        """Compute jobs, with workers that end with them."""
        with self.started(work) as compute:
            yield from compute(jobs)

    @contextmanager
    def started(self, work: Work) -> Iterator[Compute]:
        """One worker, this process."""
        worker = Worker(work)
        yield lambda jobs: (worker.compute(job) for job in jobs)


@dataclass(frozen=True)
class Processes:
    """Cells in worker processes of this machine.

    A script that uses it must be importable: its own work stands under ``if __name__ == "__main__":``.

    Attributes:
        workers: How many.
        retries: How often a cell is tried again whose worker died.
    """

    workers: int = 2
    retries: int = 2

    def __post_init__(self) -> None:
        _check(self.workers, self.retries)

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Done]:
        """Compute jobs, with workers that end with them."""
        with self.started(work) as compute:
            yield from compute(jobs)

    @contextmanager
    def started(self, work: Work) -> Iterator[Compute]:
        """As many processes as there are jobs, this many at most."""
        for called in (work.run, work.load):
            _check_spawnable(called)
        pool = _Pool(work, self.workers, self.retries)
        try:
            yield pool.compute
        finally:
            pool.stop(kill=False)


@dataclass
class _Pool:
    """Processes, each of which computes one job at a time."""

    work: Work
    most: int
    retries: int
    processes: "list[_Process]" = field(default_factory=list)

    def compute(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Compute the jobs."""
        waiting, deaths = deque(jobs), Counter[str]()
        running: dict[Future[Done], tuple[_Process, Job]] = {}
        count = min(self.most, len(jobs))
        self.processes += [_Process(self.work) for _ in range(len(self.processes), count)]
        try:
            for process in self.processes[:count]:
                job = waiting.popleft()
                running[process.submit(job)] = (process, job)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    process, job = running.pop(future)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        process.replace()
                        deaths[job.id] += 1
                        often = deaths[job.id]
                        outcome = Done(job.id, _died(often)) if often > self.retries else None
                    except Exception as error:  # a table that cannot be sent
                        outcome = Done(job.id, failure(error))
                    if outcome is None:
                        waiting.appendleft(job)
                    if waiting:
                        job = waiting.popleft()
                        running[process.submit(job)] = (process, job)
                    if outcome is not None:
                        yield outcome
        finally:
            if running or waiting:
                self.stop(kill=True)

    def stop(self, *, kill: bool) -> None:
        """End the processes."""
        for process in self.processes:
            process.stop(kill=kill)
        self.processes.clear()


class _Process:
    """A pool of one process, which is replaced when it dies."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.start()

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_start, initargs=(self.work,))
        self.pid = self.pool.submit(os.getpid)

    def submit(self, job: Job) -> Future[Done]:
        try:
            return self.pool.submit(_compute, job)
        except BrokenProcessPool:  # died between two cells
            self.replace()
            return self.pool.submit(_compute, job)

    def replace(self) -> None:
        """Start another process.

        Raises:
            MechsteerError: if this one never began to work: then the next one would not either.
        """
        if self.pid.exception() is not None:
            raise MechsteerError(
                "A worker process died while it started. In a script, call sweep under "
                '`if __name__ == "__main__":`, for workers import the script; its error is printed above.'
            )
        self.pool.shutdown(wait=False)
        self.start()

    def stop(self, *, kill: bool) -> None:
        """End the process, in the middle of a cell if need be."""
        if kill:
            with suppress(BrokenProcessPool, ProcessLookupError):
                os.kill(self.pid.result(), signal.SIGTERM)
        self.pool.shutdown(wait=False, cancel_futures=True)


_worker: Worker | None = None  # of this process, if it is a worker


def _start(work: Work) -> None:
    """What a worker process does first."""
    global _worker
    _worker = Worker(work)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several workers' threads would only wait for each other
    if "torch" in sys.modules:  # by the script that started the sweep
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the sweep's own one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A sweep that was killed leaves no workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _compute(job: Job) -> Done:
    assert _worker is not None
    return _worker.compute(job)


@dataclass(frozen=True)
class Ray:
    """Cells on a Ray cluster (``pip install "mechsteer[ray]"``); each worker is an actor that holds its model.

    Attributes:
        workers: How many actors.
        retries: How often a cell is tried again whose worker died.
        num_cpus: CPUs of each worker, as Ray counts them. Ray also sets its number of threads to it.
        num_gpus: GPUs of each worker; less than 1 to share one. Ray shows each worker only its own.
        address: Of a running cluster, e.g. ``"auto"``. Default: what RAY_ADDRESS says, else a cluster on this machine
            that ends with the sweep. A connection to Ray that is already there is used and left open. Machines of a
            cluster need mechsteer; tables come back to this one, where they are written.
    """

    workers: int = 2
    retries: int = 2
    num_cpus: float = 1
    num_gpus: float = 0
    address: str | None = None

    def __post_init__(self) -> None:
        _check(self.workers, self.retries)
        for name in ("num_cpus", "num_gpus"):
            if finite(name, getattr(self, name)) < 0:
                raise MechsteerError(f"{name} must not be negative, got {getattr(self, name)}.")
        if find_spec("ray") is None:
            raise MechsteerError('executor="ray" needs Ray: pip install "mechsteer[ray]".')

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Done]:
        """Compute jobs, with workers that end with them."""
        with self.started(work) as compute:
            yield from compute(jobs)

    @contextmanager
    def started(self, work: Work) -> Iterator[Compute]:
        """As many actors as there are jobs, this many at most."""
        with self._cluster() as ray:
            actor = ray.remote(
                num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_restarts=-1, max_task_retries=self.retries
            )(Worker)
            actors: list[Any] = []

            def compute(jobs: Sequence[Job]) -> Iterator[Done]:
                count = min(self.workers, len(jobs))
                self._check_resources(ray, count)
                actors.extend(actor.remote(work) for _ in range(len(actors), count))
                return self._outcomes(ray, actors[:count], jobs)

            try:
                yield compute
            finally:
                for one in actors:
                    ray.kill(one)

    def _outcomes(self, ray: Any, actors: Sequence[Any], jobs: Sequence[Job]) -> Iterator[Done]:
        from ray.util import ActorPool

        left, pool, lost = {job.id: job for job in jobs}, ActorPool(list(actors)), ""
        for job in jobs:
            pool.submit(lambda worker, job: worker.compute.remote(job), job)
        while pool.has_next():
            try:
                done: Any = pool.get_next_unordered()
            except ray.exceptions.RayError as error:  # it does not say which job it was
                lost = f" ({type(error).__name__})"
                continue
            del left[done.id]
            yield done
        for name in left:
            yield Done(name, _died(self.retries + 1, lost))

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Ray, connected."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        # A cluster of our own may count more CPUs than there are: workers then take turns on them.
        cpus = max(os.cpu_count() or 1, int(-(-self.workers * self.num_cpus // 1)))
        local = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
        try:
            _check_listening(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
        except Exception as error:  # some of Ray's are of no narrower type
            raise MechsteerError(f"Cannot connect to Ray at {address!r}: {error}") from error

    def _check_resources(self, ray: Any, workers: int) -> None:
        """Raise unless all workers fit: Ray would wait for ever.

        Raises:
            MechsteerError: with what was asked for and what there is.
        """
        there = ray.cluster_resources()
        for name, each in (("CPU", self.num_cpus), ("GPU", self.num_gpus)):
            if workers * each > there.get(name, 0):
                raise MechsteerError(
                    f"{workers} workers with {each:g} {name}s each need {workers * each:g}, but the Ray cluster has "
                    f"{there.get(name, 0):g}."
                )


def _check_listening(address: str) -> None:
    """Raise OSError if nothing listens at ``host:port``: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


EXECUTORS: Mapping[str, Callable[[int], Executor]] = {
    "serial": lambda workers: Serial(),
    "processes": lambda workers: Processes(workers),
    "ray": lambda workers: Ray(workers),
}


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


def _died(times: int, why: str = "") -> Failure:
    return Failure(f"Its worker process died {times} times{why}: killed, out of memory, or a crash in compiled code.")


def _check(workers: int, retries: int) -> None:
    positive_int("workers", workers)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise MechsteerError(f"retries must be an integer of at least 0, got {retries!r}.")


def _check_spawnable(called: str | Callable[..., Any]) -> None:
    """Raise for a function that exists in a notebook or prompt alone.

    Raises:
        MechsteerError: saying where to put it.
    """
    if name_of(called).startswith("__main__:") and not hasattr(sys.modules["__main__"], "__file__"):
        raise MechsteerError(
            f"{called!r} is defined in a notebook or at a prompt, where worker processes cannot see it: put it into a "
            'module, or use executor="serial" or "ray".'
        )
