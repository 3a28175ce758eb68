"""Steering with an affine map by its equation; what holds for every family is in test_properties and test_store."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mechsteer as ms
from mechsteer.identity import cell_key
from mechsteer.models import is_encoder_decoder
from mechsteer.steering import Edit, Intervention
from tests.steering.naive import prompts_of
from tests.steering.steers import BOTH, affine_map, direction
from tests.steering.test_intervention import run
from tests.typecheck import unchecked


@pytest.mark.parametrize("family", BOTH)
def test_it_is_x_plus_c_times_the_maps_change_at_the_scope(family: str, tiny: Callable) -> None:
    """Against a loop over rows, positions and ranks."""
    model = tiny(family)
    fitted, prompts = affine_map(model), prompts_of(model)
    steer = ms.affine(fitted, 0.7, scope="last_prompt", rows=[0, 2])
    _, before = run(model, prompts, [], fed=1)
    _, after = run(model, prompts, steer.hooks(prompts), fed=1)
    expected = before[fitted.site].clone()
    for row in (0, 2):
        state = before[fitted.site][row, -1]
        change = fitted.shift.vector.clone()
        for left, right in zip(fitted.left, fitted.right, strict=True):
            change += left * sum(r * (h - m) for r, h, m in zip(right, state, fitted.centre, strict=True))
        expected[row, -1] += 0.7 * change
    torch.testing.assert_close(after[fitted.site], expected, atol=1e-5, rtol=1e-5)
    assert (after[fitted.site] - before[fitted.site])[0, -1].norm() > 0.1


@pytest.mark.parametrize("family", BOTH)
def test_a_projection_is_one_of_rank_one_and_an_addition_one_without_a_matrix(family: str, tiny: Callable) -> None:
    model = tiny(family)
    d, centre, prompts = direction(model), torch.linspace(-1, 1, direction(model).width), prompts_of(model)
    towards = ms.Direction((2.0 - float(centre @ d.unit)) * d.unit, d.site, "x", meta=d.meta)
    as_map = ms.AffineMap(towards, centre, -d.unit[None], d.unit[None])
    shift_only = ms.AffineMap(d, centre, torch.zeros(1, d.width), torch.zeros(1, d.width))
    for one, other in (
        (ms.affine(as_map), ms.project(d, target=2.0)),
        (ms.affine(shift_only, 3.0), ms.add(d, 3.0 * d.norm)),
    ):
        found, expected = (ms.generate(model, prompts, steer=s, max_new_tokens=3) for s in (one, other))
        assert found.tokens.equal(expected.tokens)
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-4, rtol=1e-4)


def test_positions_that_are_not_meant_may_hold_anything(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model)[0]
    *_, (_, bound) = ms.affine(affine_map(model), scope=[-1]).hooks(prompt)
    bound.step.begin(len(prompt))
    x = torch.full((1, len(prompt), 32), torch.inf)
    x[:, -1] = 1.0
    out = bound(x, SimpleNamespace(name=bound.edit.site))
    assert out is not None and out[:, :-1].equal(x[:, :-1]) and bool(torch.isfinite(out[:, -1]).all())


def test_half_precision_stays_half_and_is_taken_in_single(tiny: Callable) -> None:
    fitted = affine_map(tiny("llama-gqa"))
    (_, bound), *_ = ms.affine(fitted).hooks()
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = bound(x, SimpleNamespace(name=fitted.site))
    assert out is not None and out.dtype == torch.bfloat16
    assert out.equal(x + fitted.change(x.float()).bfloat16())


@pytest.mark.parametrize("family", BOTH)
def test_a_fit_brings_states_nearer_to_the_instructed_ones(family: str, tiny: Callable) -> None:
    """What is fitted is what is steered: after it, the last state is the predicted one."""
    model = tiny(family)
    texts = ["the cat sat on mat", "one", "write red blue house in the dog .", "quote : ends", "a dog"]
    told, untold = prompts_of(model, texts), [ms.prompt(model, text) for text in texts]
    fitted = ms.affine_map(model, list(zip(told, untold, strict=True)), layer=1, rank=3, ridge=0.1)
    (goal, before), wanted = (
        (ms.capture(model, some, sites=fitted.site)[fitted.site] for some in (told, untold)),
        ms.capture(model, untold, sites=fitted.site, steer=ms.affine(fitted, scope=[-1]))[fitted.site]
        if not is_encoder_decoder(model)
        else ms.capture(model, untold, sites=fitted.site, steer=ms.affine(fitted))[fitted.site],
    )
    torch.testing.assert_close(wanted, before + fitted.change(before), atol=1e-4, rtol=1e-4)
    shifted = before + fitted.shift.vector
    assert (wanted - goal).norm() < (shifted - goal).norm() < (before - goal).norm()


def test_gated_explained_and_swept_by_its_name(tiny: Callable) -> None:
    model, steer = tiny("llama-gqa"), ms.affine(affine_map(tiny("llama-gqa")), 2.0)
    table = steer.explain(model, prompts_of(model)[0])
    assert table["method"].tolist() == ["affine"] and table["change_norm"][0] > 0 and table["kl"][0] > 0
    gated = ms.generate(model, prompts_of(model), strategy=ms.Gated([steer], beta=1e-6), max_new_tokens=3)
    assert gated.trace["accepted"].eq(1).any()


def test_every_part_of_the_map_decides_the_key(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    fitted = affine_map(model)
    parts = [fitted.centre, fitted.left, fitted.right]
    keys = {cell_key(None, steer=ms.affine(fitted)), cell_key(None, steer=ms.affine(fitted, 2.0))}
    for place in range(3):
        changed = [part * 1.5 if at == place else part for at, part in enumerate(parts)]
        keys.add(cell_key(None, steer=ms.affine(ms.AffineMap(fitted.shift, *changed))))
    assert len(keys) == 5
    again = ms.AffineMap(fitted.shift, *(part.clone() for part in parts))
    assert cell_key(None, steer=ms.affine(again)) in keys


def test_a_file_holds_the_map_and_says_what_is_missing(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(direction(model), 1.0) + ms.affine(affine_map(model), 0.5, scope="last_prompt")
    path = steer.save(tmp_path / "steer.safetensors")
    assert {"tensor.1.centre", "tensor.1.left", "tensor.1.right"} <= set(load_file(path))
    again = Intervention.load(path).edits[1]
    assert all(again.tensors[name].equal(tensor) for name, tensor in steer.edits[1].tensors.items())
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ms.MechsteerError):
        Intervention.load(path)


def test_what_is_no_map_and_what_does_not_fit_are_refused(tiny: Callable) -> None:
    model, other = tiny("llama-gqa"), tiny("llama")
    with unchecked(), pytest.raises(ms.MechsteerError, match=r"affine takes a map first, which ms\.affine_map makes"):
        wrong: Any = direction(model)
        ms.affine(wrong)
    with pytest.raises(ms.MechsteerError, match="strength must be finite"):
        ms.affine(affine_map(model), float("inf"))
    with pytest.raises(ms.MechsteerError, match="transfer=True"):
        ms.generate(other, "the cat", steer=ms.affine(affine_map(model)))
    ms.generate(other, "the cat", steer=ms.affine(affine_map(model), transfer=True), max_new_tokens=1)
    bare = Intervention.of("affine", affine_map(model).site, 1.0, direction=affine_map(model).shift)
    with pytest.raises(ms.MechsteerError, match=r"has no centre, left, right; make it with ms\.affine"):
        ms.generate(model, "the cat", steer=bare)
    assert isinstance(bare.edits[0], Edit)
