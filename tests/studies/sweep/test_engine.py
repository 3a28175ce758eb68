"""Sweeps: what they compute and keep, what they do about damage and failure, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from mechsteer.errors import MechsteerError
from mechsteer.files import read_json, read_table
from mechsteer.studies.sweep import sweep
from mechsteer.studies.sweep.executors import Processes, Ray, Serial
from mechsteer.studies.sweep.grids import grid
from tests.faults.campaign import forked
from tests.studies import sweep_runs
from tests.studies.sweep_runs import CELLS

QUIET: dict[str, Any] = {"progress": False, "load": sweep_runs.load}


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """What the processes of a sweep wrote down."""
    path = tmp_path / "log"
    monkeypatch.setenv("SWEEP_LOG", str(path))
    return lambda: [line.split(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells take long enough for what is to happen in the middle of them."""
    monkeypatch.setenv("SWEEP_SECONDS", "0.25")


def counted(log: list[list[str]]) -> Counter[str]:
    """How often each thing was done."""
    return Counter(text for _, text in log)


def pages(folder: Path) -> dict[str, bytes]:
    """All that a sweep leaves, by name."""
    names = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def test_the_table_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    result = sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, **QUIET)
    expected = pd.concat([sweep_runs.rows(c, None).assign(a=c["a"], b=c["b"]) for c in CELLS], ignore_index=True)
    table = result.tables["results"]
    assert list(table.columns) == ["cell", "a", "b", "sample", "text", "score", "right", "by"]
    assert_frame_equal(table[expected.columns], expected, check_dtype=False)
    assert table["cell"].nunique() == len(CELLS)
    assert_frame_equal(read_table(tmp_path / "out" / "results.parquet"), table)
    report = read_json(tmp_path / "out" / "sweep.json")
    assert (report["cells"], report["finished"], report["failed"], report["complete"]) == (12, 12, 0, True)
    assert result.figures() == {}


def test_the_summary_has_one_row_a_cell_with_the_means_of_scores(tmp_path: Path) -> None:
    result = sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, **QUIET)
    assert list(result.summary.columns) == ["cell", "a", "b", "state", "error", "rows", "score", "right"]
    assert [(r.a, r.b) for r in result.summary.itertuples()] == [(c["a"], c["b"]) for c in CELLS]
    row = result.summary.iloc[7]  # 2, 1
    assert (row["rows"], row["score"], row["right"]) == (3, pytest.approx((7 + 1e-9) / 2), pytest.approx(2 / 3))


def test_columns_that_some_cells_lack_are_empty_there_and_lists_are_text(tmp_path: Path) -> None:
    cells = [*grid(a=0, b=[0], layer=[None], c=[["x", "y"]]), *grid(a=0, b=[0.5], layer=[2])]
    result = sweep(cells, tmp_path / "out", run=sweep_runs.rows, **QUIET)
    assert result.summary["layer"].tolist() == [pd.NA, 2] and str(result.summary["layer"].dtype) == "Int64"
    table = result.tables["results"]
    assert table["c"].tolist()[:3] == ["['x', 'y']"] * 3 and table["c"].isna().tolist() == [False] * 3 + [True] * 3
    assert table["b"].tolist() == [0.0] * 3 + [0.5] * 3


def test_a_column_of_the_runs_own_stays(tmp_path: Path) -> None:
    result = sweep(grid(a=1, b=[2], text="cell"), tmp_path / "out", run=sweep_runs.rows, **QUIET)
    assert result.tables["results"]["text"].tolist() == ["1/2"] * 3
    assert list(result.tables["results"].columns)[:4] == ["cell", "a", "b", "sample"]


def test_what_rows_are_grouped_by_is_a_column(tmp_path: Path) -> None:
    table = sweep(CELLS, tmp_path / "out", run=sweep_runs.grouped, **QUIET).tables["results"]
    assert list(table) == ["cell", "a", "b", "text", "score"]
    assert table["text"].tolist() == [f"{cell['a']}/{cell['b']}" for cell in CELLS]


def test_finished_cells_are_not_computed_again_and_a_larger_grid_adds_its_own(
    tmp_path: Path, log: Callable[[], list[list[str]]]
) -> None:
    first = sweep(CELLS[:5], tmp_path / "out", run=sweep_runs.slow, **QUIET)
    assert counted(log()) == {"begin": 5}
    again = sweep(CELLS[:5], tmp_path / "out", run=sweep_runs.slow, **QUIET)
    assert counted(log()) == {"begin": 5}
    assert_frame_equal(again.tables["results"], first.tables["results"])
    reordered = sweep(CELLS[6:2:-1], tmp_path / "out", run="tests.studies.sweep_runs:slow", **QUIET)
    assert counted(log()) == {"begin": 7}
    assert reordered.summary[["a", "b"]].to_numpy().tolist() == [[c["a"], c["b"]] for c in CELLS[6:2:-1]]


def test_another_function_is_another_cell(tmp_path: Path) -> None:
    first = sweep(CELLS[:2], tmp_path / "out", run=sweep_runs.rows, **QUIET)
    other = sweep(CELLS[:2], tmp_path / "out", run=sweep_runs.slow, **QUIET)
    assert not set(first.summary["cell"]) & set(other.summary["cell"])


@pytest.mark.parametrize("damage", ["empty", "cut", "start", "middle", "end", "foreign"])
def test_a_damaged_cell_is_computed_again(damage: str, tmp_path: Path) -> None:
    sweep(CELLS[:3], tmp_path / "out", run=sweep_runs.rows, **QUIET)
    whole = pages(tmp_path / "out")
    victim = sorted((tmp_path / "out" / "cells").iterdir())[1]
    content = bytearray(victim.read_bytes())
    if damage in ("start", "middle", "end"):
        content[{"start": 1, "middle": 60, "end": -2}[damage]] ^= 0xFF
    others = {"empty": b"", "cut": bytes(content[:-20]), "foreign": b"a,b\n1,2\n"}
    victim.write_bytes(others.get(damage, bytes(content)))
    (tmp_path / "out" / "results.parquet").unlink()
    sweep(CELLS[:3], tmp_path / "out", run=sweep_runs.rows, **QUIET)
    assert pages(tmp_path / "out") == whole


@pytest.mark.parametrize("executor", [Serial(), Processes(2)], ids=["serial", "processes"])
def test_a_cell_that_fails_is_recorded_does_not_stop_the_others_and_is_tried_again(
    executor: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = sweep(CELLS, out, run=sweep_runs.failing, executor=executor, **QUIET)
    failed = result.summary[result.summary["state"] == "failed"]
    assert failed[["a", "b"]].to_numpy().tolist() == [[1, 0], [1, 1], [2, 2]]
    assert failed["error"].tolist() == [
        "KeyError: 'no such thing'",
        "KeyError: 'no such thing'",
        "A cell's function must return a DataFrame, got str.",
    ]
    record = read_json(out / "errors" / f"{failed['cell'].iloc[0]}.json")
    assert record["cell"] == {"a": 1, "b": 0} and "in failing" in record["traceback"]
    assert len(result.tables["results"]) == 9 * 3
    assert read_json(out / "sweep.json")["failed"] == 3
    Path(os.environ["SWEEP_LOG"]).touch()  # what was missing is there now
    repaired = sweep(CELLS, out, run=sweep_runs.failing, executor=executor, **QUIET)
    assert set(repaired.summary["state"]) == {"finished"} and not list((out / "errors").iterdir())
    expected = sweep(CELLS, tmp_path / "other", run=sweep_runs.failing, **QUIET)
    assert_frame_equal(repaired.tables["results"], expected.tables["results"])


def test_a_table_that_is_no_parquet_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_runs, "rows", lambda cell, model: pd.DataFrame({"x": [1, "a", object()]}))
    result = sweep(CELLS[:1], tmp_path / "out", run="tests.studies.sweep_runs:rows", **QUIET)
    assert result.summary["error"].str.startswith("Its table cannot be written as parquet").all()
    assert len(result.tables["results"]) == 0


def test_a_model_is_loaded_once_though_the_grid_changes_it_all_the_time(
    tmp_path: Path, log: Callable[[], list[list[str]]]
) -> None:
    cells = grid(a=[0, 1, 2, 3], b=0, model=["x", "y"], dtype="float16")
    result = sweep(cells, tmp_path / "out", run=sweep_runs.rows, device="cuda:1", **QUIET)
    assert counted(log()) == {"load x": 1, "load y": 1}
    assert result.tables["results"]["by"].tolist()[::3] == ["x on cuda:1, float16", "y on cuda:1, float16"] * 4


@pytest.mark.usefixtures("late")
def test_each_worker_process_loads_its_model_once(
    tmp_path: Path, log: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = grid(model=["x", "y"], a=[0, 1], b=[0, 1, 2])
    result = sweep(cells, tmp_path / "out", run=sweep_runs.slow, executor="processes", workers=2, **QUIET)
    loads = [(pid, text) for pid, text in log() if text.startswith("load")]
    assert len(loads) == len(set(loads)) and {text for _, text in loads} == {"load x", "load y"}
    workers = {pid for pid, _ in log()}
    assert len(workers) == 2 and str(os.getpid()) not in workers
    monkeypatch.delenv("SWEEP_SECONDS")
    serial = sweep(cells, tmp_path / "serial", run=sweep_runs.slow, **QUIET)
    assert_frame_equal(result.tables["results"], serial.tables["results"])
    assert pages(tmp_path / "out") == pages(tmp_path / "serial")


def test_a_worker_that_is_killed_loses_only_its_cell_which_is_retried(
    tmp_path: Path, log: Callable[[], list[list[str]]]
) -> None:
    sweep(CELLS, tmp_path / "out", run=sweep_runs.dies_once, executor="processes", workers=2, **QUIET)
    begun = counted(log())
    assert begun.pop("begin 1 1") == 2
    assert set(begun.values()) == {1} and len(begun) == len(CELLS) - 1
    assert len({pid for pid, _ in log()}) == 3
    sweep(CELLS, tmp_path / "whole", run=sweep_runs.dies_once, **QUIET)  # dies no more: the log says so
    assert pages(tmp_path / "out") == pages(tmp_path / "whole")


def test_a_cell_that_kills_every_worker_is_given_up_and_only_it(tmp_path: Path) -> None:
    executor = Processes(workers=2, retries=1)
    result = sweep(CELLS, tmp_path / "out", run=sweep_runs.always_dies, executor=executor, **QUIET)
    (failed,) = result.summary[result.summary["state"] == "failed"].itertuples()
    assert (failed.a, failed.b) == (1, 1) and "died 2 times" in failed.error
    assert len(result.tables["results"]) == 11 * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"executor": "proceses"}, "Unknown executor 'proceses'. Did you mean 'processes'"),
        ({"executor": Processes}, "executor must be one of serial, processes, ray or an executor, got <class"),
        ({"executor": "processes", "workers": 0}, "workers must be an integer of at least 1, got 0"),
        ({"run": "tests.studies.sweep_runs:row"}, "no function 'row'. Did you mean 'rows'"),
        ({"run": "tests.studies.nothing:rows"}, "Cannot import 'tests.studies.nothing'"),
        ({"run": "rows"}, "named as"),
        ({"run": lambda cell, model: None}, "no name of its own"),
        ({"load": "tests.studies.sweep_runs:lod"}, "no function 'lod'. Did you mean 'load'"),
        ({"cells": []}, "needs cells"),
        ({"cells": grid(a=[1, "x"])}, "a must be of one type in all cells, got 1 and 'x'"),
        ({"cells": grid(a=[1, True])}, "a must be of one type in all cells, got 1 and True"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(MechsteerError, match=said):
        sweep(**({"cells": CELLS, "out": tmp_path / "out", "run": sweep_runs.rows} | QUIET | arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Processes(0), "workers must be"),
        (lambda: Processes(retries=-1), "retries must be"),
        (lambda: Ray(retries=True), "retries must be"),
        (lambda: Ray(num_gpus=-1), "num_gpus must not be negative"),
        (lambda: Ray(num_cpus=float("nan")), "num_cpus must be finite"),
    ],
)
def test_executors_refuse_impossible_numbers(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(MechsteerError, match=said):
        make()


def test_without_resume_a_folder_with_finished_cells_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    sweep(CELLS[:2], tmp_path / "out", run=sweep_runs.rows, resume=False, **QUIET)
    before = pages(tmp_path / "out")
    with pytest.raises(MechsteerError, match="has 2 finished cells"):
        sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, resume=False, **QUIET)
    assert pages(tmp_path / "out") == before


def test_results_of_an_earlier_grid_are_not_left_beside_an_unfinished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sweep(CELLS[:2], out, run=sweep_runs.rows, **QUIET)
    monkeypatch.setattr(Serial, "run", lambda *_: (_ for _ in ()).throw(SystemError("killed")))
    with pytest.raises(SystemError):
        sweep(CELLS, out, run=sweep_runs.rows, **QUIET)
    assert {path.name for path in out.iterdir()} == {"cells", "sweep.json"}
    report = read_json(out / "sweep.json")
    assert (report["finished"], report["complete"]) == (2, False)


def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MechsteerError, match=r'pip install "mechsteer\[ray\]"'):
        sweep(CELLS, tmp_path / "out", run=sweep_runs.rows, executor="ray", **QUIET)


def test_a_script_that_workers_cannot_import_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.studies.sweep_runs import CELLS, rows\nfrom mechsteer.studies.sweep import sweep\n"
        f"sweep(CELLS, {str(tmp_path / 'out')!r}, run=rows, executor='processes', workers=1, progress=False)\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "mechsteer.errors.MechsteerError: A worker process died while it started. In a script, call sweep under"
    )


def start(out: Path, executor: str) -> int:
    """The script of :mod:`tests.studies.sweep_runs` in a copy of this process, which has imported all that it needs."""
    return forked(lambda folder: sweep_runs.script(folder, executor), out)


def ended(pid: int, out: Path) -> tuple[int, str]:
    """How a script ended, and what it said."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.with_suffix(".err").read_text()


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def finished(out: Path) -> int:
    return len([path for path in out.glob("cells/*.parquet") if not path.name.startswith(".")])


def alive(pid: str) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("executor", ["serial", pytest.param("processes", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("late")
def test_a_sweep_that_is_killed_twice_ends_as_one_that_was_not(
    executor: str, tmp_path: Path, log: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, counts = tmp_path / "out", [0]
    for more in (2, 3):
        script = start(out, executor)
        wait_for(lambda before=counts[-1], more=more: finished(out) >= before + more)
        os.kill(script, signal.SIGKILL)
        assert ended(script, out) == (-signal.SIGKILL, "")
        counts.append(finished(out))
        wait_for(lambda: not any(alive(pid) for pid, _ in log()))  # no worker is left behind
    assert 0 < counts[1] < counts[2] < 12 and not (out / "results.parquet").exists()
    monkeypatch.delenv("SWEEP_SECONDS")
    assert ended(start(out, executor), out) == (0, "")
    # At each kill, each of two workers lost the cell it was at, and one that was done but not yet written.
    assert counted(log())["begin"] <= 12 + 2 * 2 * 2
    cells = grid(model="m", a=[0, 1, 2, 3], b=[0, 1, 2])
    sweep(cells, tmp_path / "whole", run=sweep_runs.slow, **QUIET)
    assert pages(out) == pages(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.usefixtures("late")
def test_ctrl_c_ends_the_workers_at_once_and_leaves_what_was_done_usable(
    tmp_path: Path, log: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("SWEEP_STUCK", "")  # the next cells take a minute
    script = start(out, "processes")
    wait_for(lambda: finished(out) == 3 and len(log()) == 2 + 5)
    os.killpg(script, signal.SIGINT)
    wait_for(lambda: not alive(str(script)), seconds=50)
    assert ended(script, out) == (130, "")
    assert not any(alive(pid) for pid, _ in log())
    report = json.loads((out / "sweep.json").read_text())
    assert report["finished"] == finished(out) < 12 and not report["complete"]
    assert read_table(out / "results.parquet")["cell"].nunique() == finished(out)


def test_a_function_that_was_edited_is_computed_again(
    tmp_path: Path, log: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "edited_runs.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # what is compiled is told from an edit a second later only
    text = "import pandas as pd\n\n\ndef run(cell, model):\n    return pd.DataFrame({'score': [cell['a'] + 0.5]})\n"
    found = []
    for content in (text, text.replace("0.5", "1.5"), text):
        module.write_text(content)
        sys.modules.pop("edited_runs", None)
        found.append(sweep(grid(a=[1]), tmp_path / "out", run="edited_runs:run", **QUIET).summary["score"].tolist())
    assert found == [[1.5], [2.5], [1.5]]
    assert finished(tmp_path / "out") == 2
