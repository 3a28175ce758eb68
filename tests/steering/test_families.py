"""Every family's equation, by numbers worked out by hand, and one clear error for every bad input."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.models import advance, fork, hooked, is_encoder_decoder, predicting_stack, start
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, attach
from tests.models.test_parity import hugging_face
from tests.steering import naive
from tests.steering.naive import INSTRUCTION, prompts_of
from tests.steering.steers import BOTH, direction
from tests.steering.test_intervention import run

SITE = "blocks.0.attn.hook_attn_scores"
HAND = Prompt("x", torch.arange(4), {"instruction": [(1, 2)], "task": [(2, 4)]})


def hand_made(weights: list[float], rows: int = 1) -> Tensor:
    """Scores whose softmax is known: [row, 2 heads, 1 query, keys]."""
    return torch.tensor(weights).log().expand(rows, 2, 1, -1).clone()


def edited(steer: Intervention, scores: Tensor, prompt: Prompt = HAND, site: str = SITE, end: int = 4) -> Tensor:
    """The edited scores, through the hook function itself."""
    *_, (_, bound) = steer.hooks([prompt] * scores.shape[0])
    bound.step.begin(end)
    out = bound(scores, SimpleNamespace(name=site))
    assert out is not None and bound.fired == 1
    return out


def share(scores: Tensor) -> float:
    return float(scores.double().softmax(-1)[0, 0, 0, 1])


@pytest.mark.parametrize(
    ("delta", "expected"), [(0.5, 0.01638), (1, 0.02672), (2, 0.06945), (3, 0.16866), (5, 0.59986)]
)
def test_guide_raises_one_percent_to_the_worked_share(delta: float, expected: float) -> None:
    scores = hand_made([0.5, 0.01, 0.29, 0.2])
    assert share(edited(ms.attention_bias(delta=delta), scores)) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("target", "expected"), [(0.1, 0.09174), (0.3, 0.23256)])
def test_spotlight_raises_one_percent_to_a_little_below_its_target(target: float, expected: float) -> None:
    scores = hand_made([0.5, 0.01, 0.29, 0.2])
    assert share(edited(ms.spotlight(target=target), scores)) == pytest.approx(expected, abs=5e-6)
    enough = hand_made([0.2, target + 0.01, 0.2, 0.59 - target])
    assert edited(ms.spotlight(target=target), enough).equal(enough)


def test_spotlight_raises_a_share_that_is_too_small_for_float32() -> None:
    scores = torch.tensor([0.0, -200.0, 0.0, 0.0]).expand(1, 2, 1, 4)
    assert scores.softmax(-1)[0, 0, 0, 1] == 0
    assert share(edited(ms.spotlight(target=0.3), scores)) == pytest.approx(0.3 / 1.3, abs=1e-4)


@pytest.mark.parametrize(("alpha", "expected"), [(0.01, 0.50251), (0.1, 0.09174)])
def test_pasta_raises_one_percent_to_the_worked_share(alpha: float, expected: float) -> None:
    scores = hand_made([0.5, 0.01, 0.29, 0.2])
    after = edited(ms.pasta(alpha=alpha), scores)
    assert share(after) == pytest.approx(expected, abs=5e-6)
    rest = after.softmax(-1)[0, 0, 0, [0, 2, 3]]
    torch.testing.assert_close(rest / rest.sum(), torch.tensor([0.5, 0.29, 0.2]) / 0.99)


@pytest.mark.parametrize("factor", [1.0, 3.0, 19.0])
def test_instaboost_is_a_bias_of_the_logarithm(factor: float) -> None:
    scores = hand_made([0.3, 0.05, 0.4, 0.25])
    weights = scores.softmax(-1)
    weights[..., 1] *= factor
    after = edited(ms.attention_bias(delta=math.log(factor)), scores).softmax(-1)
    torch.testing.assert_close(after, weights / weights.sum(-1, keepdim=True))


def test_keys_that_are_masked_stay_masked() -> None:
    for masked in (-math.inf, torch.finfo(torch.float32).min):
        scores = hand_made([0.5, 0.01, 0.29, 0.2])
        scores[..., 2:] = masked
        for steer in (
            ms.attention_bias(("instruction", "task"), 5.0),
            ms.pasta(alpha=0.01),
            ms.spotlight(("instruction", "task"), 0.9),
            ms.spotlight(("instruction", "task"), 0.9, compat="released"),
            ms.scale_keys("task", 50.0),
        ):
            after = edited(steer, scores).softmax(-1)
            assert after[..., 2:].max() == 0 and not after.isnan().any()


def test_pasta_as_released_leaves_the_keys_of_generated_tokens_alone() -> None:
    scores = hand_made([0.3, 0.1, 0.2, 0.2, 0.15, 0.05])  # 4 prompt tokens, 2 generated
    down = math.log(0.1)
    paper = edited(ms.pasta(alpha=0.1), scores, end=6) - scores
    released = edited(ms.pasta(alpha=0.1, compat="released"), scores, end=6) - scores
    torch.testing.assert_close(paper[0, 0, 0], torch.tensor([down, 0, down, down, down, down]))
    torch.testing.assert_close(released[0, 0, 0], torch.tensor([down, 0, down, down, 0, 0]))


@pytest.mark.parametrize(
    ("spans", "names"),
    [
        ({"a": [(0, 1), (3, 4)]}, ["a"]),
        ({"a": [(0, 1)], "b": [(3, 4)]}, ["a", "b"]),
        ({"a": [(1, 2)], "content": [(3, 4)], "b": [(0, 1)]}, ["a", "b", "content"]),
    ],
)
def test_pasta_as_released_lets_each_stretch_scale_down_the_others(spans: Any, names: list[str]) -> None:
    prompt = Prompt("x", torch.arange(5), spans)
    scores = hand_made([0.3, 0.1, 0.2, 0.2, 0.15, 0.05], rows=2)  # 5 prompt tokens, 1 generated
    expected = torch.zeros(6)
    for first, end in [stretch for name in names for stretch in spans[name]]:
        expected[[place for place in range(5) if not first <= place < end]] += math.log(0.1)
    released = edited(ms.pasta(names, 0.1, compat="released"), scores, prompt, end=6) - scores
    torch.testing.assert_close(released[1, 0, 0], expected)
    only = ms.pasta(names, 0.1, compat="released", rows=[1])
    half = edited(only, scores.half(), prompt, end=6)
    assert half.dtype == torch.float16 and half[0].equal(scores[0].half())
    torch.testing.assert_close((half[1, 0, 0] - scores[1, 0, 0].half()).float(), expected, atol=1e-2, rtol=0)


def test_spotlight_as_released_takes_one_share_of_all_heads_and_queries() -> None:
    weights = torch.tensor(
        [[[0.9, 0.02, 0.05, 0.03], [0.1, 0.6, 0.2, 0.1]], [[0.5, 0.3, 0.1, 0.1], [0.97, 0.01, 0.01, 0.01]]]
    )
    scores = weights.log()[None]
    psi = (0.02 + 0.6 + 0.3 + 0.01) / 4
    expected = weights.clone()
    expected[..., 1] *= 0.5 / psi
    expected = expected / expected.sum(-1, keepdim=True)
    after = edited(ms.spotlight(target=0.5, compat="released"), scores).softmax(-1)[0]
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=0)
    assert edited(ms.spotlight(target=0.23, compat="released"), scores).equal(scores)  # psi is 0.2325
    paper = edited(ms.spotlight(target=0.5), scores).softmax(-1)[0]
    torch.testing.assert_close(paper[0, 1], weights[0, 1])  # has 0.6 already
    assert (paper - after).abs().max() > 0.05


FAR = [1e3, 1e6, 1e300]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("delta", [*FAR, *(-delta for delta in FAR)])
def test_a_bias_that_leaves_nothing_of_a_side_leaves_the_other_as_it_is(delta: float, dtype: torch.dtype) -> None:
    """Also for queries that see one side alone: the first of a span at the very start."""
    scores = 3 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    scores = scores.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -math.inf).to(dtype)
    for span in ((0, 2), (1, 3), (2, 4), (0, 4)):
        inside = torch.tensor([span[0] <= key < span[1] for key in range(4)])
        kept = inside if delta > 0 else ~inside
        left = scores.double().masked_fill(~kept, -math.inf)
        sees = left.isfinite().any(-1, keepdim=True)
        expected = torch.where(sees, left, scores.double()).softmax(-1)
        steer = ms.attention_bias(delta=delta)
        after = edited(steer, scores, Prompt("x", torch.arange(4), {"instruction": [span]}))
        torch.testing.assert_close(after.double().softmax(-1), expected, atol=1e-6, rtol=0)
        first = ms.attention_bias(delta=delta, scope=[0, 2])
        some = edited(first, scores, Prompt("x", torch.arange(4), {"instruction": [span]}))
        assert some[:, :, 1::2].equal(scores[:, :, 1::2]) and some[:, :, ::2].equal(after[:, :, ::2])


class Cut(naive.Rule):
    """Weights of one side 0, where a query sees the other; the rest renormalised."""

    def __init__(self, prompt: Prompt, delta: float) -> None:
        super().__init__(prompt)
        self.delta = delta

    def weights(self, place: naive.Place, weights: Tensor) -> Tensor:
        if place[0] == "decoder":
            return weights
        inside = torch.zeros(weights.shape[-1], dtype=torch.bool)
        inside[self.inside] = True
        kept = weights * (inside if self.delta > 0 else ~inside)
        kept = torch.where(kept.sum(-1, keepdim=True) > 0, kept, weights)
        return kept / kept.sum(-1, keepdim=True)


@pytest.mark.parametrize("delta", [1e5, -1e5])
@pytest.mark.parametrize("family", ["llama-gqa", "mistral", "gemma2", "t5"])
def test_attention_is_cut_in_the_fused_kernel_as_in_the_scores(
    family: str, delta: float, tiny: Callable, checkpoint: Callable
) -> None:
    """A span at the very start, one longer than a window, and all but the last token."""
    model, hf = tiny(family), hugging_face(checkpoint(family))
    tokens = torch.arange(4, 24)
    for span in ((0, 3), (4, 14), (0, 19)):
        prompt = Prompt("x", tokens, {"instruction": [span]}, encoder_decoder=family == "t5")
        expected = naive.hf_probabilities(hf, model, prompt, [9, 17], Cut(prompt, delta))
        for cached in (False, True):
            ours = naive.our_probabilities(model, prompt, [9, 17], ms.attention_bias(delta=delta), cached=cached)
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_several_spans_are_steered_together() -> None:
    scores = hand_made([0.5, 0.01, 0.29, 0.2])
    after = edited(ms.attention_bias(("instruction", "task"), 2.0), scores) - scores
    torch.testing.assert_close(after[0, 0, 0], torch.tensor([0.0, 2.0, 2.0, 2.0]))


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "t5"])
def test_pasta_touches_the_chosen_heads_alone(family: str, tiny: Callable) -> None:
    model, prompts = tiny(family), prompts_of(tiny(family))
    _, before = run(model, prompts, [])
    _, after = run(model, prompts, ms.pasta(alpha=0.01, heads=[(1, 0), (1, 3)], at="cross").hooks(prompts))
    kind = "decoder.{}.cross_attn.hook_pattern" if family == "t5" else "blocks.{}.attn.hook_pattern"
    assert after[kind.format(0)].equal(before[kind.format(0)])
    moved = (after[kind.format(1)] - before[kind.format(1)]).abs().amax((0, 2, 3))
    assert (moved > 1e-2).tolist() == [True, False, False, True] and moved[[1, 2]].max() == 0


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("target", [None, -3.5])
def test_projecting_sets_the_projection_at_the_scope_alone_and_twice_is_once(
    family: str, target: float | None, tiny: Callable
) -> None:
    model = tiny(family)
    d = direction(model, stack="encoder")
    prompts = prompts_of(model)[:2]
    steer = ms.project(d, target=target, scope="span:instruction")
    _, before = run(model, prompts, [])
    _, after = run(model, prompts, steer.hooks(prompts))
    _, twice = run(model, prompts, (steer + steer).hooks(prompts))
    starts = ms.batch(prompts, side="right" if family == "t5" else "left").starts
    mask = torch.zeros(after[d.site].shape[:2], dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        mask[row, [starts[row] + p for p in prompt.positions("instruction")]] = True
    projections = after[d.site] @ d.unit
    zbar = d.mean_projection if target is None else target
    torch.testing.assert_close(projections[mask], torch.full_like(projections[mask], zbar), atol=1e-5, rtol=0)
    assert after[d.site][~mask].equal(before[d.site][~mask])
    across = after[d.site] - before[d.site]
    torch.testing.assert_close(across, (across @ d.unit)[..., None] * d.unit, atol=1e-5, rtol=0)
    torch.testing.assert_close(twice[d.site], after[d.site], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "kind"), [("llama-gqa", "z"), ("gpt2", "z"), ("t5", "z"), ("t5", "cross_z")])
def test_heads_adds_to_each_head_and_so_the_sum_of_what_they_write(family: str, kind: str, tiny: Callable) -> None:
    model = tiny(family)
    d, prompts = direction(model, kind), prompts_of(model)
    steer = ms.heads(d, -1.5)
    _, before = run(model, prompts, [], fed=1)
    _, after = run(model, prompts, steer.hooks(prompts), fed=1)
    layer = (model.decoder if family == "t5" else model.blocks)[1]
    attention = layer.cross_attn if kind == "cross_z" else layer.attn
    size = model.cfg.d_head
    written = torch.zeros(model.cfg.d_model)
    for head in range(model.cfg.n_heads):
        delta = -1.5 * d.vector[head * size : (head + 1) * size]
        for row in range(len(prompts)):
            moved = after[d.site][row, -1, head] - before[d.site][row, -1, head]
            torch.testing.assert_close(moved, delta, atol=1e-5, rtol=0)
        written += delta @ attention.W_O[head]
    assert after[d.site][:, :-1].equal(before[d.site][:, :-1])
    out = ms.site(model, "cross_attn_out" if kind == "cross_z" else "attn_out", layer=1)
    change = (after[out] - before[out])[:, -1]
    torch.testing.assert_close(change, written.expand_as(change), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "mistral", "qwen3", "gpt2"])
def test_scaling_a_key_multiplies_its_scores(family: str, tiny: Callable) -> None:
    model, prompts = tiny(family), prompts_of(tiny(family))[:1]
    _, before = run(model, prompts, [])
    steer = ms.scale_keys(alpha=7.0, layers=[0])
    _, after = run(model, prompts, steer.hooks(prompts))
    plain, scaled = before[SITE].clone(), after[SITE]
    plain[..., prompts[0].positions("instruction")] *= 7.0
    torch.testing.assert_close(scaled, plain, atol=1e-4, rtol=1e-5)
    assert not scaled.equal(before[SITE])


def test_a_soft_cap_comes_after_the_scaled_score(tiny: Callable) -> None:
    model = tiny("gemma2")
    prompts = prompts_of(model)[:1]
    cap = model.cfg.attn_scores_soft_cap
    assert cap > 0
    _, before = run(model, prompts, [])
    _, after = run(model, prompts, ms.scale_keys(alpha=3.0, layers=[0]).hooks(prompts))
    q, k = before["blocks.0.attn.hook_rot_q"], before["blocks.0.attn.hook_rot_k"].clone()
    k[:, prompts[0].positions("instruction")] *= 3.0
    k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
    raw = torch.einsum("bqhd,bkhd->bhqk", q, k) / model.blocks[0].attn.attn_scale
    seen = before[SITE] > -math.inf
    torch.testing.assert_close(after[SITE][seen], (cap * (raw / cap).tanh())[seen], atol=1e-4, rtol=0)
    assert (raw[seen].abs() > 0.2 * cap).any()  # where the cap bends the score


def test_scaling_before_the_norm_of_the_keys_does_nothing(tiny: Callable) -> None:
    """Why keys are scaled after it."""
    model = tiny("qwen3")
    prompts = prompts_of(model)[:1]
    inside = prompts[0].positions("instruction")

    def scale(x: Tensor, hook: Any) -> Tensor:
        out = x.clone()
        out[:, inside] *= 7.0
        return out

    _, before = run(model, prompts, [])
    _, early = run(model, prompts, [("blocks.0.attn.hook_k", scale)])
    _, late = run(model, prompts, ms.scale_keys(alpha=7.0, layers=[0]).hooks(prompts))
    torch.testing.assert_close(early[SITE], before[SITE], atol=1e-4, rtol=0)
    seen = before[SITE] > -math.inf
    assert (late[SITE][seen] - before[SITE][seen]).abs().max() > 1.0


def test_t5s_position_bias_is_not_scaled(tiny: Callable) -> None:
    model = tiny("t5")
    prompts = prompts_of(model)[:1]
    site = "encoder.0.attn.hook_attn_scores"
    _, before = run(model, prompts, [])
    _, after = run(model, prompts, ms.scale_keys(alpha=5.0, layers=[0]).hooks(prompts))
    q, k = before["encoder.0.attn.hook_q"], before["encoder.0.attn.hook_k"]
    product = torch.einsum("bqhd,bkhd->bhqk", q, k)
    inside = prompts[0].positions("instruction")
    expected = before[site].clone()
    expected[..., inside] += 4.0 * product[..., inside]
    torch.testing.assert_close(after[site], expected, atol=1e-3, rtol=1e-5)
    assert (before[site] - product).abs().max() > 0.1  # there is a bias


@pytest.mark.parametrize("family", ["llama-gqa", "qwen3", "gpt2", "t5"])
@torch.no_grad()
def test_the_cache_keeps_unscaled_keys(family: str, tiny: Callable) -> None:
    """After a steered pass whose first layer alone sees scaled keys, unsteered steps see plain ones in that layer."""
    model = tiny(family)
    prompt = prompts_of(model)[0]
    two = family == "t5"
    batch = ms.batch([prompt], side="right" if two else "left")
    first = torch.tensor([[model.cfg.decoder_start_token_id]]) if two else batch.tokens
    one = torch.ones_like(first, dtype=torch.bool)
    step = Step(batch, decoder_prefix=int(two))
    step.begin(first.shape[1])
    steer = ms.scale_keys(alpha=9.0, at="cross")
    plain = start(model, batch.tokens, batch.mask)
    steered = fork(plain)
    unsteered_logits = advance(model, plain, first, one)
    with hooked(model, attach(steer.bind(model, step), model)):
        steered_logits = advance(model, steered, first, one)
    assert (steered_logits - unsteered_logits).abs().max() > 1e-2
    entries = [state.cache for state in (plain, steered)]
    assert entries[0][0].past_keys.equal(entries[1][0].past_keys)
    if two:
        assert plain.cross[0].keys.equal(steered.cross[0].keys)
    else:
        assert not entries[0][2].past_keys.equal(entries[1][2].past_keys)  # deeper layers saw other streams


def test_scaling_for_the_prompt_alone_leaves_no_trace_in_the_keys_of_the_first_layer(tiny: Callable) -> None:
    model, prompts = tiny("llama-gqa"), prompts_of(tiny("llama-gqa"))
    both = ms.scale_keys(alpha=4.0, scope="prompt") + ms.scale_keys(alpha=4.0, scope="generated")
    everything = ms.generate(model, prompts, steer=ms.scale_keys(alpha=4.0), max_new_tokens=4)
    halves = ms.generate(model, prompts, steer=both, max_new_tokens=4)
    assert halves.tokens.equal(everything.tokens)
    torch.testing.assert_close(halves.logprobs, everything.logprobs, atol=1e-4, rtol=0)
    prompt = ms.generate(model, prompts, steer=ms.scale_keys(alpha=4.0, scope="prompt"), max_new_tokens=4)
    assert prompt.logprobs[:, 0].equal(everything.logprobs[:, 0])
    assert (prompt.logprobs - everything.logprobs).abs().max() > 1e-2


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "delta inf": (lambda m: ms.attention_bias(delta=math.inf), "delta must be finite, got inf"),
    "delta nan": (lambda m: ms.attention_bias(delta=math.nan), "delta must be finite, got nan"),
    "pasta 0": (lambda m: ms.pasta(alpha=0.0), r"alpha must be above 0 and at most 1, got 0\.0"),
    "pasta -1": (lambda m: ms.pasta(alpha=-1.0), "alpha must be above 0 and at most 1"),
    "pasta 2": (lambda m: ms.pasta(alpha=2.0), "alpha must be above 0 and at most 1"),
    "pasta nan": (lambda m: ms.pasta(alpha=math.nan), "alpha must be finite"),
    "spotlight -": (lambda m: ms.spotlight(target=-0.1), r"target must be between 0 and 1, got -0\.1"),
    "spotlight +": (lambda m: ms.spotlight(target=1.5), "target must be between 0 and 1"),
    "spotlight nan": (lambda m: ms.spotlight(target=math.nan), "target must be finite"),
    "keys 0": (lambda m: ms.scale_keys(alpha=0.0), "alpha must be above 0"),
    "keys -2": (lambda m: ms.scale_keys(alpha=-2.0), "alpha must be above 0"),
    "keys inf": (lambda m: ms.scale_keys(alpha=math.inf), "alpha must be finite"),
    "keys scope": (lambda m: ms.scale_keys(scope="last_prompt"), "Unknown scope 'last_prompt'"),
    "scope": (lambda m: ms.attention_bias(scope="promt"), "Unknown scope 'promt'.*'prompt'"),
    "at": (lambda m: ms.attention_bias(at="decoder"), "Unknown at 'decoder'"),
    "keys at": (lambda m: ms.scale_keys(at="enc"), "Unknown at 'enc'.*'encoder'"),
    "compat": (lambda m: ms.pasta(compat="release"), "Unknown compat 'release'.*'released'"),
    "compat 2": (lambda m: ms.spotlight(compat="papers"), "Unknown compat 'papers'.*'paper'"),
    "no span": (lambda m: ms.attention_bias([]), "attention_bias needs a span"),
    "no span, keys": (lambda m: ms.scale_keys([]), "scale_keys needs a span"),
    "no layers": (lambda m: ms.attention_bias(layers=[]), "layers must name layers"),
    "layer True": (lambda m: ms.attention_bias(layers=[True]), "layers must name layers"),
    "no heads": (lambda m: ms.pasta(heads=[]), r"heads must be \(layer, head\) pairs"),
    "head -1": (lambda m: ms.pasta(heads=[(0, -1)]), r"heads must be \(layer, head\) pairs"),
    "heads at resid": (lambda m: ms.heads(direction(m)), "heads needs a direction at a layer's hook_z.*resid_post"),
    "target inf": (lambda m: ms.project(direction(m), target=math.inf), "target must be finite"),
    "scale nan": (lambda m: ms.heads(direction(m, "z"), math.nan), "scale must be finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_when_given(case: str, tiny: Callable) -> None:
    make, message = BAD[case]
    with pytest.raises(ms.MechsteerError, match=message):
        make(tiny("llama-gqa"))


@pytest.mark.parametrize("heads", [[(0, 1, 2)], [(0, True)], [(0, 1.5)], [3], 3, "ab"])
def test_heads_that_are_no_pairs_of_numbers_are_refused(heads: Any, unchecked: None) -> None:
    with pytest.raises(MechsteerError, match=r"heads must be \(layer, head\) pairs"):
        ms.pasta(heads=heads)


MISFITS: dict[str, tuple[Callable[[Any], Intervention], str]] = {
    "span": (lambda m: ms.attention_bias("instructions"), "Unknown span .*'instructions'.*'instruction'"),
    "span, keys": (lambda m: ms.scale_keys("context"), "Unknown span .*'context'"),
    "overlap": (lambda m: ms.pasta(("instruction", "instruction")), "spans .*instruction.* overlap"),
    "overlap, keys": (lambda m: ms.scale_keys(("task", "task")), "spans .* overlap"),
    "layer": (lambda m: ms.attention_bias(layers=[0, 9]), "layer 9 is out of range: .* 0 to"),
    "layer, keys": (lambda m: ms.scale_keys(layers=[3]), "scale_keys: layer 3 is out of range"),
    "layer from the end": (lambda m: ms.scale_keys(layers=[-4]), "layer -4 is out of range"),
    "head": (lambda m: ms.pasta(heads=[(0, 4)]), "head 4 of layer 0 is out of range: heads are 0 to 3"),
    "head's layer": (lambda m: ms.pasta(heads=[(7, 0)]), "layer 7 is out of range"),
    "heads' width": (
        lambda m: ms.heads(ms.Direction(torch.ones(12), direction(m, "z").site, "x", meta=direction(m).meta)),
        "width 12, but the activations at .*hook_z.* have 32",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
@pytest.mark.parametrize("family", BOTH)
def test_what_does_not_fit_the_model_or_the_prompt_is_refused_when_run(family: str, case: str, tiny: Callable) -> None:
    make, message = MISFITS[case]
    model = tiny(family)
    for use in (
        lambda steer: ms.generate(model, prompts_of(model), steer=steer, max_new_tokens=2),
        lambda steer: ms.score(model, prompts_of(model), ["cat"] * 3, steer=steer),
        lambda steer: steer.explain(model, prompts_of(model)[0]),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            use(make(model))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("family", ["llama-gqa", "t5-uneven"])
def test_layers_from_the_end_are_those_of_each_stack(family: str, tiny: Callable, tmp_path: Path) -> None:
    model, prompt = tiny(family), prompts_of(tiny(family))[0]
    for make in (ms.attention_bias, ms.spotlight, ms.scale_keys):
        options = {"at": "cross"} if is_encoder_decoder(model) else {}
        last, named = (make(layers=[layer], **options) for layer in (-1, predicting_stack(model)[1] - 1))
        found = ms.generate(
            model, prompt, steer=Intervention.load(last.save(tmp_path / "x.safetensors")), max_new_tokens=3
        )
        assert found.logprobs.equal(ms.generate(model, prompt, steer=named, max_new_tokens=3).logprobs)
        assert not found.logprobs.equal(ms.generate(model, prompt, max_new_tokens=3).logprobs)
    with pytest.raises(ms.MechsteerError, match="count from the end of a model, which hooks do not know"):
        model.run_with_hooks(prompt.tokens[None], fwd_hooks=ms.attention_bias(layers=[-1]).hooks(prompt))


def test_head_steering_from_another_model_needs_transfer(tiny: Callable) -> None:
    model, foreign = tiny("llama-gqa"), direction(tiny("gpt2"), "z")
    for make in (ms.heads, ms.project):
        with pytest.raises(ms.MechsteerError, match=r"made on .* not on .*transfer=True"):
            use = foreign if make is ms.heads else direction(tiny("gpt2"))
            ms.generate(model, prompts_of(model), steer=make(use), max_new_tokens=1)
    crossed = ms.generate(model, prompts_of(model), steer=ms.heads(foreign, transfer=True), max_new_tokens=1)
    own = ms.generate(model, prompts_of(model), steer=ms.heads(direction(model, "z")), max_new_tokens=1)
    assert crossed.logprobs.equal(own.logprobs)


def test_spans_need_the_prompt(tiny: Callable) -> None:
    for steer in (ms.attention_bias(), ms.pasta(), ms.spotlight(), ms.scale_keys()):
        with pytest.raises(ms.MechsteerError, match=r"span 'instruction' of .* use \.hooks\(prompt\)"):
            steer.hooks()


@pytest.mark.parametrize("scope", ["prompt", "generated"])
def test_scaled_keys_refuse_a_scope_that_splits_one_pass(scope: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model)[0]
    hooks = ms.scale_keys(alpha=2.0, scope=scope).hooks(prompt)
    tokens = torch.cat([prompt.tokens, torch.tensor([9, 10])])[None]
    with pytest.raises(ms.MechsteerError, match="some queries of one pass and not others"):
        model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=torch.ones_like(tokens), prepend_bos=False)


ATTENTION: dict[str, Intervention] = {
    "attention_bias": ms.attention_bias(delta=2.0),
    "pasta": ms.pasta(alpha=0.05),
    "spotlight": ms.spotlight(target=0.9),
    "scale_keys": ms.scale_keys(alpha=3.0),
}


@pytest.mark.parametrize("method", ATTENTION)
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "gemma2", "t5"])
def test_explain_names_the_spans_tokens_and_knows_no_nan(family: str, method: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompts_of(model)[0]
    table = ATTENTION[method].explain(model, prompt)
    row = table.iloc[0]
    assert (row["method"], row["tokens"], row["span"]) == (method, INSTRUCTION, "instruction")
    assert row["change_norm"] > 0 and row["relative_change"] > 0 and row["kl"] > 1e-6
    assert all(math.isfinite(row[name]) for name in ("change_norm", "relative_change", "kl"))
    layers = 2 if family == "t5" else 3
    assert row["fired"] == layers * (2 if family == "t5" else 1)
    assert ("blocks" in row["site"]) == (family != "t5")


def test_explain_measures_a_bias_as_what_it_adds(tiny: Callable) -> None:
    model = tiny("gpt2")
    prompt = prompts_of(model)[0]
    table = ms.attention_bias(delta=2.0, scope="last_prompt").explain(model, prompt)
    count = len(prompt.positions("instruction"))
    assert table["change_norm"].iloc[0] == pytest.approx(2.0 * math.sqrt(count), rel=1e-4)


@pytest.mark.parametrize("family", BOTH)
def test_explain_shows_each_edit_of_a_composition_and_all_together(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompts_of(model)[0]
    parts = [ms.add(direction(model), 6.0), ms.attention_bias(delta=2.0), ms.heads(direction(model, "z"), 2.0)]
    table = (parts[0] + parts[1] + parts[2]).explain(model, prompt)
    assert table["method"].tolist() == ["add", "attention_bias", "heads", "together"]
    for place, part in enumerate(parts):
        assert table["kl"].iloc[place] == pytest.approx(float(part.explain(model, prompt)["kl"].iloc[0]), abs=1e-6)
    assert table["fired"].iloc[3] == table["fired"].iloc[:3].sum()
    whole = ms.generate(model, prompt, steer=parts[0] + parts[1] + parts[2], max_new_tokens=1)
    assert table["top1_after"].iloc[3] == model.tokenizer.decode(whole.tokens[0].tolist())


@pytest.mark.parametrize(
    "make", [ms.attention_bias, ms.pasta, ms.spotlight, ms.scale_keys], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("family", BOTH)
def test_only_the_rows_that_are_meant_need_the_span(family: str, make: Any, tiny: Callable) -> None:
    model = tiny(family)
    with_span, without = prompts_of(model)[0], ms.prompt(model, "one dog sat on mat")
    options = {"target": 0.9} if make is ms.spotlight else {}
    for prompts, row in (([with_span, without, with_span], 0), ([without, with_span, without], 1)):
        both = ms.generate(model, prompts, steer=make(**options, rows=[row]), max_new_tokens=5)
        alone = ms.generate(model, with_span, steer=make(**options), max_new_tokens=5)
        plain = ms.generate(model, prompts, max_new_tokens=5)
        for place in range(3):
            expected, at = (alone, 0) if place == row else (plain, place)
            assert both.lengths[place] == expected.lengths[at]
            length = both.lengths[place]
            assert both.tokens[place, :length].equal(expected.tokens[at, :length])
    with pytest.raises(ms.MechsteerError, match="span"):
        ms.generate(model, [with_span, without], steer=make(**options, rows=[1]), max_new_tokens=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "strength"),
    [(ms.attention_bias, "delta"), (ms.pasta, "alpha"), (ms.spotlight, "target"), (ms.scale_keys, "alpha")],
)
@pytest.mark.parametrize("span", [2.0, 2, None, ["instruction", 3], [], ""])
def test_what_is_no_span_is_one_line_that_names_the_strength(make: Any, strength: str, span: Any) -> None:
    with pytest.raises(ms.MechsteerError, match=rf"^{make.__name__} needs a span, .* the strength is {strength}=\.$"):
        make(span)


@pytest.mark.parametrize(("family", "kind"), [("llama-gqa", "v"), ("llama-gqa", "q"), ("gpt2", "z"), ("t5", "cross_v")])
def test_where_each_head_has_a_vector_each_is_changed_where_the_scope_says(
    family: str, kind: str, tiny: Callable
) -> None:
    """Also in a prompt of as many tokens as there are heads, and in a padded batch."""
    model = tiny(family)
    site = ms.site(model, kind, layer=1)
    unit = torch.nn.functional.normalize(torch.arange(1.0, model.cfg.d_head + 1), dim=0)
    direction = ms.Direction(unit, site, "mine", meta={"model_fingerprint": ms.model_info(model).fingerprint})
    for prompts in ([ms.prompt(model, "a cat sat")], prompts_of(model)):
        starts = ms.batch(prompts, side="right" if family == "t5" else "left").starts
        _, before = run(model, prompts, [])
        for steer, expected in (
            (ms.add(direction, 2.0, scope=[-2]), lambda x: x + 2.0 * unit),
            (ms.project(direction, target=3.0, scope=[-2]), lambda x: x + (3.0 - x @ unit)[..., None] * unit),
        ):
            _, after = run(model, prompts, steer.hooks(prompts))
            for row, (first, prompt) in enumerate(zip(starts, prompts, strict=True)):
                wanted, place = before[site][row].clone(), first + len(prompt) - 2
                wanted[place] = expected(wanted[place])
                torch.testing.assert_close(after[site][row], wanted, atol=1e-5, rtol=0)
