"""Files are written whole or not at all, and unreadable ones are named."""

import errno
import os
import stat
from pathlib import Path

import pandas as pd
import pytest

import mechsteer as ms
from mechsteer import files
from mechsteer.activations.recorded import grouped
from mechsteer.comparison.methods import methods_of
from mechsteer.errors import MechsteerError
from mechsteer.steering import method


def test_atomic_path_puts_the_file_in_place_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.txt"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".txt" and not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["out.txt"]


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(KeyError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError("boom")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_atomic_path_cleans_up_when_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "out.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_permissions_that_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", 1)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_a_folder_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MechsteerError, match=r"Cannot write .*file/out\.txt"),
        files.atomic_path(tmp_path / "file/out.txt"),
    ):
        pytest.fail("gave a path")
    with pytest.raises(MechsteerError, match=r"Output folder .*file/deep is not writable"):
        files.writable_dir(tmp_path / "file" / "deep")


def test_a_read_only_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", denied)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", denied)
    with pytest.raises(MechsteerError, match=r"out\.txt: Permission denied"), files.atomic_path(tmp_path / "out.txt"):
        pytest.fail("gave a path")
    with pytest.raises(MechsteerError, match="not writable: Permission denied"):
        files.writable_dir(tmp_path)


def test_a_full_disk_leaves_the_old_table_and_no_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_table(pd.DataFrame({"x": [1]}), tmp_path / "t")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MechsteerError, match=r"t\.parquet: No space left on device"):
        files.write_table(pd.DataFrame({"x": [2]}), tmp_path / "t")
    monkeypatch.undo()
    assert files.read_table(tmp_path / "t.parquet")["x"].tolist() == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_writable_dir_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    assert list(files.writable_dir(tmp_path / "a" / "b").iterdir()) == []


def test_tables_come_back_as_written_with_a_csv_for_people(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"layer": [0, 1], "value": [1 / 3, float("nan")], "name": ["ä, b", 'quo"te'], "ok": [True, False]}
    )
    written = files.write_table(table, tmp_path / "runs" / "t.v1")
    assert [p.name for p in written] == ["t.v1.parquet", "t.v1.csv"]
    pd.testing.assert_frame_equal(files.read_table(written[0]), table)
    assert pd.read_csv(written[1])["name"].tolist() == ["ä, b", 'quo"te']


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    parquet, _ = files.write_table(pd.DataFrame({"x": range(100)}), tmp_path / "t")
    parquet.write_bytes(parquet.read_bytes()[:-20])
    with pytest.raises(MechsteerError, match="not a readable parquet table"):
        files.read_table(parquet)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match=r"No such table: .*gone\.parquet"):
        files.read_table(tmp_path / "gone.parquet")


def test_json_comes_back_as_written(tmp_path: Path) -> None:
    value = {"text": "naïve ☃", "numbers": [1, 2.5, None]}
    assert files.read_json(files.write_json(tmp_path / "a.json", value)) == value
    assert "☃" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe\x00", b""])
def test_broken_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MechsteerError, match=r"a\.json is not a JSON file"):
        files.read_json(tmp_path / "a.json")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match="No such file"):
        files.read_json(tmp_path / "a.json")


def test_bundled_data_is_found() -> None:
    assert (files.data_path("organisms", "trap-t5") / "config.json").is_file()


def test_unknown_bundled_data_names_the_nearest() -> None:
    with pytest.raises(MechsteerError, match=r"No bundled data 'organisms/trap-t6'\. Did you mean 'trap-t5'"):
        files.data_path("organisms", "trap-t6")


def test_digest_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1})
    assert files.digest({"a": 1, "b": [2]}) != files.digest({"a": 1, "b": [3]})
    assert files.digest([1, 2]) != files.digest([2, 1])
    odd = [{"a": [{1: "x", "b": 2, (3, 4): None}]}, {"a": [{"b": 2, (3, 4): None, 1: "x"}]}, {"a": [{1: "y", "b": 2}]}]
    assert files.digest(odd[0]) == files.digest(odd[1]) != files.digest(odd[2])


def test_a_record_is_there_only_beside_its_own_tables(tmp_path: Path) -> None:
    record, table = tmp_path / "run.json", pd.DataFrame({"x": [1]})
    (tmp_path / "users.parquet").write_bytes(b"mine")
    with files.written_together(record, {"a": table, "b": table}) as about:
        about["of"] = 1
        assert not record.exists() and (tmp_path / "b.parquet").exists()
        (tmp_path / "extra").touch()
    assert files.read_record(record, "record") == {"of": 1, "tables": ["a", "b"]}
    with pytest.raises(RuntimeError), files.written_together(record, {"a": table}, ["extra"]):
        assert not record.exists()
        raise RuntimeError
    assert {path.name for path in tmp_path.iterdir()} == {"a.parquet", "a.csv", "users.parquet"}
    record.write_text('{"tables": ["users"], "checksum": "of another file"}')
    with files.written_together(record, {"a": table}) as about:
        about["of"] = 3
    assert (tmp_path / "users.parquet").read_bytes() == b"mine" and files.read_record(record, "record")["of"] == 3


def test_half_a_character_is_named_by_whatever_would_write_it(tmp_path: Path, unchecked: None) -> None:
    path = tmp_path / "a.json"
    writers = {
        "json": lambda: files.write_json(path, {"a": "x\ud800"}),
        "record": lambda: files.write_record(path, {"x\ud800": 1}),
        "table": lambda: files.write_table(pd.DataFrame({"a": pd.Series(["x\ud800"], dtype=object)}), tmp_path / "t"),
        "method": lambda: ms.compare(None, None, {"x\ud800": None}),
        "registered": lambda: method("x\ud800"),
        "group": lambda: grouped({"x\ud800": ["a"]}),
        "kind": lambda: ms.task([{"prompt": "a", "kind": "x\ud800"}], "lowercase"),
        "task": lambda: ms.task(["a"], "lowercase", name="x\ud800"),
    }
    for write in writers.values():
        with pytest.raises(MechsteerError, match=r"half a character|surrogates not allowed") as found:
            write()
        assert str(found.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="paths are Unicode there")
def test_a_path_that_is_not_utf_8_is_a_path_or_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "own\udcff.jsonl"
    path.write_text('{"prompt": "a"}')
    task = ms.task(path, "lowercase")
    assert task.name == r"own\udcff.jsonl"
    files.write_table(pd.DataFrame({"task": [task.name]}), tmp_path / "\udcff" / "rows")
    assert files.read_table(tmp_path / "\udcff" / "rows.parquet")["task"].tolist() == [task.name]
    saved = ms.attention_bias().save(tmp_path / "\udcff" / "steer.safetensors")
    (name,) = set(methods_of([str(saved)])) - {"unsteered"}
    assert name.isprintable() and name.endswith(r"\udcff/steer.safetensors")
    with pytest.raises(MechsteerError, match="is not UTF-8, and what reads weights"):
        ms.load(tmp_path / "\udcff")


def test_versions_name_the_packages_that_decide_numbers() -> None:
    import torch

    found = files.versions()
    assert found["torch"] == torch.__version__ and {"transformers", "transformer-lens"} <= found.keys()


def test_a_column_without_a_value_has_the_type_of_one_with(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    full = pd.DataFrame({"seed": [1], "error": ["x"], "strength": [0.5], "with_instruction": [True]})
    empty = pd.DataFrame({name: [None] for name in full}, dtype=object)
    none = empty.iloc[:0]
    schemas = []
    for number, table in enumerate((full, empty, none)):
        (path,) = files.write_table(table, tmp_path / str(number), csv=False)
        schemas.append(pq.read_schema(path).remove_metadata())
        pd.testing.assert_frame_equal(files.read_table(path), table)
        arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
        (tmp_path / "arrow.parquet").write_bytes(files.parquet_bytes(arrow))
        schemas.append(pq.read_schema(tmp_path / "arrow.parquet").remove_metadata())
        if number != 1:
            continue
        assert files.read_table(tmp_path / "arrow.parquet")["error"].tolist() == [None]
        (tmp_path / "part.parquet").write_bytes(files.parquet_bytes(arrow, part=True))  # as a sweep writes its cells
        part = pq.read_table(tmp_path / "part.parquet")
        (tmp_path / "whole.parquet").write_bytes(files.parquet_bytes(part))
        assert files.read_table(tmp_path / "whole.parquet")["error"].tolist() == [None]
        assert pq.read_schema(tmp_path / "whole.parquet").remove_metadata() == schemas[0]
    assert all(schema == schemas[0] for schema in schemas)


def test_values_that_do_not_go_together_are_one_error(tmp_path: Path) -> None:
    for values in ([1, "x"], [{"a": 1}, 3], ["\ud800", "x"]):
        with pytest.raises(MechsteerError, match=r"t\.parquet cannot be written as parquet"):
            files.write_table(pd.DataFrame({"x": pd.Series(values, dtype=object)}), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[" * 5000 + "]" * 5000, "9" * 5000, '["\\ud800"]', '{"\\udfff": 1}'])
def test_json_that_nothing_can_hold_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(MechsteerError, match=r"a\.json is not a JSON file: \S+") as caught:
        files.read_json(tmp_path / "a.json")
    assert str(caught.value).isprintable()


def test_characters_beyond_the_basic_plane_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["\\ud83d\\ude00"]')
    assert files.read_json(tmp_path / "a.json") == ["😀"]
