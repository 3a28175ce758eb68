"""Printed tables: aligned, rounded, without provenance."""

import numpy as np
import pandas as pd
import pytest

from mechsteer.report import show


def test_numbers_are_right_aligned_and_text_left() -> None:
    table = pd.DataFrame({"name": ["a", "long name"], "percent": [7.25, 100.0], "n": [3, 1200]})
    assert show(table).splitlines() == [
        "name       percent     n",
        "---------  -------  ----",
        "a              7.2     3",
        "long name    100.0  1200",
    ]


def test_missing_values_are_dashes_in_every_kind_of_column() -> None:
    table = pd.DataFrame(
        {
            "float": [1.5, float("nan")],
            "int": pd.array([4, None], dtype="Int64"),
            "text": ["x", None],
            "time": [pd.Timestamp("2020-01-01"), pd.NaT],
            "mixed": [pd.NA, np.nan],
        }
    )
    first, second = (line.split() for line in show(table).splitlines()[2:])
    assert first[:3] == ["1.5", "4", "x"]
    assert second == ["-"] * 5


@pytest.mark.parametrize(("decimals", "text"), [(0, "3"), (1, "3.1"), (3, "3.142")])
def test_floats_are_rounded(decimals: int, text: str) -> None:
    assert show(pd.DataFrame({"x": [3.14159]}), decimals=decimals).splitlines()[2].strip() == text


def test_p_values_are_not_rounded_away() -> None:
    table = pd.DataFrame(
        {"p_value": [0.0213, 3.2e-9], "gain_p_adjusted": [1.0, 0.043], "p by topic": [0.5, float("nan")]}
    )
    assert [line.split() for line in show(table).splitlines()[2:]] == [["0.021", "1", "0.5"], ["3.2e-09", "0.043", "-"]]


def test_infinite_and_narrow_floats_are_printed() -> None:
    table = pd.DataFrame({"x": [float("inf"), float("-inf")], "y": np.array([0.1, 0.2], dtype=np.float32)})
    assert [line.split() for line in show(table, decimals=0).splitlines()[2:]] == [["inf", "0"], ["-inf", "0"]]
    assert show(table).splitlines()[2].split() == ["inf", "0.1"]


def test_provenance_is_left_out_and_the_table_left_alone() -> None:
    table = pd.DataFrame({"x": [1], "model_name": ["m"], "version_torch": ["2"], "data_hash": ["h"], "modelled": [2]})
    before = table.copy()
    assert show(table).splitlines()[0].split() == ["x", "modelled"]
    pd.testing.assert_frame_equal(table, before)


def test_an_empty_table_is_its_header() -> None:
    assert show(pd.DataFrame({"a": [], "bb": []})).splitlines() == ["a  bb", "-  --"]


def test_column_names_need_not_be_text() -> None:
    assert show(pd.DataFrame({0.5: [1.0], "a": ["x"]})).splitlines()[0].split() == ["0.5", "a"]
