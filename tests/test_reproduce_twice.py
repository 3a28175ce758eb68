"""Two runs of a study are compared whole: tables, cells and figures; what differs is named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmarks import reproduce_twice
from benchmarks.reproduce_twice import BUNDLED, Options, main
from mechsteer.files import write_table
from mechsteer.studies.registry import STUDIES


class Here:
    """Runs in this process what the command runs in others."""

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, function: Any, *arguments: Any) -> Any:
        return SimpleNamespace(result=lambda: function(*arguments))


def study(changes: str, runs: list[Path]) -> Any:
    """A study of which one thing is another one each time."""

    def run(out: Path, progress: bool, n: int = 3) -> None:
        runs.append(out)
        turn = len(runs)
        table = pd.DataFrame({"x": range(n), "token_ms": float(turn), "y": turn if changes == "table" else 0})
        write_table(table, out / "summary")
        cell = table.assign(y=turn if changes == "cell" else 0)
        write_table(cell, out / "cells" / (f"c{turn}" if changes == "name" else "c"))
        (out / "figures").mkdir()
        (out / "figures" / "a.png").write_bytes(b"%d" % (turn if changes == "figure" else 0))
        (out / "figures" / "cost.png").write_bytes(b"%d" % turn)

    return SimpleNamespace(run=run, models=("organism:x",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("nothing", []),
        ("table", ["summary: y: 2 of 2 rows, first 1 became 2"]),
        ("cell", ["cells/c: y: 2 of 2 rows, first 1 became 2"]),
        ("name", ["cells/c1: only in the first run", "cells/c2: only in the second run"]),
        ("figure", ["figures/a.png: other bytes"]),
    ],
)
def test_what_differs_between_two_runs_is_named(
    changes: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[Path] = []
    monkeypatch.setattr(reproduce_twice, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(reproduce_twice, "STUDIES", {"guide": study(changes, runs)})
    (tmp_path / "guide" / "first").mkdir(parents=True)
    (tmp_path / "guide" / "first" / "old.csv").write_text("x\n1\n")
    with pytest.raises(SystemExit) as ended:
        main(Options(studies=("guide",), out=tmp_path, sizes=("n=2",)))
    out = capsys.readouterr().out
    assert runs == [tmp_path / "guide" / time for time in ("first", "second")] and "old" not in out
    assert [line.strip() for line in out.splitlines() if line.startswith(" ")] == said
    assert (ended.value.code, f"{len(said)} differences." in out) == (int(bool(said)), True)
    assert said or "guide: 1 of 1 tables identical: summary\nguide: 1 of 1 cells identical\n" in out


def test_all_studies_of_bundled_models_are_meant_and_others_refused() -> None:
    assert set(BUNDLED) == {name for name in STUDIES if not name.startswith("ifeval")}
    with pytest.raises(SystemExit, match="no study of bundled models: gide; there are: t5-dola"):
        main(Options(studies=("gide",)))
