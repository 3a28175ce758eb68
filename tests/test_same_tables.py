"""The comparison of two folders of studies sees every difference but those that it says it leaves out."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.same_tables import Options, compare, main
from mechsteer.files import write_table

TABLE = pd.DataFrame({"method": ["a", "b"], "x": [0.5, float("nan")], "n": [3, 4], "model_fingerprint": ["q", "q"]})


def folders(tmp_path: Path, new: pd.DataFrame, old: pd.DataFrame = TABLE) -> tuple[Path, Path]:
    for name, table in (("old", old), ("new", new)):
        write_table(table, tmp_path / name / "study" / "summary")
        write_table(table, tmp_path / name / "study" / "cells" / name)
    return tmp_path / "old", tmp_path / "new"


def test_the_same_tables_are_the_same_whatever_made_them(tmp_path: Path) -> None:
    assert compare(*folders(tmp_path, TABLE.assign(model_fingerprint="other"))) == ([], 1)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (TABLE.assign(x=[0.5 + 1e-15, float("nan")]), "x: 1 of 2 rows, first 0.5 became 0.50000000000000"),
        (TABLE.assign(x=[0.5, 0.0]), "x: 1 of 2 rows, first nan became 0.0"),
        (TABLE.assign(method=["a", None]), "method: 1 of 2 rows"),
        (TABLE.iloc[:1], "2 rows became 1"),
        (TABLE.drop(columns="n"), "columns that are gone: ['n']"),
        (TABLE[["x", "method", "n", "model_fingerprint"]], "another order"),
    ],
)
def test_a_difference_is_told(new: pd.DataFrame, said: str, tmp_path: Path) -> None:
    found, _ = compare(*folders(tmp_path, new))
    assert len(found) == 1 and said in found[0]


def test_lists_in_cells_are_compared_item_by_item(tmp_path: Path) -> None:
    lists = [[[0.1, 2.0], [3.0]], [[float("nan")], []]]
    old = TABLE.assign(x=lists)
    assert compare(*folders(tmp_path, TABLE.assign(x=lists), old)) == ([], 1)
    found, _ = compare(*folders(tmp_path, TABLE.assign(x=[[[0.1, 2.0], [3.5]], lists[1]]), old))
    assert len(found) == 1 and "x: 1 of 2 rows" in found[0] and "3.5" in found[0]


def test_times_may_differ_and_nothing_else(tmp_path: Path) -> None:
    old = pd.DataFrame({"our_measure": ["token_ms (ms)", "adherence (%)"], "ours": [1.0, 2.0], "token_ms": [1.0, 2.0]})
    assert compare(*folders(tmp_path, old.assign(ours=[9.0, 2.0], token_ms=7.0), old)) == ([], 1)
    found, _ = compare(*folders(tmp_path, old.assign(ours=[1.0, 9.0]), old))
    assert len(found) == 1 and "2.0 became 9.0" in found[0]


def test_tables_that_are_missing_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders(tmp_path, TABLE)
    main(Options(old, new))
    assert "1 tables compared, 0 differences" in capsys.readouterr().out
    write_table(TABLE, new / "study" / "extra")
    with pytest.raises(SystemExit):
        main(Options(old, new))
    assert "study/extra: only in" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no table in common"):
        main(Options(old, tmp_path / "nowhere"))
