"""A new method is one new file: written here, it runs, saves, loads, explains, sweeps and is gated, by its name."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.comparison.methods import methods_of
from mechsteer.directions import random_direction
from mechsteer.errors import MechsteerError
from mechsteer.identity import cell_key
from mechsteer.steering import METHODS, Edit, Intervention, Scope, is_own, made_of, method
from mechsteer.steering.registry import _found
from mechsteer.studies.sweep import Cell, read_grid, read_modules, sweep
from mechsteer.studies.sweep.steering import normal, run
from tests.markdown import blocks
from tests.steering.naive import prompts_of

FILE = '''
"""Damping: h' = (1 - c) h in one layer's residual stream. Nobody's method; an example."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mechsteer.errors import MechsteerError, finite
from mechsteer.steering import Edit, Intervention, Sites, Where, method

STREAMS = (("blocks", "resid_post"), ("decoder", "resid_post"))


def damp(layer: int, share: float, *, scope: str | Sequence[int] = "all") -> Intervention:
    """Take a share of the residual stream away after one layer.

    Raises:
        MechsteerError: for a share outside [0, 1].
    """
    if not 0 <= finite("share", share) <= 1:
        raise MechsteerError(f"share must be between 0 and 1, got {share}.")
    return Intervention.of("damp", Sites(STREAMS, (layer,)), share, scope=scope)


@method("damp", takes="layer", make=lambda layer, share: damp(layer, share), strength="share")
def apply_damp(edit: Edit, x: Tensor, where: Where) -> Tensor:
    """(1 - c) h where it is meant."""
    meant = where.query_mask(x.shape[0], x.shape[1], x.device)
    return torch.where(meant[..., None], (1 - edit.strength) * x, x)
'''


@pytest.fixture
def damping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, imported; forgotten afterwards."""
    (tmp_path / "damping.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("damping")
    forget()


def forget() -> None:
    sys.modules.pop("damping", None)
    _found.pop("damp", None)


def logprobs(model: Any, steer: Intervention | None) -> torch.Tensor:
    return ms.generate(model, prompts_of(model), steer=steer, max_new_tokens=3).logprobs


def test_the_file_is_short() -> None:
    assert len(FILE.strip().splitlines()) <= 40


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_it_runs_saves_loads_explains_and_is_gated(family: str, damping: Any, tiny: Callable, tmp_path: Path) -> None:
    model = tiny(family)
    steer = damping.damp(0, 0.7)
    assert logprobs(model, damping.damp(0, 0.0)).equal(logprobs(model, None))
    assert not logprobs(model, steer).equal(logprobs(model, None))

    again = Intervention.load(steer.save(tmp_path / "steer.safetensors"))
    assert logprobs(model, again).equal(logprobs(model, steer)) and repr(again) == repr(steer)

    both = ms.steering.explain(steer + ms.attention_bias(delta=2.0), model, prompts_of(model)[0])
    assert both["method"].tolist() == ["damp", "attention_bias", "together"]
    assert both["relative_change"][0] == pytest.approx(0.7, abs=1e-4) and both["kl"][0] > 0

    gated = ms.generate(model, prompts_of(model), strategy=ms.Gated([steer], beta=1e-6), max_new_tokens=3)
    plain = ms.generate(model, prompts_of(model), max_new_tokens=3)
    assert gated.trace["accepted"].eq(1).any()
    closed = ms.generate(model, prompts_of(model), strategy=ms.Gated([steer], beta=1.0), max_new_tokens=3)
    assert closed.texts == plain.texts  # a gate that only the most likely token passes


def test_it_sweeps_by_its_name_also_where_only_the_module_is_known(
    damping: Any, checkpoint: Callable, tiny: Callable, tmp_path: Path
) -> None:
    (tmp_path / "task.jsonl").write_text('{"prompt": "the cat sat"}\n{"prompt": "a red dog"}\n', encoding="utf-8")
    model = str(checkpoint("llama-gqa"))
    same = {"model": model, "task": str(tmp_path / "task.jsonl"), "check": "lowercase", "split": "all"}
    same |= {"method": "damp", "max_new_tokens": 4}
    cells = [Cell.of(same | {"layer": layer, "strength": share}) for layer in (0, 1) for share in (0.0, 0.9)]
    result = sweep(cells, tmp_path / "out", progress=False)
    assert result.tables["summary"]["state"].tolist() == ["finished"] * 4
    texts = result.tables["results"].groupby("cell", sort=False)["output"].agg(list).tolist()
    assert texts[0] == texts[2] and texts[1] != texts[0]
    same_prompts = ["the cat sat", "a red dog"]
    steered = ms.generate(tiny("llama-gqa"), same_prompts, steer=damping.damp(1, 0.9), max_new_tokens=4)
    assert texts[3] == steered.texts
    forget()
    with pytest.raises(MechsteerError, match="damp"):
        normal(cells[0])
    table = run(cells[3], tiny("llama-gqa"), modules=["damping"])  # as a worker process does
    assert table["output"].tolist() == texts[3]


def test_the_command_line_sweeps_a_file_of_ones_own(
    checkpoint: Callable,
    mechsteer: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("damping.py").write_text(FILE, encoding="utf-8")
    Path("task.jsonl").write_text('{"prompt": "the cat sat"}\n{"prompt": "a red dog"}\n', encoding="utf-8")
    cells = f'[grid]\nmodel = "{checkpoint("llama-gqa").as_posix()}"\ntask = "task.jsonl"\ncheck = "lowercase"\n'
    cells += 'split = "all"\nmethod = "damp"\nlayer = 1\nstrength = [0.0, 0.9]\nmax_new_tokens = 4\n'
    try:
        for first, said in (
            ("", r"""Unknown method 'damp'.* If it is your own, .*modules = \["my_method"\]"""),
            ('modules = ["damping_"]\n', "Cannot import 'damping_' of modules"),
            ('modules = ["damping"]\nrun = "damping:damp"\n', "modules are for steering sweeps"),
        ):
            Path("grid.toml").write_text(first + cells, encoding="utf-8")
            code, _, err = mechsteer("sweep", "grid.toml", "--out", "out")
            assert code == 2 and re.search(said, err) and not Path("out").exists()
            forget()
        Path("grid.toml").write_text('modules = ["damping"]\n' + cells, encoding="utf-8")
        code, text, err = mechsteer("sweep", "grid.toml", "--out", "out")
        assert code == 0, err
        assert "0.9" in text and len(list(Path("out/cells").iterdir())) == 2
    finally:
        forget()


@pytest.mark.usefixtures("damping")
def test_the_grid_of_the_guide_sweeps_the_method_of_the_guide(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "extending.md"
    (found,) = (block.code for block in blocks(page.read_text(encoding="utf-8")) if block.language == "toml")
    (tmp_path / "grid.toml").write_text(found, encoding="utf-8")
    assert read_modules(tmp_path / "grid.toml") == ["damping"]
    cells = [normal(cell) for cell in read_grid(tmp_path / "grid.toml")[0]]
    assert len(cells) == 12 and {cell["method"] for cell in cells} == {"damp"}


def test_a_loaded_file_needs_the_module(damping: Any, tmp_path: Path) -> None:
    path = damping.damp(1, 0.5).save(tmp_path / "steer.safetensors")
    forget()
    with pytest.raises(MechsteerError, match=r"Unknown steering method 'damp'.*import the module that registers it"):
        Intervention.load(path)
    import_module("damping")
    assert Intervention.load(path).edits[0].strength == 0.5


def test_another_function_is_another_key(damping: Any, tmp_path: Path) -> None:
    first = cell_key(None, steer=damping.damp(1, 0.5))
    assert first == cell_key(None, steer=damping.damp(1, 0.5)) != cell_key(None, steer=damping.damp(1, 0.4))
    forget()
    (tmp_path / "damping.py").write_text(FILE.replace("(1 - edit.strength) * x", "(1 + edit.strength) * x"))
    assert cell_key(None, steer=import_module("damping").damp(1, 0.5)) != first


def test_a_name_is_taken_once() -> None:
    with pytest.raises(MechsteerError, match=r"'add' already, mechsteer\.steering\.vector:apply_add"):
        method("add")(lambda edit, x, where: x)
    with pytest.raises(MechsteerError, match="both takes= and make="):
        method("mine", takes="span")
    with pytest.raises(MechsteerError, match="takes"):
        method("mine", takes="spam", make=lambda first, strength: Intervention())
    with pytest.raises(MechsteerError, match="Unknown steering method 'ad'"):
        Intervention.of("ad", "blocks.0.hook_resid_post", 1.0)
    assert "mine" not in METHODS


def test_a_function_under_a_registered_name_is_ones_own() -> None:
    edit = Edit("add", "blocks.0.hook_resid_post", Scope(), 1.0, lambda edit, x, where: x)
    assert is_own(edit) and not is_own(ms.attention_bias().edits[0])


def test_the_command_line_finds_what_is_made_of_a_span() -> None:
    assert {"attention_bias", "pasta", "spotlight", "scale_keys"} <= set(made_of("span"))
    assert {"add", "project"} <= set(made_of("direction"))
    for text, made in (("guide:1.5", ms.attention_bias(delta=1.5)), ("pasta:0.1", ms.pasta(alpha=0.1))):
        assert repr(methods_of([text])[text]) == repr(made)


def test_an_own_method_says_what_it_adds(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    made = replace(random_direction(model, seed=0, layer=1), activation_norm=4.0)

    def signs(strength: float, name: str) -> Intervention:
        return Intervention.of(name, made.site, strength, direction=made)

    try:
        method("signs", adds=lambda edit: edit.strength * made.width**0.5)(_add_signs)
        length = 2 * made.width**0.5 / 4
        assert f"strength=2 = {length:.2f} norms" in repr(signs(2.0, "signs"))
        assert signs(2.0, "signs").explain(model, "the cat sat")["in_norms"].iloc[0] == pytest.approx(length)
        method("other signs")(_add_signs)
        assert "norms" not in repr(signs(2.0, "other signs"))
    finally:
        _found.pop("signs", None)
        _found.pop("other signs", None)


def _add_signs(edit: Edit, x: torch.Tensor, where: Any) -> torch.Tensor:
    assert edit.direction is not None
    return x + edit.strength * edit.direction.vector.sign()
