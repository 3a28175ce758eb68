"""What the benchmarks share, the table of all of them, and that they run on a small model."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.tiny import write_checkpoint

FOLDER = Path(__file__).parents[1] / "benchmarks"
NO_TABLES = {"common", "diagnosis", "families", "golden", "on_device", "peer_steering", "real_model", "run_all"}
NO_TABLES |= {"coverage", "hook_points", "same_tables", "seeds", "claims", "measures", "sentences", "reproduce_twice"}
NO_TABLES |= {"compatibility", "environments", "killed_workers", "release", "smoke", "tuning"}
"""Parts, and those whose tables are not about speed."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_all_benchmarks_are_run(benchmark: Callable) -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - NO_TABLES == set(benchmark("run_all").SCRIPTS)


def test_options_reach_the_benchmarks(benchmark: Callable) -> None:
    run_all = benchmark("run_all")
    options = run_all.Options(rounds=2, model=Path("folder"))
    assert run_all.command("speed", options)[2:] == ["--rounds", "2", "--model", "folder"]
    assert run_all.command("steering", options)[2:] == ["--rounds", "2"]
    with pytest.raises(SystemExit, match="no benchmark sped"):
        run_all.main(run_all.Options(only=("sped",)))


def test_tables_become_one_page(benchmark: Callable, tmp_path: Path) -> None:
    run_all = benchmark("run_all")
    rows = {"contestant": ["a", "b|c"], "seconds": [0.123456, None], "threads": [1, 1], "rounds": [5, 5]}
    pd.DataFrame(rows).to_csv(tmp_path / "speed.csv", index=False)
    page = run_all.write_tables(tmp_path).read_text()
    assert "## speed\n" in page and "(threads 1, rounds 5)" in page
    assert "| contestant | seconds |\n|---|---|\n| a | 0.123 |\n| b/c |  |\n" in page


def test_ratios_are_taken_within_a_round(benchmark: Callable) -> None:
    seconds = {"base": [1.0, 10.0, 2.0], "other": [2.0, 10.0, 1.0]}
    rows = [
        {"round": i, "contestant": name, "seconds": s, "processor": 2 * s if name == "other" else s}
        for name, column in seconds.items()
        for i, s in enumerate(column)
    ]
    found = benchmark("common").ratios(pd.DataFrame(rows), {"other": "base"}).set_index("contestant")
    assert found.loc["other", ["times (median)", "smallest", "largest"]].tolist() == [1.0, 0.5, 2.0]
    assert found.loc["other", "times in processor time (median)"] == 2.0
    assert found.loc["base", "times (median)"] == 1.0


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_speed_measures_equal_work(family: str, benchmark: Callable, tmp_path: Path) -> None:
    speed = benchmark("speed")
    subject = speed.subject(family, write_checkpoint(family, tmp_path / family), "cpu")
    prompts = subject.prompts(2, 24)
    theirs = subject.theirs(prompts, 6)[:, 1 if subject.two_stacks else 24 :]
    assert subject.ours(prompts, 6).tokens.equal(theirs)
    table = speed.table(subject, speed.Options(lengths=(48, 4096), batches=(2,), rounds=1))
    assert set(table["task"]) == ({"long", "batch"} if subject.two_stacks else {"long", "batch", "inside"})
    assert set(table["size"]) == ({32, 1024, 2} if subject.two_stacks else {48, 2})
    assert (table["median seconds"] > 0).all() and (table["against"] != "").sum() >= 3


def on_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, str]:
    """The code with which the check of a device ends, and the page that it wrote."""
    from benchmarks import on_device

    monkeypatch.chdir(FOLDER.parent)
    chosen = {"device": "cpu", "dtypes": ("float32",), "only": "Llama 3 (", "ratios": False, "out": tmp_path, **options}
    with pytest.raises(SystemExit) as ended:
        on_device.main(on_device.Options(**chosen))
    return int(ended.value.code or 0), (tmp_path / "on_device.md").read_text()


def test_a_device_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, page = on_device(tmp_path, monkeypatch)
    assert code == 0 and "Left out" not in page
    assert "| Llama 3 (grouped queries) | float32 | equal |" in page
    assert page.count("| Llama 3 (grouped queries) | float32 |") == 5
    assert len(pd.read_csv(tmp_path / "on_device_invariances.csv")) == 4


def test_what_does_not_hold_on_a_device_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.on_device.ALLOWED", {"float32": -1.0})
    code, page = on_device(tmp_path, monkeypatch)
    assert code == 1 and page.count("| False |") == 3


def test_what_there_is_no_time_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, page = on_device(tmp_path, monkeypatch, seconds=0.0)
    assert code == 0 and "Left out for want of time: Llama 3 (grouped queries)." in page


def test_seeds_are_trained_once_and_the_range_is_beside_them(
    benchmark: Callable, tmp_path: Path, monkeypatch: Any
) -> None:
    seeds, trained = benchmark("seeds"), []
    assert set(seeds.MEASURES) < set(seeds.ORGANISMS)

    class Fake:
        def train(self, out: Path, *, seed: int) -> None:
            out.mkdir(parents=True)
            trained.append(seed)

    values = {"organism:trap-t5": 50.0, "1": 70.0, "2": 40.0}
    monkeypatch.setattr(seeds, "ORGANISMS", {"trap-t5": Fake()})
    monkeypatch.setattr(seeds.ms, "load", lambda name: values[name.removesuffix("/checkpoint").split("trap-t5-")[-1]])
    monkeypatch.setattr(seeds, "MEASURES", {"trap-t5": lambda model, folder: {"steered": model}})
    for _ in range(2):
        table = seeds.main("trap-t5", (1, 2), tmp_path).set_index("seed")["steered"]
    assert trained == [1, 2] and table.to_dict() == {"bundled": 50, "1": 70, "2": 40, "least": 40, "most": 70}
    assert pd.read_csv(tmp_path / "trap-t5.csv")["steered"].tolist() == table.tolist()


@pytest.mark.parametrize(("tiny_name", "family"), [("gpt2", "gpt2"), ("llama-gqa", "llama"), ("t5-gated", "t5")])
def test_the_page_of_hook_points_has_what_a_model_has(tiny_name: str, family: str, tiny: Callable) -> None:
    from benchmarks.hook_points import PAGE, kinds_of
    from mechsteer.models.sites import KINDS

    model = tiny(tiny_name)
    kinds = kinds_of(model)
    assert kinds.keys() <= KINDS.keys() and model.cfg.use_attn_result is False
    heads, _, *rows = PAGE.read_text(encoding="utf-8").split("## By family")[1].split("\n\n")[2].splitlines()
    (column,) = (i for i, cell in enumerate(heads.split("|")) if family in cell.replace(",", " ").split())
    written = {row.split("|")[1].strip(" `"): row.split("|")[column].strip() for row in rows}
    assert {kind for kind, cell in written.items() if cell != "–"} == set(kinds)
