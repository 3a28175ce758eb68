"""Sweeps on a local Ray cluster: the same rows, one model a worker, and a killed worker costs its cell alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mechsteer.errors import MechsteerError
from mechsteer.studies.executors import Ray
from mechsteer.studies.grid import grid
from mechsteer.studies.sweep import sweep
from tests.studies import sweep_runs

pytestmark = [pytest.mark.slow]
ray = pytest.importorskip("ray")
QUIET: dict[str, Any] = {"progress": False, "load": sweep_runs.load}
CELLS = grid(model="m", a=[0, 1, 2, 3], b=[0, 1, 2])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the workers of this module's cluster write to."""
    path = tmp_path_factory.mktemp("ray") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_LOG", str(path))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        yield path


@pytest.fixture(scope="module")
def cluster(log: Path) -> Iterator[None]:
    """A cluster with two CPUs, already connected to."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_killed_worker_loses_its_cell_alone_and_the_cluster_ends_with_the_sweep(log: Path, tmp_path: Path) -> None:
    log.write_text("")
    sweep(CELLS, tmp_path / "out", run=sweep_runs.dies_once, executor="ray", workers=2, **QUIET)
    assert not ray.is_initialized()
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    begun = [text for _, text in lines if text.startswith("begin")]
    assert begun.count("begin 1 1") == 2 and len(begun) == len(CELLS) + 1
    loads = [pid for pid, text in lines if text == "load m"]
    assert len(loads) == len(set(loads)) == 3 and set(loads) == {pid for pid, _ in lines}
    assert str(os.getpid()) not in loads
    sweep(CELLS, tmp_path / "whole", run=sweep_runs.dies_once, **QUIET)
    for name in ("results.parquet", "summary.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_cell_that_kills_every_worker_is_given_up_and_only_it_and_an_open_cluster_stays(
    cluster: None, tmp_path: Path
) -> None:
    executor = Ray(workers=2, retries=1)
    result = sweep(CELLS, tmp_path / "out", run=sweep_runs.always_dies, executor=executor, **QUIET)
    (failed,) = result.summary[result.summary["state"] == "failed"].itertuples()
    assert (failed.a, failed.b) == (1, 1) and "died 2 times" in failed.error
    assert len(result.tables["results"]) == 11 * 3
    assert ray.is_initialized()


def test_errors_in_cells_come_back(cluster: None, tmp_path: Path) -> None:
    cells = grid(a=[1, 3], b=[0, 1])
    result = sweep(cells, tmp_path / "out", run=sweep_runs.failing_always, executor="ray", **QUIET)
    assert result.summary["state"].tolist() == ["failed", "failed", "finished", "finished"]
    assert result.summary["error"].tolist()[0] == "KeyError: 'no such thing'"


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        (Ray(workers=2, num_gpus=1), "2 workers with 1 GPUs each need 2, but the Ray cluster has 0"),
        (Ray(workers=2, num_cpus=1.5), "2 workers with 1.5 CPUs each need 3, but the Ray cluster has 2"),
    ],
)
def test_more_than_the_cluster_has_is_refused_rather_than_waited_for(
    executor: Ray, said: str, cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(MechsteerError, match=said):
        sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, executor=executor, **QUIET)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_named(address: str, tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(MechsteerError, match=f"Cannot connect to Ray at '{address}'"):
        sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, executor=Ray(address=address), **QUIET)
