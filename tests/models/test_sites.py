"""Hook points have the names, shapes and positions that are stated, and every stated one is reached."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.activations.sites import resolve
from mechsteer.models import advance, fires, is_encoder_decoder, parse, position_stack, shape_of, start, width
from tests.tiny import FAMILIES

ROWS, PROMPT, FED = 2, 5, 3


@torch.no_grad()
def one_pass(model: Any) -> dict[str, Tensor]:
    """The activations at every hook point that is reached in one pass."""
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        seen[hook.name] = x

    tokens = torch.arange(4, 4 + ROWS * PROMPT).reshape(ROWS, PROMPT)
    fed = torch.arange(4, 4 + ROWS * FED).reshape(ROWS, FED) if is_encoder_decoder(model) else tokens
    with model.hooks(fwd_hooks=[(name, keep) for name in model.hook_dict]):
        state = start(model, tokens, torch.ones_like(tokens, dtype=torch.bool))
        advance(model, state, fed, torch.ones_like(fed, dtype=torch.bool), logits_at="all")
    return seen


def usable(name: str) -> bool:
    return ".attn.q_norm." not in name and ".attn.k_norm." not in name  # see mechsteer.models.fires


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fires_says_is_what_fires(family: str, tiny: Callable) -> None:
    model = tiny(family)
    reached = {name for name in one_pass(model) if usable(name)}
    assert {name for name in model.hook_dict if fires(model, name)} == reached


@pytest.mark.parametrize("family", FAMILIES)
def test_every_listed_site_is_reached_with_the_stated_shape(family: str, tiny: Callable) -> None:
    model = tiny(family)
    seen, table = one_pass(model), ms.sites(model)
    assert table.columns.tolist() == ["site", "stack", "layer", "kind", "shape"] and len(table) > 20
    for row in table.itertuples():
        x = seen[row.site]
        dims = row.shape.split()
        assert len(dims) == x.ndim, row
        own = PROMPT if row.stack in ("encoder", "blocks") else FED
        sizes = {"batch": ROWS, "pos": own, "query_pos": own, "key_pos": own, "encoder_pos": PROMPT}
        for dim, size in zip(dims, x.shape, strict=True):
            expected = int(dim.split("=")[1]) if "=" in dim else sizes[dim]
            assert size == expected, (row, dim, tuple(x.shape))


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_found_by_kind_and_layer(family: str, tiny: Callable) -> None:
    model = tiny(family)
    for row in ms.sites(model).itertuples():
        stack = row.stack if is_encoder_decoder(model) else None
        assert ms.site(model, row.kind, row.layer, stack) == row.site
        assert parse(row.site) == (row.stack, row.layer, row.kind)


def test_site_names_are_transformer_lenss(tiny: Callable) -> None:
    gpt2, t5 = tiny("gpt2"), tiny("t5")
    assert ms.site(gpt2, "resid_post", layer=1) == "blocks.1.hook_resid_post"
    assert ms.site(gpt2, "z", layer=0) == "blocks.0.attn.hook_z"
    assert ms.site(t5, "resid_post", layer=1, stack="encoder") == "encoder.1.hook_resid_post"
    assert ms.site(t5, "cross_pattern", layer=0) == "decoder.0.cross_attn.hook_pattern"


def test_the_decoder_is_the_default_stack_of_encoder_decoders(tiny: Callable) -> None:
    assert ms.site(tiny("t5-uneven"), "resid_pre", layer=2) == "decoder.2.hook_resid_pre"


def test_full_names_and_hook_prefixes_are_accepted(tiny: Callable) -> None:
    model = tiny("llama")
    assert ms.site(model, "blocks.2.attn.hook_z") == "blocks.2.attn.hook_z"
    assert ms.site(model, "hook_resid_mid", layer=0) == "blocks.0.hook_resid_mid"
    assert ms.site(model, "hook_embed") == "hook_embed"


def test_a_full_name_is_not_of_another_layer_or_stack_than_is_asked_for(tiny: Callable) -> None:
    llama, t5 = tiny("llama"), tiny("t5-uneven")
    for layer in (None, 2, -1):
        assert ms.site(llama, "blocks.2.attn.hook_z", layer) == "blocks.2.attn.hook_z"
        assert ms.site(t5, "decoder.2.hook_resid_post", layer, "decoder") == "decoder.2.hook_resid_post"
    assert ms.site(llama, "hook_embed", layer=1) == "hook_embed"  # which is in none
    for model, name, layer, stack, asked in (
        (llama, "blocks.2.attn.hook_z", 1, None, "layer=1"),
        (llama, "blocks.2.ln1.hook_normalized", -2, None, "layer=-2"),
        (t5, "decoder.0.hook_resid_post", 0, "encoder", "stack='encoder'"),
    ):
        with pytest.raises(ms.MechsteerError, match=f"is in layer . of the (blocks|decoder), but {asked} is asked for"):
            ms.site(model, name, layer, stack)


def test_a_stack_may_stand_before_the_kind_as_captures_take_it(tiny: Callable) -> None:
    t5 = tiny("t5-uneven")
    for kind in ("encoder.resid_post", "encoder.hook_resid_post"):
        assert ms.site(t5, kind, layer=0) == "encoder.0.hook_resid_post"
        assert resolve(t5, kind) == ["encoder.0.hook_resid_post"]
    assert ms.site(tiny("llama"), "blocks.z", layer=-1) == "blocks.2.attn.hook_z"
    for kind, stack in (("blocks.z", None), ("encoder.z", "decoder"), ("encoder.zz", None)):
        with pytest.raises(ms.MechsteerError, match=f"Unknown site '{kind}'"):
            ms.site(t5, kind, layer=0, stack=stack)


def test_negative_layers_count_from_the_end_of_their_stack(tiny: Callable) -> None:
    assert ms.site(tiny("llama"), "resid_post", layer=-1) == "blocks.2.hook_resid_post"
    assert ms.site(tiny("t5-uneven"), "resid_post", layer=-1) == "decoder.2.hook_resid_post"
    assert ms.site(tiny("t5-uneven"), "resid_post", layer=-1, stack="encoder") == "encoder.0.hook_resid_post"


@pytest.mark.parametrize("layer", [3, -4, 100])
def test_a_layer_out_of_range_names_the_range(layer: int, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=rf"Layer {layer} is out of range: the blocks has layers 0 to 2"):
        ms.site(tiny("llama"), "resid_post", layer=layer)


def test_a_missing_layer_names_the_range(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="needs a layer: 0 to 0 of the encoder"):
        ms.site(tiny("t5-uneven"), "resid_post", stack="encoder")


def test_an_unknown_kind_names_the_nearest(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"Unknown site 'resid_psot'.*'resid_post'"):
        ms.site(tiny("llama"), "resid_psot", layer=0)
    with pytest.raises(
        ms.MechsteerError, match=r"Unknown site 'blocks\.0\.hook_resid_psot'.*blocks\.0\.hook_resid_post"
    ):
        ms.site(tiny("llama"), "blocks.0.hook_resid_psot")


def test_a_kind_that_this_stack_does_not_have_is_refused(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"Unknown kind of site \(in the blocks\) 'cross_z'"):
        ms.site(tiny("llama"), "cross_z", layer=0)
    with pytest.raises(ms.MechsteerError, match=r"in the encoder\) 'cross_z'"):
        ms.site(tiny("t5"), "cross_z", layer=0, stack="encoder")


def test_an_unknown_stack_names_the_stacks(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"Unknown stack 'encodr'.*'encoder'"):
        ms.site(tiny("t5"), "z", layer=0, stack="encodr")
    with pytest.raises(ms.MechsteerError, match="Unknown stack 'decoder'"):
        ms.site(tiny("llama"), "z", layer=0, stack="decoder")


def test_results_of_heads_are_listed_only_when_they_are_computed(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("t5")
    assert not ms.sites(model)["kind"].str.endswith("result").any()
    monkeypatch.setattr(model.cfg, "use_attn_result", True)
    assert {"result", "cross_result"} <= set(ms.sites(model)["kind"])
    seen = one_pass(model)
    assert seen["decoder.0.cross_attn.hook_result"].shape == (ROWS, FED, model.cfg.n_heads, model.cfg.d_model)
    torch.testing.assert_close(
        seen["decoder.0.cross_attn.hook_result"].sum(2), seen["decoder.0.hook_cross_attn_out"], atol=1e-3, rtol=1e-4
    )


def test_widths_are_the_last_dimension_and_none_for_scores(tiny: Callable) -> None:
    model = tiny("llama-wide-heads")
    assert width(model, "blocks.0.hook_resid_post") == 32
    assert width(model, "blocks.0.attn.hook_z") == 16
    assert width(model, "blocks.0.mlp.hook_post") == 48
    assert width(model, "blocks.0.attn.hook_pattern") is None
    assert width(model, "unembed.hook_in") == 32 and width(model, "unembed.hook_out") == model.cfg.d_vocab
    assert width(model, "blocks.0.ln1.hook_scale") == width(model, "ln_final.hook_scale") == 1
    assert shape_of(tiny("llama-gqa"), "blocks.0.attn.hook_k") == ("batch", "pos", "n_kv_heads=2", "d_head=8")


def test_cross_attention_keys_have_encoder_positions() -> None:
    assert position_stack("decoder.1.cross_attn.hook_k", two_stacks=True) == "encoder"
    assert position_stack("decoder.1.cross_attn.hook_z", two_stacks=True) == "decoder"
    assert position_stack("encoder.0.attn.hook_q", two_stacks=True) == "encoder"
    assert position_stack("hook_embed", two_stacks=True) == "encoder"
    assert position_stack("blocks.0.hook_resid_pre", two_stacks=False) == "blocks"
