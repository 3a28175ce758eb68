"""A cell is computed once, and again only when its key changes or its file is damaged."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file, save_file
from torch import Tensor

import mechsteer as ms
from mechsteer.activations import capture
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import evaluate
from mechsteer.identity import cell_key
from mechsteer.steering import Edit, Intervention, make_scope
from mechsteer.studies.core.cells import cell
from mechsteer.tasks.answers import Answers, Question

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


SAMPLES = tuple(Question(prompt, "sat") for prompt in ("the cat", "a dog", "the house"))
TASK = Answers("small", SAMPLES, max_new_tokens=3)


def evaluated(folder: Path, model: Any, task: Any, **more: Any) -> pd.DataFrame:
    keyed = cell_key(model, task, more.get("steer"), more.get("strategy"))
    return cell(folder, keyed, lambda: evaluate(model, task, **more))


def texts(folder: Path, model: Any, **more: Any) -> list[str]:
    return evaluated(folder, model, TASK, batch_size=8, **more)["output"].tolist()


def test_a_model_whose_weights_were_changed_in_memory_is_measured_anew(tiny: Callable, tmp_path: Path) -> None:
    model = deepcopy(tiny("llama-gqa"))
    before = texts(tmp_path, model)
    kept = model.blocks[1].mlp.W_out.data.clone()
    model.blocks[1].mlp.W_out.data.mul_(-4)  # a way to write that no counter of versions is told of
    changed = texts(tmp_path, model)
    assert changed == evaluate(model, TASK)["output"].tolist() != before
    model.blocks[1].mlp.W_out.data.copy_(kept)
    assert texts(tmp_path, model) == before
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_an_edited_file_and_another_template_are_measured_anew(checkpoint: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama-gqa", chat=True), tmp_path / "model")
    before = texts(tmp_path, ms.load(folder))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= -4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = ms.load(folder)
    assert texts(tmp_path, model) == evaluate(model, TASK)["output"].tolist() != before
    (folder / "chat_template.jinja").write_text("{% for m in messages %}the {{ m['content'] }}{% endfor %}")
    model = ms.load(folder)
    assert texts(tmp_path, model) == evaluate(model, TASK)["output"].tolist()
    assert len(list((tmp_path / "cells").iterdir())) == 3


def test_edits_of_ones_own_are_kept_under_their_name_and_version(tiny: Callable, tmp_path: Path) -> None:
    def mine(factor: float, version: str = "") -> Intervention:
        def scaled(edit: Any, x: Tensor, where: Any) -> Tensor:
            return factor * x

        if version:
            scaled.name, scaled.version = "scaled", version  # type: ignore[attr-defined]
        return Intervention((Edit("mine", "blocks.1.hook_mlp_out", make_scope("all"), 1.0, scaled),))

    with pytest.raises(MechsteerError, match=r"The function of the edit 'mine' .* is your own"):
        texts(tmp_path, tiny("llama-gqa"), steer=mine(1.0))
    assert list(tmp_path.iterdir()) == []
    found = [texts(tmp_path, tiny("llama-gqa"), steer=mine(f, v)) for f, v in ((1.0, "1"), (-4.0, "2"), (-4.0, "1"))]
    assert found[0] == found[2] != found[1]  # the last one says that it is the first
    with pytest.raises(MechsteerError, match="is your own"):
        capture(tiny("llama-gqa"), ["the cat"], sites="resid_post", steer=mine(1.0), store=tmp_path / "store")
    capture(tiny("llama-gqa"), ["the cat"], sites="resid_post", steer=mine(1.0, "1"), store=tmp_path / "store")
    with pytest.raises(MechsteerError, match="its intervention is"):
        capture(tiny("llama-gqa"), ["the cat"], sites="resid_post", steer=mine(1.0, "2"), store=tmp_path / "store")
