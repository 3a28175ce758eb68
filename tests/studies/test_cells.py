"""A cell is computed once, and again only when its key changes or its file is damaged."""

from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from mechsteer.errors import MechsteerError
from mechsteer.studies.cells import cell

TABLE = pd.DataFrame({"name": ["a", "b"], "value": [1.5, None], "flag": [True, False]})


def test_a_cell_is_computed_once_and_read_as_it_was(tmp_path: Path) -> None:
    first = cell(tmp_path, {"x": 1}, lambda: TABLE)
    assert_frame_equal(first, TABLE)
    assert_frame_equal(cell(tmp_path, {"x": 1}, lambda: pytest.fail("computed again")), TABLE)


def test_the_order_of_the_key_does_not_matter_and_its_values_do(tmp_path: Path) -> None:
    cell(tmp_path, {"x": 1, "y": 2}, lambda: TABLE)
    cell(tmp_path, {"y": 2, "x": 1}, lambda: pytest.fail("computed again"))
    other = TABLE.assign(value=0.0)
    assert_frame_equal(cell(tmp_path, {"x": 1, "y": 2.5}, lambda: other), other)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_damaged_cell_is_computed_again(tmp_path: Path, keep: int) -> None:
    cell(tmp_path, {"x": 1}, lambda: TABLE)
    (path,) = (tmp_path / "cells").iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    assert_frame_equal(cell(tmp_path, {"x": 1}, lambda: TABLE), TABLE)
    assert_frame_equal(cell(tmp_path, {"x": 1}, lambda: pytest.fail("computed again")), TABLE)


def test_an_error_leaves_no_cell(tmp_path: Path) -> None:
    def fail() -> pd.DataFrame:
        raise MechsteerError("no")

    with pytest.raises(MechsteerError, match="no"):
        cell(tmp_path, {"x": 1}, fail)
    assert list(tmp_path.rglob("*.parquet")) == []
