"""The profile of all steering families: what it measures, that it continues, and its figure."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.files import read_json, read_table
from mechsteer.studies.core import cells
from mechsteer.studies.families import study as steering
from tests.command_line import CommandLine
from tests.typecheck import unchecked

SMALL: dict[str, Any] = {"kinds": ["list"], "notes": 4, "n": 2, "progress": False}


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


def short(*a: Any, **k: Any) -> Any:
    """The task with short answers."""
    return replace(ms.tasks.instructions(*a, **k), max_new_tokens=24)


@pytest.fixture(scope="module", autouse=True)
def fewer_strengths() -> Iterator[None]:
    """The one that changes nothing and a mild one; of the vector families two steps; and short answers."""
    fewer = {method: (make, strengths[:3:2]) for method, (make, strengths) in steering.ATTENTION.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steering, "ATTENTION", fewer)
        patch.setattr(steering, "STEPS", (1.0, 2.0))
        patch.setattr(steering, "instructions", short)
        yield


@pytest.fixture(scope="module")
def study(model: Any, tmp_path_factory: pytest.TempPathFactory) -> steering.Result:
    with unchecked():
        return steering.run(model, tmp_path_factory.mktemp("steering"), **SMALL)


def test_each_row_is_a_direct_evaluation_of_that_cell(study: steering.Result, model: Any) -> None:
    table = study.tables["cells"]
    row = table[(table["method"] == "attention_bias") & (table["strength"] == 2.0) & (table["kind"] == "list")].iloc[0]
    task = short(["list"], notes=4, n=2)
    direct = ms.evaluate(model, task, steer=ms.attention_bias("instruction", 2.0))
    part = direct[direct["kind"] == "list"]
    assert row["adherence_percent"] == pytest.approx(100 * part["adherence"].mean())
    assert row["fidelity_percent"] == pytest.approx(100 * part["fidelity"].mean())
    assert row["n"] == 2 and row["setting"] == "instructed, 4 notes"


def test_the_strength_that_changes_nothing_equals_the_unsteered_model(study: steering.Result) -> None:
    table, measures = study.summary, ["adherence_percent", "fidelity_percent"]
    unsteered = table[(table["method"] == "unsteered") & (table["setting"] == "instructed, 4 notes")].iloc[0]
    for method, (_, strengths) in steering.ATTENTION.items():
        nothing = table[(table["method"] == method) & (table["strength"] == strengths[0])].iloc[0]
        assert nothing[measures].tolist() == unsteered[measures].tolist(), method


def test_every_family_is_there_at_every_strength_for_every_kind(study: steering.Result) -> None:
    table = study.tables["cells"]
    expected = {method: list(strengths) for method, (_, strengths) in steering.ATTENTION.items()}
    expected |= {method: list(steering.STEPS) for method in steering.VECTOR}
    for method, strengths in expected.items():
        for kind in SMALL["kinds"]:
            part = table[(table["method"] == method) & (table["kind"] == kind)]
            assert part["strength"].tolist() == strengths
    assert table["model_fingerprint"].nunique() == 1


def test_a_vector_step_of_one_is_the_papers_projection(model: Any) -> None:
    direction = replace(ms.random_direction(model, seed=0, layer=1), mean_projection=0.5)
    assert steering.VECTOR["project"](direction, 1.0).edits[0].strength == direction.mean_projection
    assert steering.VECTOR["add"](direction, 1.0).edits[0].strength == pytest.approx(direction.norm)


def test_a_finished_run_computes_nothing_again_and_files_hold_the_tables(
    study: steering.Result, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "evaluate", lambda *_, **__: pytest.fail("computed again"))
    with unchecked():
        again = steering.run(model, study.folder, **SMALL)
    for name, table in study.tables.items():
        assert_frame_equal(again.tables[name], table)
        stored = read_table(study.folder / f"{name}.parquet")
        assert_frame_equal(stored, table, check_dtype=False)
        assert len(pd.read_csv(study.folder / f"{name}.csv")) == len(table)
    assert read_json(study.folder / "study.json")["study"] == "steering"


def test_the_figure_has_one_panel_a_family_and_is_written_twice(study: steering.Result) -> None:
    figure = study.figures()["by_strength"]
    assert len(figure.axes) == len(steering.ATTENTION) + len(steering.VECTOR)
    guide, pasta = figure.axes[:2]
    assert [guide.get_xscale(), pasta.get_xscale(), pasta.xaxis_inverted()] == ["linear", "log", True]
    rows = study.summary[study.summary["method"] == "attention_bias"]
    line, _, (bars,) = guide.containers[0].lines
    assert line.get_xdata().tolist() == rows["strength"].tolist(), "a true axis"
    ends = rows[["adherence_percent_low", "adherence_percent_high"]].to_numpy()
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
        pytest.approx(pair) for pair in ends.tolist()
    ]
    assert {p.suffix for p in (study.folder / "figures").iterdir()} == {".pdf", ".png"}


@pytest.mark.parametrize("wrong", [{"kinds": ["uper"]}, {"n": 0}, {"notes": -1}])
def test_bad_arguments_are_refused_before_anything_is_written(
    wrong: dict[str, Any], model: Any, tmp_path: Path
) -> None:
    with pytest.raises(ms.MechsteerError):
        steering.run(model, tmp_path / "out", **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()


def test_the_command_prints_it(
    study: steering.Result, model: Any, mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **k: model)
    monkeypatch.setattr(steering, "run", lambda *a, **k: study)
    code, printed, _ = mechsteer("reproduce", "steering", "--out", tmp_path)
    assert code == 0
    for heading in ("Steering families on organism:instruct-llama", "spotlight"):
        assert heading in printed
    for value in study.summary["adherence_percent"].dropna():
        assert f"{value:.2f}" in printed
