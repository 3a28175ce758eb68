"""Captured rows are those of one prompt run alone with everything cached; and nothing else decides them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.activations import Activations, capture
from mechsteer.activations.sites import resolve
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder, shape_of
from tests.activations.naive import TEXTS, cache, prompts_of, rows
from tests.tiny import WORDS

BOTH = ["llama-gqa", "t5"]
FAMILIES = [*BOTH, "gpt2", "gemma2", "t5-uneven"]
EMPTY_SPAN = ms.Prompt("the cat", torch.tensor([3, 4, 5]), {"task": []})


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-4 * max(scale, 1.0), rtol=1e-3)


def matches_naive(found: Activations, model: Any, prompts: list[ms.Prompt], positions: Any, steer: Any = None) -> None:
    runs = [(cache(model, p, steer), p) for p in prompts]
    for site, values in found.items():
        expected = [rows(cached, p, site, positions) for cached, p in runs]
        close(values, torch.cat(expected))
        for part, one in zip(found.by_prompt(site), expected, strict=True):
            close(part, one)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_with_a_row_a_position_equals_the_naive_way(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    table = ms.sites(model)
    one_row = table["shape"].str.split().str[1].isin(["pos", "key_pos", "encoder_pos"])
    extra = ["hook_embed", "unembed.hook_in", "unembed.hook_out"]
    extra += [name for name in model.hook_dict if "ln" in name and name.endswith(("hook_scale", "hook_normalized"))]
    extra += ["hook_pos_embed"] * (family == "gpt2")
    found = capture(model, prompts, sites=[*table["site"][one_row], *extra], positions="all", batch_size=2)
    assert len(found) == int(one_row.sum()) + len(extra)
    matches_naive(found, model, prompts, "all")


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("positions", ["last", "all", "span:instruction", [0], [-1, 0, 1]])
def test_positions_are_those_of_the_prompt(family: str, positions: Any, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    sites = ["encoder.resid_mid", "encoder.z"] if family == "t5" else ["resid_mid", "z"]
    found = capture(model, prompts, sites=sites, positions=positions, batch_size=2)
    matches_naive(found, model, prompts, positions)
    site = next(iter(found))
    index = found.index(site)
    assert index["row"].tolist() == list(range(len(found[site])))
    for row in index.itertuples():
        assert prompts[row.prompt].tokens[row.position] == row.token
        assert prompts[row.prompt].str_tokens[row.position] == row.text
    assert not index["generated"].any()
    if positions in ("last", [0]):
        assert index["prompt"].tolist() == list(range(len(prompts)))
        assert found.stacked(site).shape[:2] == (len(prompts), 1)
    if positions in ("all", "span:instruction"):
        with pytest.raises(ms.MechsteerError, match=r"do not stack; use \.by_prompt"):
            found.stacked(site)


def test_encoder_and_decoder_sites_have_rows_of_their_own(tiny: Callable) -> None:
    model = tiny("t5-uneven")
    prompts = prompts_of(model)
    sites = ["resid_post", "encoder.resid_post", "decoder.1.cross_attn.hook_k"]
    found = capture(model, prompts, sites=sites, positions="all")
    matches_naive(found, model, prompts, "all")
    decoder, encoder = found.index("decoder.0.hook_resid_post"), found.index("encoder.0.hook_resid_post")
    assert decoder["token"].tolist() == [model.cfg.decoder_start_token_id] * len(prompts)
    assert len(encoder) == sum(map(len, prompts)) == len(found["decoder.1.cross_attn.hook_k"])


@pytest.mark.parametrize("family", BOTH)
def test_what_the_intervention_made_is_captured(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    steer = ms.add(random_direction(model, seed=0, layer=1), 8.0, scope="last_prompt") + ms.attention_bias(
        "instruction", 2.0
    )
    found = capture(model, prompts, sites="resid_post", steer=steer, batch_size=3)
    matches_naive(found, model, prompts, "last", steer)
    plain = capture(model, prompts, sites="resid_post")
    name = next(name for name in found if ".1." in name)
    assert (found[name] - plain[name]).abs().max() > 0.5
    nothing = capture(model, prompts, sites="resid_post", steer=ms.add(random_direction(model, seed=0, layer=1), 0.0))
    assert all(torch.equal(nothing[site], plain[site]) for site in plain)


def test_steering_of_some_rows_and_after_the_captured_layers(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model)
    steer = ms.add(random_direction(model, seed=0, layer=0), 8.0, rows=[1, 4])
    found = capture(model, prompts, sites="resid_post", steer=steer, batch_size=2)
    plain = capture(model, prompts, sites="resid_post")
    changed = (found["blocks.2.hook_resid_post"] - plain["blocks.2.hook_resid_post"]).abs().amax(1) > 0.01
    assert changed.tolist() == [False, True, False, False, True]
    late = ms.add(random_direction(model, seed=0, layer=2), 8.0)
    early = capture(model, prompts, sites="blocks.0.hook_resid_post", steer=late)
    assert torch.equal(early["blocks.0.hook_resid_post"], plain["blocks.0.hook_resid_post"])


@pytest.mark.parametrize(
    ("family", "sites", "runs"),
    [
        ("llama-gqa", ["blocks.1.hook_resid_pre"], ["blocks.1.hook_resid_post"]),
        ("llama-gqa", ["hook_embed"], []),
        ("llama-gqa", ["resid_post"], ["blocks.2.hook_resid_post"]),
        ("t5", ["encoder.0.hook_resid_post"], ["encoder.0.hook_resid_post"]),
        ("t5", ["encoder_final_ln.hook_normalized"], ["encoder.1.hook_resid_post"]),
        ("t5", ["decoder.0.attn.hook_q"], ["encoder.1.hook_resid_post", "decoder.0.hook_resid_post"]),
    ],
)
def test_the_pass_stops_after_the_last_layer_that_is_needed(
    family: str, sites: list[str], runs: list[str], tiny: Callable
) -> None:
    model = tiny(family)
    reached: list[str] = []
    watched = [name for name in model.hook_dict if name.endswith(("hook_resid_post", "unembed.hook_in"))]
    with model.hooks(fwd_hooks=[(name, lambda x, hook: reached.append(hook.name)) for name in watched]):
        found = capture(model, prompts_of(model), sites=sites)
    assert list(found) == resolve(model, sites)
    last = {name.split(".")[0]: name for name in reached}
    assert list(last.values()) == runs


phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)


@pytest.mark.parametrize("family", BOTH)
@settings(max_examples=12)
@given(texts=st.lists(phrase, min_size=1, max_size=5), batch_size=st.integers(1, 4))
def test_rows_do_not_depend_on_the_batch(family: str, texts: list[str], batch_size: int, tiny: Callable) -> None:
    model = tiny(family)
    sites = ["resid_post", "v"] + ["encoder.mlp_out"] * (family == "t5")
    together = capture(model, texts, sites=sites, positions="all", batch_size=batch_size)
    for place, text in enumerate(texts):
        alone = capture(model, text, sites=sites, positions="all")
        for site in alone:
            close(together.by_prompt(site)[place], alone[site])


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("strategy", [None, ms.Sample(temperature=2.0, seed=3)])
def test_generated_tokens_are_those_that_generate_records(family: str, strategy: Any, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    free = ms.generate(model, prompts, max_new_tokens=6, strategy=strategy)
    common = int(free.tokens[2, 2])
    info = ms.model_info(model)
    site = ms.site(model, "resid_post", 1)
    sites = [site, "encoder.0.hook_resid_post"] if family == "t5" else [site]
    try:
        model.mechsteer_info = replace(info, eos_ids=(common,))
        expected = ms.generate(model, prompts, max_new_tokens=6, record=sites, batch_size=2, strategy=strategy)
        found = capture(model, prompts, sites=sites, generate=6, batch_size=2, strategy=strategy, positions="all")
        last = capture(model, prompts, sites=site, generate=6, batch_size=2, strategy=strategy)
    finally:
        model.mechsteer_info = info
    assert len(set(expected.lengths)) > 1
    for name in sites:
        for part, one in zip(found.by_prompt(name), expected.activations[name], strict=True):
            close(part, one)  # generate fills freed places, capture does not: sums of another shape
    for place, part in enumerate(last.by_prompt(site)):
        close(part, expected.activations[site][place][-expected.lengths[place] :])
    index = last.index(site)
    new = index[index["generated"]]
    assert new.groupby("prompt")["token"].apply(list).to_dict() == {
        i: expected.tokens[i, : n - 1].tolist() for i, n in enumerate(expected.lengths) if n > 1
    }
    first = [1 if is_encoder_decoder(model) else len(p) for p in prompts]
    assert all(row.position >= first[row.prompt] for row in new.itertuples())


def test_values_come_in_the_dtype_that_was_asked_for(tiny: Callable) -> None:
    model = tiny("gpt2")
    whole = capture(model, prompts_of(model), sites="resid_post")
    half = capture(model, prompts_of(model), sites="resid_post", dtype=torch.bfloat16)
    for site in whole:
        assert whole[site].dtype == torch.float32
        assert torch.equal(half[site], whole[site].bfloat16())


def test_sites_by_name_pattern_and_kind_come_once_and_in_order(tiny: Callable) -> None:
    model = tiny("t5")
    found = resolve(model, ["decoder.1.hook_mlp_out", "*.0.hook_mlp_out", "mlp_out", "encoder.hook_mlp_out"])
    assert found == [f"{s}.{layer}.hook_mlp_out" for s, layer in [
        ("decoder", 1), ("encoder", 0), ("decoder", 0), ("encoder", 1)]]  # fmt: skip
    assert resolve(model, "cross_q") == ["decoder.0.cross_attn.hook_q", "decoder.1.cross_attn.hook_q"]


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("gpt2", {"sites": []}, "No sites were given"),
        ("gpt2", {"sites": "resid_psot"}, "Unknown site 'resid_psot'.*'resid_post'"),
        ("gpt2", {"sites": "blocks.9.hook_resid_post"}, "Unknown site 'blocks.9.hook_resid_post'.*Did you mean"),
        ("gpt2", {"sites": "blocks.*.hook_resid_psot"}, "finds no hook point.*resid_post"),
        ("gpt2", {"sites": "encoder.resid_post"}, "Unknown site 'encoder.resid_post'"),
        ("gpt2", {"sites": "cross_q"}, "cross_q"),
        ("gpt2", {"sites": "pattern"}, r"'blocks.0.attn.hook_pattern' \(found by 'pattern'\).*one row a position"),
        ("gpt2", {"sites": "blocks.0.attn.hook_attn_scores"}, "query_pos key_pos.*one row a position"),
        ("gpt2", {"sites": "blocks.0.attn.hook_result"}, r"never fires.*set_use_attn_result\(True\) switches it on"),
        ("gpt2", {"prompts": []}, "No prompts were given"),
        ("gpt2", {"positions": "lsat"}, "Unknown positions 'lsat'.*'last'"),
        ("gpt2", {"positions": []}, "must name integers"),
        ("gpt2", {"positions": [0, 2]}, r"Position 2 is not in Prompt\('the'.*: 2 tokens"),
        ("gpt2", {"positions": "span:instrution"}, "Unknown span.*'instrution'"),
        ("gpt2", {"prompts": ["the", "cat " * 128]}, "is too long: its 129 tokens exceed this model's context of 128"),
        ("gpt2", {"prompts": ["cat " * 126], "generate": 2}, "127 tokens and 2 new ones exceed"),
        ("gpt2", {"generate": -1}, "generate must be a number of new tokens.*-1"),
        ("gpt2", {"strategy": ms.Greedy()}, "strategy= needs generate="),
        ("gpt2", {"dtype": torch.int8}, "dtype must be one of torch.float64"),
        ("gpt2", {"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ("t5", {"positions": "span:task"}, "decoder positions have no spans; capture encoder sites"),
        ("gpt2", {"positions": "span:task", "prompts": [EMPTY_SPAN]}, "The span 'task' of .* is empty"),
        ("t5", {"positions": [1]}, "Position 1 is not in .*start token alone"),
    ],
)
def test_bad_input_is_named(family: str, options: dict[str, Any], message: str, tiny: Callable) -> None:
    given = {"prompts": ["the", "the cat"], "sites": "resid_post"} | options
    with pytest.raises(ms.MechsteerError, match=message):
        capture(tiny(family), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": [3]}, "a pattern or a kind, got 3"),
        ({"sites": 3}, "sites must be names, patterns or kinds, got 3"),
        ({"positions": 3}, "must be .last., .all.*got 3"),
        ({"positions": [True]}, "must name integers"),
        ({"positions": [0.5]}, "must name integers"),
        ({"generate": 1.5}, "generate must be a number of new tokens"),
        ({"strategy": "greedy", "generate": 1}, "strategy must be a strategy.*'greedy'"),
        ({"dtype": "float16"}, "dtype must be one of torch.float64.*'float16'"),
        ({"steer": 3.0}, "steer must be an intervention"),
        ({"store": 3}, "store must be an ActivationStore or a path, got 3"),
    ],
)
def test_wrong_types_are_named(options: dict[str, Any], message: str, tiny: Callable, unchecked: None) -> None:
    given = {"prompts": ["the", "the cat"], "sites": "resid_post"} | options
    with pytest.raises(ms.MechsteerError, match=message):
        capture(tiny("gpt2"), **given)


@pytest.mark.parametrize("family", BOTH)
def test_nan_is_named_by_site_and_prompt(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    site = ms.site(model, "mlp_out", 0)
    cat = int(model.tokenizer.convert_tokens_to_ids("dog"))
    where = [i for i, p in enumerate(prompts) if cat in p.tokens]
    embedding = model.embed.W_E
    kept = embedding[cat].clone()
    try:
        with torch.no_grad():
            embedding[cat] = torch.nan
        message = rf"activations at '{site}' are NaN or infinite \(first in prompt ({'|'.join(map(str, where))}), Promp"
        with pytest.raises(ms.MechsteerError, match=message):
            capture(model, prompts, sites=["mlp_out"], batch_size=1)
    finally:
        with torch.no_grad():
            embedding[cat] = kept
    huge = ms.add(random_direction(model, seed=0, layer=0), 3e38, scope="last_prompt")
    with pytest.raises(ms.MechsteerError, match=r"NaN or infinite.*intervention's strength"):
        capture(model, prompts, sites="resid_post", steer=huge + huge + huge + huge + huge + huge + huge + huge)


def test_a_large_sum_is_not_taken_for_infinity(tiny: Callable) -> None:
    model = tiny("gpt2")
    found = capture(model, "the cat", sites="resid_post", dtype=torch.float32)
    scaled = capture(model, "the cat", sites="resid_post", dtype=torch.float16)
    assert all(torch.isfinite(x).all() for x in [*found.values(), *scaled.values()])


def test_captured_sites_are_asked_for_by_name_and_hooks_are_gone(tiny: Callable) -> None:
    model = tiny("t5")
    found = capture(model, TEXTS[0][0], sites="resid_post")
    with pytest.raises(ms.MechsteerError, match=r"Unknown captured site 'decoder.7.hook_resid_post'"):
        found["decoder.7.hook_resid_post"]
    assert repr(found).startswith("Activations(decoder.0.hook_resid_post [1, 32]")
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert shape_of(model, "decoder.0.hook_resid_post")[1] == "pos"
