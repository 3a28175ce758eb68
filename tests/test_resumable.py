"""Parts of a run: what is there is not computed again, what is damaged is, and nothing is counted twice."""

import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechsteer.files import write_table
from mechsteer.resumable import Parts


def table(first: int, end: int) -> pd.DataFrame:
    return pd.DataFrame({"sample": range(first, end), "even": [i % 2 == 0 for i in range(first, end)]})


def test_a_run_that_stops_goes_on(tmp_path: Path) -> None:
    parts, asked = Parts(tmp_path / "p", 10), []

    def compute(first: int, end: int) -> pd.DataFrame:
        asked.append((first, end))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return table(first, end)

    with pytest.raises(KeyboardInterrupt):
        parts.complete(3, compute)
    made, before = parts.complete(4, compute)
    assert asked == [(0, 3), (3, 6), (6, 9), (6, 10)] and before == 6
    pd.testing.assert_frame_equal(made, table(0, 10))
    again, before = parts.complete(1, compute)
    assert len(asked) == 4 and before == 10 and again.equals(made)


def test_no_sample_is_lost_where_another_run_writes_parts_of_other_sizes(tmp_path: Path) -> None:
    mine, other = Parts(tmp_path / "p", 12), Parts(tmp_path / "p", 12)

    def compute(first: int, end: int) -> pd.DataFrame:
        if first == 6:  # the other one has begun with smaller parts, and is not done
            write_table(table(0, 4), other.folder / "000000-000004", csv=False)
        return table(first, end)

    made, before = mine.complete(6, compute)
    pd.testing.assert_frame_equal(made, table(0, 12))
    assert before == 0


def test_damaged_foreign_and_unfinished_files(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 6)
    parts.complete(2, table)
    broken = tmp_path / "000002-000004.parquet"
    broken.write_bytes(broken.read_bytes()[:80])
    (tmp_path / "mine.parquet").write_text("not ours")
    (tmp_path / ".000004-000006.parquet.x.tmp.parquet").write_text("half")
    assert parts.missing(9) == [(2, 4)] and (tmp_path / "mine.parquet").exists()
    assert parts.complete(9, table)[0].equals(table(0, 6))


@settings(max_examples=25)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6), st.integers(1, 5))
def test_every_sample_is_there_once(total: int, ranges: list[tuple[int, int]], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), total)
        for first, end in ranges:
            if first < end <= total:
                table(first, end).to_parquet(Path(folder) / f"{first:06d}-{end:06d}.parquet")
        assert parts.complete(size, table)[0]["sample"].tolist() == list(range(total))
