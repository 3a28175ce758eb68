"""Sweeps on a local Ray cluster: the same rows, one model a worker, and a killed worker costs its cell alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mechsteer.errors import MechsteerError
from mechsteer.studies.sweep import sweep
from mechsteer.studies.sweep.executors import Ray
from mechsteer.studies.sweep.grids import grid
from tests.studies import sweep_runs

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
QUIET: dict[str, Any] = {"progress": False, "load": sweep_runs.load}
CELLS = grid(model="m", a=[0, 1, 2, 3], b=[0, 1, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a log of what the workers did and, in ``out``, a sweep on Ray of which one worker was killed.

    A cluster takes many seconds to start, so the one that this sweep started stays open for the other tests.
    """
    folder = tmp_path_factory.mktemp("ray")
    ended: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_LOG", str(folder / "log"))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        with pytest.MonkeyPatch.context() as kept_open:
            kept_open.setattr(ray, "shutdown", lambda: ended.append(None))
            sweep(CELLS, folder / "out", run=sweep_runs.dies_once, executor="ray", workers=2, **QUIET)
        assert ended == [None]  # it would have been shut down
        yield folder
        ray.shutdown()


def test_a_killed_worker_loses_its_cell_alone_and_each_loads_its_model_once(folder: Path, tmp_path: Path) -> None:
    lines = [line.split(" ", 1) for line in (folder / "log").read_text().splitlines()]
    begun = [text for _, text in lines if text.startswith("begin")]
    assert begun.count("begin 1 1") == 2 and len(begun) == len(CELLS) + 1
    loads = [pid for pid, text in lines if text == "load m"]
    assert len(loads) == len(set(loads)) == 3 and set(loads) == {pid for pid, _ in lines}
    assert str(os.getpid()) not in loads
    sweep(CELLS, tmp_path / "whole", run=sweep_runs.dies_once, **QUIET)  # dies no more: the log says so
    for name in ("results.parquet", "summary.parquet"):
        assert (folder / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_cluster_of_this_machine_asks_for_a_token(folder: Path) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"  # which Ray sets for itself where nobody else did


def test_a_cell_that_kills_every_worker_is_given_up_and_only_it(folder: Path, tmp_path: Path) -> None:
    executor = Ray(workers=2, retries=1)
    result = sweep(CELLS, tmp_path / "out", run=sweep_runs.always_dies, executor=executor, **QUIET)
    (failed,) = result.summary[result.summary["state"] == "failed"].itertuples()
    assert (failed.a, failed.b) == (1, 1) and "died 2 times" in failed.error
    assert len(result.tables["results"]) == 11 * 3


def test_errors_in_cells_come_back_and_a_connection_that_was_there_stays(folder: Path, tmp_path: Path) -> None:
    cells = grid(a=[1, 3], b=[0, 1])
    result = sweep(cells, tmp_path / "out", run=sweep_runs.failing_always, executor="ray", **QUIET)
    assert result.summary["state"].tolist() == ["failed", "failed", "finished", "finished"]
    assert result.summary["error"].tolist()[0] == "KeyError: 'no such thing'"
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        (Ray(workers=2, num_gpus=99), "2 workers with 99 GPUs each need 198, but the Ray cluster has"),
        (Ray(workers=2, num_cpus=500.5), "2 workers with 500.5 CPUs each need 1001, but the Ray cluster has"),
    ],
)
def test_more_than_the_cluster_has_is_refused_rather_than_waited_for(
    executor: Ray, said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(MechsteerError, match=said):
        sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, executor=executor, **QUIET)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_named(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(MechsteerError, match=f"Cannot connect to Ray at '{address}'"):
        sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, executor=Ray(address=address), **QUIET)
