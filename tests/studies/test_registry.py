"""Every study is registered, importable and listed; a result is read back from its folder alone."""

from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer import studies
from mechsteer.errors import MechsteerError
from mechsteer.files import write_record
from mechsteer.models import organism_names
from mechsteer.studies.core.result import Result, finish
from mechsteer.studies.registry import OPTIONS, STUDIES, names_with

FOLDERS = [path.parent for path in Path(studies.__file__).parent.glob("*/study.py") if path.parent.name != "core"]


def test_every_folder_with_a_study_is_registered_once() -> None:
    assert sorted(study.folder for study in STUDIES.values()) == sorted(folder.name for folder in FOLDERS)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_draws_reports_and_takes_what_it_says(name: str) -> None:
    study = STUDIES[name]
    arguments = signature(study.run).parameters
    assert {"out", "batch_size", "draw", "progress", *study.options.values()} <= set(arguments)
    assert set(study.options) <= set(OPTIONS) and all(name in names_with(option) for option in study.options)
    assert study.module("study").NAME == name
    assert callable(study.module("report").report) and callable(study.module("figures").draw)
    assert {model.removeprefix("organism:") for model in study.models} <= set(organism_names())
    assert (study.data is None) == ("data" not in study.options)
    if study.data is not None:
        assert callable(getattr(ms.tasks, study.data[1]))


@pytest.mark.parametrize("name", studies.__all__)
def test_public_names_of_the_folder(name: str) -> None:
    assert getattr(ms.studies, name) is not None


def test_both_names_of_a_study_are_one_function() -> None:
    assert set(studies.__all__) == {name.replace("-", "_") for name in STUDIES} | {"Result", "published", "sweep"}
    assert ms.studies.Result is Result
    for name, study in STUDIES.items():
        assert getattr(ms.studies, name.replace("-", "_")).run is study.run


def test_the_pages_name_every_study() -> None:
    root = Path(__file__).parents[2]
    text = "".join(path.read_text(encoding="utf-8") for path in [root / "README.md", *(root / "docs").rglob("*.md")])
    assert [name for name in STUDIES if f"`{name}`" not in text and f"reproduce {name}" not in text] == []


def table() -> pd.DataFrame:
    return pd.DataFrame({"value": [1.5, float("nan")], "name": ["a", None]})


def test_a_result_is_read_back_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path, {"study": "steering"}, {"summary": table(), "cells": table()})
    result = Result.load(str(tmp_path))
    assert list(result.tables) == ["summary", "cells"] and result.folder == tmp_path
    assert_frame_equal(result.summary, table())
    drawn: list[Any] = []
    monkeypatch.setattr(STUDIES["steering"].module("figures"), "draw", lambda tables: drawn.append(tables) or {})
    assert result.figures() == {} and drawn == [result.tables]


@pytest.mark.parametrize(
    ("record", "message"),
    [(None, "study.json"), ({"study": "guid"}, "Did you mean 'guide'"), ([], "Unknown study '\\[")],
)
def test_a_folder_of_no_study_is_refused(record: Any, message: str, tmp_path: Path) -> None:
    if record is not None:
        (tmp_path / "study.json").write_text("[]") if record == [] else write_record(tmp_path / "study.json", record)
    with pytest.raises(MechsteerError, match=message):
        Result.load(tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    finish(tmp_path, {"study": "steering"}, {"summary": table()})
    (tmp_path / "summary.parquet").unlink()
    with pytest.raises(MechsteerError, match=r"summary\.parquet"):
        Result.load(tmp_path)
