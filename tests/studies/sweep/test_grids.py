"""Cells and grids: their order, their digests, and files that say them."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechsteer.errors import MechsteerError
from mechsteer.studies.sweep.grids import Cell, distinct, grid, read_grid, read_modules


def test_the_order_is_that_of_nested_loops() -> None:
    made = [tuple(cell.values()) for cell in grid(model="m", layer=range(2), strength=(0.5, 1.0))]
    assert made == [("m", layer, strength) for layer in (0, 1) for strength in (0.5, 1.0)]
    assert list(grid(b=1, a=2)[0]) == ["b", "a"]


def test_a_digest_is_the_same_for_ever_and_says_the_content_alone() -> None:
    cell = Cell.of({"model": "organism:trap-t5", "layer": 3, "strength": 0.5, "kinds": ["upper"], "n": None})
    assert cell.digest == "29f92bcdd80f7a94"
    assert Cell.of(dict(reversed(list(cell.items())))) == cell
    others = [{"layer": 3}, {"layer": 3.0}, {"layer": "3"}, {"layer": True}, {"layer": [3]}, {"layer": None}, {}]
    assert len({Cell.of(other).digest for other in others}) == len(others)


def test_cells_are_keys_and_cannot_be_changed() -> None:
    cell = Cell.of({"a": [1, {"b": 2}]})
    assert {cell: 1}[Cell.of({"a": [1, {"b": 2}]})] == 1
    cell["a"].append(3)
    assert cell["a"] == [1, {"b": 2}]
    with pytest.raises(AttributeError):
        cell.text = "{}"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert cell.get("c") is None and repr(cell) == "Cell(a=[1, {'b': 2}])"


def test_numbers_of_numpy_are_numbers() -> None:
    plain = grid(layer=[0, 1], strength=[0.5], flag=[True])
    assert grid(layer=np.arange(2), strength=np.array([0.5]), flag=[np.bool_(True)]) == plain
    assert grid(layer=[np.int64(0), np.int64(1)], strength=np.float32(0.5), flag=True) == plain


def test_repetitions_go_and_the_first_stays_at_its_place() -> None:
    assert distinct([*grid(a=[1, 2]), *grid(a=[0, 1])]) == grid(a=[1, 2, 0])


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({}, "at least one axis"),
        ({"layer": []}, "'layer' has no values"),
        ({"layer": [1, 2, 1]}, "'layer' has the value 1 twice"),
        ({"strength": [1.0, float("nan")]}, "strength must be finite, got nan"),
        ({"strength": float("inf")}, "strength must be finite, got inf"),
        ({"path": Path("x")}, "path must be a JSON value"),
        ({"n": [{1: 2}]}, "n must be a JSON value"),
    ],
)
def test_what_is_no_grid_is_refused(axes: dict[str, Any], said: str) -> None:
    with pytest.raises(MechsteerError, match=said):
        grid(**axes)


TOML = """
run = "package.module:function"

[[grid]]
layer = [0, 1]
strength = [0.5, 1.0]

[[grid]]
layer = [1, 2]
strength = 1.0
"""


def test_a_file_says_a_grid(tmp_path: Path) -> None:
    toml, other = tmp_path / "grid.toml", tmp_path / "grid.json"
    toml.write_text(TOML, encoding="utf-8")
    cells, run = read_grid(toml)
    assert run == "package.module:function"
    assert [tuple(cell.values()) for cell in cells] == [(0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0), (2, 1.0)]
    tables = [{"layer": [0, 1], "strength": [0.5, 1.0]}, {"layer": [1, 2], "strength": 1.0}]
    other.write_text(json.dumps({"grid": tables}), encoding="utf-8")
    assert read_grid(other) == (cells, None)
    other.write_text(json.dumps({"grid": tables[0]}), encoding="utf-8")
    assert read_grid(other) == (cells[:4], None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", "[gird]\nlayer = 1", "Unknown key 'gird'. Did you mean 'grid'"),
        ("a.toml", "layer = [1]", "Axes belong into"),
        ("a.toml", "run = 'a:b'", "needs .grid."),
        ("a.toml", "grid = []", "needs .grid."),
        ("a.toml", "grid = [1]", "needs .grid."),
        ("a.toml", "[grid]", "needs .grid."),
        ("a.toml", "run = 1\n[grid]\na = 1", "run must be a text"),
        ("a.toml", "[grid]\nlayer = [1, 1]", r"a.toml: The axis 'layer' has the value 1 twice"),
        ("a.toml", "[grid]\nday = 2020-01-01", "day must be a JSON value"),
        ("a.toml", "[grid", "not a TOML file"),
        ("a.json", "{", "not a JSON file"),
        ("a.json", "[]", "must hold a JSON object"),
        ("a.yaml", "", "ends in .toml or .json"),
    ],
)
def test_a_file_that_says_no_grid_is_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(MechsteerError, match=said):
        read_grid(tmp_path / name)


def test_a_file_names_modules_and_reading_it_imports_none(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text('modules = ["nowhere.to_be_found"]\n[grid]\na = 1', encoding="utf-8")
    assert read_modules(path) == ["nowhere.to_be_found"] and read_grid(path) == (grid(a=1), None)
    path.write_text("[grid]\na = 1", encoding="utf-8")
    assert read_modules(path) == []
    for wrong in ('"one"', "[1]", "{a = 1}"):
        path.write_text(f"modules = {wrong}\n[grid]\na = 1", encoding="utf-8")
        with pytest.raises(MechsteerError, match="modules must be a list of names"):
            read_modules(path)


@pytest.mark.parametrize("name", ["none.toml", "none.json"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match="No such file"):
        read_grid(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(MechsteerError, match="Cannot read"):
        read_grid(tmp_path / name)


def test_what_nobody_computes_is_refused_before_it_is_built(tmp_path: Path) -> None:
    axes = {f"axis{number}": list(range(40)) for number in range(30)}
    for asked, message in (
        ({"a": range(1000), "b": range(1000)}, r"A grid of 1000 x 1000 = 1,000,000 cells; at most 100,000"),
        (axes, r"= more than 10\^48 cells"),
        ({"a": range(10**12)}, "The axis 'a' has more than 100,000 values"),
        ({"a": [2**63]}, "a must fit 64 bits"),
    ):
        with pytest.raises(MechsteerError, match=message):
            grid(**asked)
    for text, message in (("a = " + "[" * 3000 + "]" * 3000, "nested too deeply"), ("a = " + "9" * 5000, "digits")):
        (tmp_path / "g.toml").write_text(f"[grid]\n{text}")
        with pytest.raises(MechsteerError, match=f"is not a TOML file: .*{message}"):
            read_grid(tmp_path / "g.toml")
