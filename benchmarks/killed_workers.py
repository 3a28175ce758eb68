"""What a killed worker takes with it, in every pool that could compute the cells of a sweep.

Twelve cells are given to two workers. The process that computes the fourth is killed (SIGKILL, as the kernel does when
memory is out) the first time it is tried, or every time. A pool serves if the cells that it was not computing are
finished and none of them is begun again, and if the killed one is tried again. Each pool runs in a process of its own,
which is ended where it hangs.

- ``mechsteer``: :class:`mechsteer.studies.sweep.executors.Processes`, a ``concurrent.futures`` pool of one process for
  each worker.
- ``concurrent.futures``: one ``ProcessPoolExecutor``.
- ``joblib``: ``Parallel`` on loky, its default.
- ``multiprocessing``: ``Pool.apply_async``.
- ``ray``: :class:`mechsteer.studies.sweep.executors.Ray`, actors on a cluster of this machine alone.
- ``ray, local mode``: ``ray.init(local_mode=True)``, which has no processes.

Run: ``.venv/bin/python -m benchmarks.killed_workers`` (a few minutes; twice the patience for a pool that hangs).
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CELLS = tuple(range(12))
KILLED = 3
WORKERS = 2
PATIENCE = 180
"""Seconds after which a pool counts as hanging."""


def compute(cell: int) -> int:
    """A cell: says that it was begun, and dies if it is the one."""
    folder = Path(os.environ["KILLED_WORKERS_LOG"])
    with (folder / "begun").open("a", encoding="utf-8") as file:
        file.write(f"{cell}\n")
    time.sleep(0.2)
    often = os.environ["KILLED_WORKERS_TIMES"] == "always"
    if cell == KILLED and (often or not (folder / "killed").exists()):
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return cell


def job(cell: dict[str, int], model: None) -> Any:
    """The same, as a cell of a sweep."""
    import pandas as pd

    return pd.DataFrame({"cell": [compute(cell["number"])]})


def by_executor(name: str) -> Iterable[int]:
    """Our executors."""
    from mechsteer.studies.sweep.executors import Failure, Job, Processes, Ray, Work

    executor = Processes(WORKERS) if name == "mechsteer" else Ray(WORKERS)
    for done in executor.run(Work(job), [Job(str(number), {"number": number}) for number in CELLS]):
        if not isinstance(done.result, Failure):
            yield int(done.id)


def by_futures() -> Iterable[int]:
    """One pool of the standard library."""
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with ProcessPoolExecutor(WORKERS) as pool:
        for future in as_completed([pool.submit(compute, cell) for cell in CELLS]):
            if future.exception() is None:
                yield future.result()


def by_joblib() -> Iterable[int]:
    """Joblib's pool."""
    from joblib import Parallel, delayed

    yield from Parallel(WORKERS, return_as="generator_unordered")(delayed(compute)(cell) for cell in CELLS)


def by_multiprocessing() -> Iterable[int]:
    """The older pool of the standard library."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        for result in [pool.apply_async(compute, (cell,)) for cell in CELLS]:
            yield result.get()


def by_ray_in_place() -> Iterable[int]:
    """Ray without processes."""
    import ray

    ray.init(local_mode=True, logging_level="ERROR")
    remote = ray.remote(compute)
    for future in [remote.remote(cell) for cell in CELLS]:
        yield ray.get(future)


POOLS: dict[str, Callable[[], Iterable[int]]] = {
    "mechsteer": lambda: by_executor("mechsteer"),
    "concurrent.futures": by_futures,
    "joblib": by_joblib,
    "multiprocessing": by_multiprocessing,
    "ray": lambda: by_executor("ray"),
    "ray, local mode": by_ray_in_place,
}


def measured(name: str, times: str) -> dict[str, Any]:
    """One pool, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"KILLED_WORKERS_LOG": folder, "KILLED_WORKERS_TIMES": times}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.killed_workers", name]
        script = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            _, said = script.communicate(timeout=PATIENCE)
            ended = (
                "" if script.returncode == 0 else (said.strip().splitlines() or [f"signal {-script.returncode}"])[-1]
            )
        except subprocess.TimeoutExpired:
            ended = "hangs"
        finally:
            if script.poll() is None:
                os.killpg(script.pid, signal.SIGKILL)
                script.communicate()
        begun = Counter(_numbers(Path(folder) / "begun"))
        finished = set(_numbers(Path(folder) / "finished")) - {KILLED}
        return {
            "pool": name,
            "killed": times,
            "others_finished": len(finished),
            "of": len(CELLS) - 1,
            "others_begun_again": sum(count > 1 for cell, count in begun.items() if cell != KILLED),
            "killed_one_tried": begun[KILLED],
            "killed_one_finished": KILLED in _numbers(Path(folder) / "finished"),
            "ended": ended[:80],
        }


def _numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []


def main() -> None:
    """Measure all, or run the pool that is named."""
    if len(sys.argv) > 1:
        finished = Path(os.environ["KILLED_WORKERS_LOG"]) / "finished"
        for cell in POOLS[sys.argv[1]]():
            with finished.open("a", encoding="utf-8") as file:
                file.write(f"{cell}\n")
        return
    import pandas as pd

    table = pd.DataFrame([measured(name, times) for name in POOLS for times in ("once", "always")])
    table.to_csv(Path(__file__).parent / "results" / "killed_workers.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
