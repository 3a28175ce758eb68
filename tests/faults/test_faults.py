"""Full disks, read-only folders, killed writers: one clear error, nothing partial, and nothing left for long."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer import files, plots
from mechsteer.comparison import Comparison
from mechsteer.diagnosis.diagnose_run import Diagnosis, _keep
from mechsteer.tuning.ladders import Way
from mechsteer.tuning.result import Tuning
from tests.faults.campaign import _ended, _living, campaign, compared, forked
from tests.faults.jobs import JOBS, SHARE


def _direction() -> ms.Direction:
    return ms.Direction(torch.ones(400), "blocks.1.hook_resid_post", "x")


def _figure(folder: Path) -> Any:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(range(100))
    return plots.save(figure, folder / "figure")


def _parquet(folder: Path) -> None:
    from mechsteer.studies.core import cells

    cells.write(folder, "cell", pd.DataFrame({"x": range(1000)}))


def _sweep(folder: Path) -> None:
    from mechsteer.studies.sweep import grid, sweep
    from tests.faults.jobs import cell

    sweep(grid(a=[1], b=[2]), folder, run=cell, progress=False)


WRITERS: dict[str, Callable[[Path], object]] = {
    "table": lambda folder: files.write_table(pd.DataFrame({"x": range(1000)}), folder / "t"),
    "csv": lambda folder: files.write_table(
        pd.DataFrame({"x": [f"{1 / (n + 3)}" * 9 for n in range(9)]}), folder / "t"
    ),
    "record": lambda folder: files.write_record(folder / "r.json", {"x": list(range(1000))}),
    "cell": _parquet,
    "direction": lambda folder: _direction().save(folder / "d.safetensors"),
    "intervention": lambda folder: ms.add(_direction(), 1.0).save(folder / "i.safetensors"),
    "control vector": lambda folder: _direction().to_gguf(folder / "c.gguf"),
    "figure": _figure,
    "sweep": _sweep,
    "store": lambda folder: ms.ActivationStore.create(folder / "store"),
}


@pytest.fixture
def full() -> Iterator[None]:
    """No file can become longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, full: None) -> None:
    with pytest.raises(ms.MechsteerError, match=r"Cannot write .*File too large") as caught:
        WRITERS[name](tmp_path)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "sweep.json"] == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_cannot_be_written_to_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")  # where a folder is needed; root may write to read-only ones
    with pytest.raises(ms.MechsteerError, match=r"(Cannot write|not writable).*(Not a directory|File exists)"):
        WRITERS[name](tmp_path / "file" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def killed_writer(target: Path) -> None:
    """A process that is killed while it writes a file."""
    pid = os.fork()
    if not pid:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_a_killed_writer_left_goes_with_the_next_one_and_nothing_else_does(tmp_path: Path) -> None:
    others = [".a.json.abcdefgh.tmp.json", "b.mechsteer.tmp.json", ".c.mechsteer", "a.json.tmp"]
    for name in others:
        (tmp_path / name).write_text(name)
    killed_writer(tmp_path / "a.json")
    assert len(list(tmp_path.iterdir())) == len(others) + 1
    with files.atomic_path(tmp_path / "b.json") as held:
        held.write_text("{}")
        files._clean.cache_clear()
        files.write_json(tmp_path / "c.json", 1)  # leaves what a living writer holds
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "b.json", "c.json"])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_training_leaves_what_the_next_one_removes_and_nothing_else_does(tmp_path: Path) -> None:
    from mechsteer.organisms.training import written_whole

    (tmp_path / ".other.unfinished.x").mkdir()
    pid = os.fork()
    if not pid:
        with written_whole(tmp_path / "model") as folder:
            (folder / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.glob(".model.unfinished.*"))) == 1
    with written_whole(tmp_path / "model") as folder:
        with written_whole(tmp_path / "another") as other, written_whole(tmp_path / "model 2"):
            assert folder.exists() and [path.name for path in tmp_path.glob(".model.unf*")] == [folder.name]
            (other / "x").write_text("x")
        # A second one beside it: the first to end wins.
        with pytest.raises(ms.MechsteerError, match="Cannot write"), written_whole(tmp_path / "model"):
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "y").write_text("y")
            assert folder.exists()
        (tmp_path / "model" / "y").unlink()
    names = [".other.unfinished.x", "another", "model", "model 2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_that_go_on_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves_one(folder: Path) -> None:
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(30)"])

    pid = forked(leaves_one, tmp_path / "x")
    os.waitpid(pid, 0)
    (left,) = _living(pid)
    monkeypatch.setattr("tests.faults.campaign.ENDED", 0.1)
    assert not _ended(pid)
    os.kill(left, signal.SIGKILL)
    assert _ended(pid)


def test_jobs_are_all_that_goes_on_after_a_kill() -> None:
    assert set(JOBS) == {"capture", "sweep", "pool", "ray", "evaluate", "study", "tune", "organism"}
    assert set(SHARE) <= set(JOBS)


def test_killed_work_ends_as_if_nothing_was(tmp_path: Path) -> None:
    outcome = campaign(JOBS["sweep"](None), tmp_path / "place", kills=2, seed=0)
    assert outcome.wrong == [] and outcome.kills == 2


def test_a_difference_is_seen(tmp_path: Path) -> None:
    files.write_table(pd.DataFrame({"x": [1]}), tmp_path / "a" / "t")
    files.write_table(pd.DataFrame({"x": [2]}), tmp_path / "b" / "t")
    (tmp_path / "b" / ".t.12345678.mechsteer.tmp.parquet").write_text("")
    expected = {"t.parquet": {"x": [1]}, "gone.parquet": {}}
    assert compared(expected, tmp_path / "a") == ["gone.parquet is not there"]
    assert len(compared(expected, tmp_path / "b")) == 3


SAVES: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "comparison": lambda table, out: Comparison(table, table, "x").save(out),
    "tuning": lambda table, out: Tuning(table, table, table, table, Way(), {}, 1.0, 1).save(out),
    "diagnosis": lambda table, out: _keep(Diagnosis("x", (), {"a": table, "b": table}), out),
}


@pytest.mark.parametrize("name", SAVES)
def test_a_save_that_is_stopped_leaves_no_record_of_other_tables(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_record(tmp_path / f"{name}.json", {"of": "an earlier run"})

    def stopped(table: pd.DataFrame, stem: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        SAVES[name](pd.DataFrame({"x": [1]}), tmp_path)
    assert list(tmp_path.iterdir()) == []
