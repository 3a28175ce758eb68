"""Layer sensitivity equals one plain forward a layer, and both ways to average are the paper's and the code's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.analysis.key_scaling import key_scaling_distances
from mechsteer.analysis.sensitivity import (
    aggregate_scores,
    layer_scores,
    layer_sensitivity,
    ranking,
    span_columns,
)
from mechsteer.errors import MechsteerError
from mechsteer.models import advance, first_tokens, is_encoder_decoder, pad, start
from mechsteer.prompts import Prompt
from mechsteer.steering import Step
from tests.decoding.reference import TEXTS, prompts_of
from tests.models.test_parity import hugging_face

FAMILIES = ["gpt2", "llama-gqa", "qwen3", "gemma2", "mistral", "phi3", "t5", "t5-gated", "t5-uneven"]
BOTH = ["llama-gqa", "t5"]
PAPER = torch.tensor([[0.0, 3.0], [0.0, 1.0]])


def blocks_of(model: Any) -> Any:
    return model.decoder if is_encoder_decoder(model) else model.blocks


@torch.no_grad()
def states(model: Any, prompt: Prompt, steer: ms.Intervention | None) -> tuple[list[Tensor], list[Tensor]]:
    """The attention's input and output in every layer at the last prompt token, from the library's own forward."""
    pre, post = [], []
    cross = is_encoder_decoder(model)
    kept: dict[str, Tensor] = {}
    hooks = list(steer.hooks(prompt)) if steer is not None else []

    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name] = x[0, -1]

    for layer, _ in enumerate(blocks_of(model)):
        stream = ms.site(model, "resid_mid" if cross else "resid_pre", layer=layer)
        hooks += [(stream, keep), (ms.site(model, "cross_z" if cross else "z", layer=layer), keep)]
    if cross:
        decoder = torch.tensor([[model.cfg.decoder_start_token_id]])
        model.run_with_hooks(prompt.tokens[None], decoder, fwd_hooks=hooks)
    else:
        model.run_with_hooks(prompt.tokens[None], fwd_hooks=hooks, prepend_bos=False)
    for layer, block in enumerate(blocks_of(model)):
        norm, attention = (block.ln2, block.cross_attn) if cross else (block.ln1, block.attn)
        stream = kept[ms.site(model, "resid_mid" if cross else "resid_pre", layer=layer)]
        z = kept[ms.site(model, "cross_z" if cross else "z", layer=layer)]
        pre.append(norm(stream[None, None])[0, 0])
        post.append(sum(z[head] @ attention.W_O[head] for head in range(z.shape[0])) + attention.b_O)
    return pre, post


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return 1 - float(a @ b / (a.norm() * b.norm()))


def l2(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm())


def naive(
    model: Any, prompt: Prompt, alpha: float, *, dist: Callable = cosine, steer: ms.Intervention | None = None
) -> list[tuple[float, float]]:
    """Direct effect and effect of propagation of each layer, from one uncached forward a layer.

    The method scales cached keys, which the last token alone sees: the scores of the earlier queries stay as they are.
    """
    pre, post = states(model, prompt, steer)
    count = len(pre)
    out = []
    for layer in range(count):
        pre_l, post_l = states_scaled(model, prompt, layer, alpha, steer)
        direct = [dist(pre[j], post_l[j]) - dist(pre[j], post[j]) for j in range(count)]
        propagation = [dist(pre_l[j], post[j]) - dist(pre[j], post[j]) for j in range(count)]
        out.append((sum(direct) / count, sum(propagation) / count))
    return out


def states_scaled(
    model: Any, prompt: Prompt, layer: int, alpha: float, steer: ms.Intervention | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The same when the last query alone sees the span's keys of one layer scaled."""
    cross = is_encoder_decoder(model)
    attention = blocks_of(model)[layer].cross_attn if cross else blocks_of(model)[layer].attn
    span = prompt.positions("instruction")
    original = attention.forward if cross else attention.calculate_attention_scores

    def scores(q: Tensor, k: Tensor) -> Tensor:
        plain = original(q, k)
        k = k.clone()
        k[:, span] *= alpha
        return torch.cat([plain[:, :, :-1], original(q, k)[:, :, -1:]], dim=2)

    if cross:  # one decoder token and no position bias: its scores are the scaled products

        def scale(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[..., span] *= alpha
            return x

        point = attention.hook_attn_scores
        point.add_hook(scale, prepend=True)
        try:
            return states(model, prompt, steer)
        finally:
            point.remove_hooks()
    attention.calculate_attention_scores = scores
    try:
        return states(model, prompt, steer)
    finally:
        del attention.calculate_attention_scores


@pytest.mark.parametrize("alpha", [100.0, 0.2])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_one_plain_forward_a_layer(family: str, alpha: float, tiny: Callable) -> None:
    model = tiny(family)
    for prompt in prompts_of(model)[:2]:
        table = layer_sensitivity(model, prompt, alpha=alpha)
        expected = naive(model, prompt, alpha)
        parts = list(zip(table["direct"], table["propagation"], strict=True))
        assert [part for pair in parts for part in pair] == pytest.approx(
            [part for pair in expected for part in pair], abs=1e-5
        )
        assert table["sensitivity"].tolist() == pytest.approx([sum(pair) for pair in expected], abs=1e-5)
        assert max(abs(a) + abs(b) for a, b in expected) > 1e-2


@pytest.mark.parametrize("family", BOTH)
def test_l2_equals_one_plain_forward_a_layer(family: str, tiny: Callable) -> None:
    model = tiny(family)
    (prompt,) = prompts_of(model, ["the cat sat"])
    table = layer_sensitivity(model, prompt, distance="l2")
    assert table["sensitivity"].tolist() == pytest.approx(
        [sum(p) for p in naive(model, prompt, 100.0, dist=l2)], abs=1e-3
    )


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "t5"])
def test_under_an_intervention_all_runs_are_steered(family: str, tiny: Callable) -> None:
    """A bias on the span's scores is added to the scaled product, not scaled with it."""
    from mechsteer.directions import random_direction

    model = tiny(family)
    (prompt,) = prompts_of(model, ["the cat sat"])
    steer = ms.attention_bias("instruction", 1.5) + ms.add(random_direction(model, layer=0, seed=0), 6.0)
    table = layer_sensitivity(model, prompt, alpha=3.0, steer=steer)
    expected = [sum(pair) for pair in naive(model, prompt, 3.0, steer=steer)]
    assert table["sensitivity"].tolist() == pytest.approx(expected, abs=1e-5)
    plain = layer_sensitivity(model, prompt, alpha=3.0)["sensitivity"].to_numpy()
    assert abs(plain - table["sensitivity"].to_numpy()).max() > 1e-3


def test_the_two_ways_to_average_disagree_on_a_matrix_worked_by_hand() -> None:
    paper, released = aggregate_scores(PAPER), aggregate_scores(PAPER, "released")
    assert paper.tolist() == [1.5, 0.5] and ranking(paper).tolist() == [0, 1]
    assert released.tolist() == [0.0, 2.0] and ranking(released).tolist() == [1, 0]
    assert aggregate_scores(torch.tensor([[-1.0, 3.0], [2.0, -5.0]]), "released").tolist() == [1.0, 1.5]
    assert aggregate_scores(torch.tensor([[-1.0, 3.0], [2.0, -5.0]])).tolist() == [1.0, -1.5]
    assert ranking(torch.tensor([2.0, 3.0, 2.0, 3.0])).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("family", BOTH)
def test_the_released_form_keeps_what_the_paper_subtracts(family: str, tiny: Callable) -> None:
    model = tiny(family)
    (prompt,) = prompts_of(model, ["the cat sat"])
    pre, post = states(model, prompt, None)
    runs = [states_scaled(model, prompt, layer, 100.0, None) for layer in range(len(pre))]
    expected = [
        sum(cosine(pre[j], post_l[j]) + cosine(pre_l[j], post[j]) for pre_l, post_l in runs) / len(pre)
        for j in range(len(pre))
    ]
    table = layer_sensitivity(model, prompt, aggregate="released")
    assert table["sensitivity"].tolist() == pytest.approx(expected, abs=1e-5)
    assert table.sort_values("rank")["sensitivity"].is_monotonic_decreasing
    assert sorted(table["rank"]) == list(range(1, len(pre) + 1))


def test_the_released_span_ends_one_token_late(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    (prompt,) = prompts_of(model, ["the cat sat"])
    ((first, end),) = prompt.spans["instruction"]
    wider = Prompt(prompt.text, prompt.tokens, {"instruction": [(first, end + 1)]}, prompt.str_tokens)
    released = layer_sensitivity(model, prompt, compat="released")
    assert released.equals(layer_sensitivity(model, wider, aggregate="released"))
    assert not released.equals(layer_sensitivity(model, prompt, aggregate="released"))
    paper = layer_sensitivity(model, prompt, compat="released", aggregate="receiving")
    assert paper.equals(layer_sensitivity(model, wider))


def test_the_released_span_stops_at_the_end_of_the_prompt(tiny: Callable) -> None:
    model = tiny("gpt2")
    prompt = ms.prompt(model, "the cat", instruction="sat", order=("task", "instruction"))
    columns = [span_columns(pad(model, [prompt]), "instruction", beyond=beyond) for beyond in (0, 1)]
    assert columns[0].equal(columns[1]) and columns[0].sum() == 1 and columns[0][0, -1]


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2"])
@pytest.mark.parametrize("end", ["", " ."])
def test_the_released_code_has_no_key_of_the_last_token_yet(family: str, end: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = ms.prompt(model, f"the cat sat <!!-> answer in house <-!!>{end}")
    positions = [p for p in prompt.positions("instruction") if p < len(prompt) - 1]
    before = replace(prompt, spans={"instruction": [(positions[0], positions[-1] + 1)]})
    released = layer_sensitivity(model, prompt, compat="released")
    assert released.equals(layer_sensitivity(model, before, aggregate="released"))
    within = layer_sensitivity(model, prompt, aggregate="released")
    assert released.equals(within) == (end != "")  # where the instruction itself ends the prompt, its last key counts


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "t5"])
def test_a_span_may_hold_the_last_token(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = ms.prompt(model, "the cat sat on mat", instruction="sat dog", order=("task", "instruction"))
    expected = [sum(pair) for pair in naive(model, prompt, 100.0)]
    assert layer_sensitivity(model, prompt)["sensitivity"].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_prompt_may_be_one_token(tiny: Callable) -> None:
    model = tiny("gpt2")
    prompt = Prompt("the", torch.tensor([5]), {"instruction": [(0, 1)]}, ("the",))
    assert layer_sensitivity(model, prompt)["sensitivity"].tolist() == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_1_gives_0(family: str, tiny: Callable) -> None:
    table = layer_sensitivity(tiny(family), prompts_of(tiny(family)), alpha=1.0)
    assert table[["sensitivity", "direct", "propagation"]].abs().to_numpy().max() < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "t5"])
def test_a_batch_equals_its_rows_whatever_the_padding(family: str, tiny: Callable) -> None:
    from mechsteer.directions import random_direction

    model = tiny(family)
    prompts = prompts_of(model)
    steer = ms.add(random_direction(model, layer=0, seed=0), 6.0, scope="all", rows=[0, 2]) + ms.attention_bias(
        "instruction", 1.0, rows=[1]
    )
    for applied in (None, steer):
        together = layer_sensitivity(model, prompts, steer=applied, batch_size=4)
        alone = layer_sensitivity(model, prompts, steer=applied)
        columns = ["sensitivity", "direct", "propagation"]
        assert abs(together[columns] - alone[columns]).to_numpy().max() < 1e-5
        assert together["prompt"].tolist() == alone["prompt"].tolist() == sorted(alone["prompt"])
    one = layer_sensitivity(model, prompts[3])
    plain = layer_sensitivity(model, prompts)
    assert one["sensitivity"].tolist() == pytest.approx(plain[plain["prompt"] == 3]["sensitivity"].tolist(), abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", *BOTH])
def test_a_decoding_loop_gets_the_same_and_its_state_is_not_touched(family: str, tiny: Callable) -> None:
    model = tiny(family)
    batch = pad(model, prompts_of(model, TEXTS[:2]))
    state = start(model, batch.tokens, batch.mask)
    tokens, mask = first_tokens(model, batch)
    if not is_encoder_decoder(model):
        advance(model, state, tokens[:, :-1], mask[:, :-1])
    columns = span_columns(batch, "instruction")
    step = Step(batch, decoder_prefix=int(is_encoder_decoder(model)))
    state.announce, step.alive = step.begin, [0, 1]
    distances = key_scaling_distances(model, state, tokens[:, -1:], mask[:, -1:], columns, alpha=100.0, step=step)
    assert (step.end, step.alive, step.own) == (tokens.shape[1], [0, 1], None)
    table = layer_sensitivity(model, list(batch.prompts))
    scores = layer_scores(distances)
    assert scores[..., 0].flatten().tolist() == pytest.approx(table["sensitivity"].tolist(), abs=1e-5)
    after = advance(model, state, tokens[:, -1:], mask[:, -1:])
    fresh = start(model, batch.tokens, batch.mask)
    torch.testing.assert_close(after, advance(model, fresh, tokens, mask), atol=1e-4, rtol=1e-4)


def test_several_spans_are_scaled_together(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = ms.prompt(model, "the cat", instruction="answer in capitals")
    both = Prompt(prompt.text, prompt.tokens, {"both": prompt.spans["instruction"] + prompt.spans["task"]})
    assert layer_sensitivity(model, prompt, ["instruction", "task"]).equals(layer_sensitivity(model, both, "both"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"alpha": -3.0}, "alpha must be above 0"),
        ({"alpha": float("nan")}, "alpha must be finite, got nan"),
        ({"alpha": float("inf")}, "alpha must be finite"),
        ({"span": "instructions"}, "Unknown span .*'instruction'"),
        ({"span": []}, r"The span \[\] of .* is empty"),
        ({"aggregate": "recieving"}, "Unknown aggregate 'recieving'.*receiving"),
        ({"distance": "cos"}, "Unknown distance 'cos'.*cosine"),
        ({"compat": "code"}, "Unknown compat 'code'.*paper, released"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str, tiny: Callable) -> None:
    model = tiny("gpt2")
    with pytest.raises(MechsteerError, match=message):
        layer_sensitivity(model, prompts_of(model)[:1], **options)


@pytest.mark.parametrize("where", [(3, 3), (4, 400)])
def test_an_empty_or_impossible_span_is_refused(where: tuple[int, int], tiny: Callable) -> None:
    model = tiny("gpt2")
    made = prompts_of(model)[0]
    with pytest.raises(MechsteerError, match=r"span 'instruction' of .* (is empty|is not within its)"):
        layer_sensitivity(model, Prompt(made.text, made.tokens, {"instruction": [where]}))


def test_activations_that_are_not_numbers_are_named(tiny: Callable) -> None:
    model = tiny("gpt2")
    broken = ms.add(ms.Direction(torch.ones(32), ms.site(model, "resid_post", layer=0), "test"), 1e39, transfer=True)
    with pytest.raises(MechsteerError, match=r"blocks\.1\.ln1\.hook_normalized for prompt 0"):
        layer_sensitivity(model, prompts_of(model)[:1], steer=broken)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_what_is_not_finite_is_named_by_site_and_prompt(family: str, batch_size: int, checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint(family)))
    model.embed.W_E.data[model.tokenizer(" sat", add_special_tokens=False)["input_ids"][0]] = torch.nan
    prompts = [ms.prompt(model, text, instruction="answer") for text in ("a dog in house", "one", "the cat sat")]
    with pytest.raises(MechsteerError, match=r"NaN or infinite numbers at \w+\.\d\.\S+ for prompt 2: the model"):
        layer_sensitivity(model, prompts, batch_size=batch_size)


def test_what_granite_scales_is_compared_before_that(tiny: Callable, checkpoint: Callable) -> None:
    """The output of the attention's projection, as in Hugging Face, whose norm matters to the L2 distance alone."""
    model, hf = tiny("granite"), hugging_face(checkpoint("granite"))
    prompt = prompts_of(model)[0]
    apart: list[float] = []
    for layer in hf.model.layers:
        layer.self_attn.register_forward_hook(
            lambda module, args, kwargs, out: apart.append(l2(kwargs["hidden_states"][0, -1], out[0][0, -1])),
            with_kwargs=True,
        )
    batch = pad(model, [prompt])
    state, (tokens, mask) = start(model, batch.tokens, batch.mask), first_tokens(model, batch)
    with torch.no_grad():
        hf(prompt.tokens[None])
        advance(model, state, tokens[:, :-1], mask[:, :-1])
    columns = span_columns(batch, "instruction")
    found = key_scaling_distances(model, state, tokens[:, -1:], mask[:, -1:], columns, distance="l2")
    assert found.raw[0].tolist() == pytest.approx(apart, rel=1e-4)
