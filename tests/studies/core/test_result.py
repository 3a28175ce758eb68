"""Tables and ``study.json`` of a folder always belong together."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechsteer.errors import MechsteerError
from mechsteer.files import read_record, read_table
from mechsteer.studies.core import result
from mechsteer.studies.core.result import finish


def table(value: float) -> pd.DataFrame:
    return pd.DataFrame({"value": [value]})


def told(folder: Path) -> dict[str, Any]:
    return read_record(folder / "study.json", "record of a study")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_earlier_runs_tables_go_with_its_record(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"not the study's")
    finish(tmp_path, {"study": "x", "n": 1}, {"summary": table(1), "extra": table(1)})
    finish(tmp_path, {"study": "x", "n": 2}, {"summary": table(2)})
    assert told(tmp_path) == {"study": "x", "n": 2, "tables": ["summary"]}
    assert names(tmp_path) == {"mine.parquet", "study.json", "summary.csv", "summary.parquet"}
    assert read_table(tmp_path / "summary.parquet")["value"].tolist() == [2]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_one_that_is_stopped_while_writing_leaves_no_record_of_other_tables(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path, {"n": 1}, {"a": table(1), "b": table(1)})
    real, count = result.write_table, [0]

    def stopped(*arguments: Any) -> Any:
        if count[0] == written:
            raise KeyboardInterrupt
        count[0] += 1
        return real(*arguments)

    monkeypatch.setattr(result, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path, {"n": 2}, {"a": table(2), "b": table(2), "c": table(2)})
    assert "study.json" not in names(tmp_path)


def test_a_damaged_record_is_replaced(tmp_path: Path) -> None:
    finish(tmp_path, {"n": 1}, {"a": table(1)})
    path = tmp_path / "study.json"
    path.write_bytes(path.read_bytes().replace(b'"n": 1', b'"n": 3'))
    with pytest.raises(MechsteerError, match="is damaged"):
        told(tmp_path)
    finish(tmp_path, {"n": 2}, {"a": table(2)})
    assert told(tmp_path)["n"] == 2
