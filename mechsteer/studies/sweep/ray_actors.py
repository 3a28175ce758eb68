"""Cells on Ray: actors in a ``ray.util.ActorPool``. Restarting and retrying, placement and GPUs are Ray's."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mechsteer.errors import MechsteerError, finite
from mechsteer.studies.sweep.jobs import Compute, Done, Job, Work, Worker, check_counts, died


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
        check_counts(self.workers, self.retries)
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
            yield Done(name, died(self.retries + 1, lost))

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
