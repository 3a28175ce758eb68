"""Where the cells of a sweep are computed: in this process, in a pool of processes, or on Ray.

An executor yields each job's outcome as soon as it is there, in any order. A cell that raises an error is an outcome
like any other. A worker process that dies (killed, out of memory, a crash in compiled code) loses only the cell that it
was computing: the cell is given to a new worker, ``retries`` times at most.

- :class:`Processes`: see :mod:`mechsteer.studies.sweep.processes`. Workers use one thread each, and end when the
  process that started them is killed.
- :class:`Ray`: see :mod:`mechsteer.studies.sweep.ray_actors`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mechsteer.studies.sweep.jobs import Compute, Done, Failure, Job, Work, Worker, function, name_of
from mechsteer.studies.sweep.processes import Processes
from mechsteer.studies.sweep.ray_actors import Ray

__all__ = ["EXECUTORS", "Executor", "Failure", "Processes", "Ray", "Serial", "function", "kept", "name_of"]


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


EXECUTORS: Mapping[str, Callable[[int], Executor]] = {
    "serial": lambda workers: Serial(),
    "processes": lambda workers: Processes(workers),
    "ray": lambda workers: Ray(workers),
}
