"""Cells in worker processes of this machine.

One ``concurrent.futures`` pool of a single spawned process for each worker, so that a process that dies breaks no
other's work and it is known whose fault it was: with one pool of several, and with joblib's and ``multiprocessing``'s,
a killed process takes cells of others with it (``benchmarks/killed_workers.py``).
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.studies.sweep.jobs import Compute, Done, Job, Work, Worker, check_counts, died, failure, name_of


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
        check_counts(self.workers, self.retries)

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
                        outcome = Done(job.id, died(often)) if often > self.retries else None
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
