"""DoLa equals a plain loop over Hugging Face's hidden states, in every form, for every model family."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

import mechsteer as ms
from mechsteer.decoding import DoLa, Greedy
from mechsteer.decoding.dola import Contrast, likely, released_jsd
from mechsteer.decoding.exits import check_layers, early_exits, tied
from mechsteer.decoding.repetition import penalised, read_so_far
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder, predicting_stack
from mechsteer.steering import Step
from tests.decoding.reference import next_logprobs, prompts_of, rows
from tests.models.test_parity import hugging_face
from tests.tiny import ENCODER_DECODERS

NEW = 8
SHIFT = math.log(2 * math.e) - math.log(math.exp(3) + 1)  # of the normalisers of (1, 1) and (3, 0)
FAMILIES = ["t5", "t5-gated", "t5-uneven", "gpt2", "llama-gqa", "gemma2", "granite"]


# ------------------------------------------------------------------------------------------- the naive implementation


def hidden_states(hf: Any, prompt: ms.Prompt, written: list[int]) -> tuple[list[Tensor], Tensor]:
    """Hugging Face's hidden states at the last position, the final norm in the last of them, and its logits."""
    if hf.config.is_encoder_decoder:
        decoder = torch.tensor([[hf.config.decoder_start_token_id, *written]])
        out = hf(input_ids=prompt.tokens[None], decoder_input_ids=decoder, output_hidden_states=True, use_cache=False)
        return [h[0, -1] for h in out.decoder_hidden_states], out.logits[0, -1]
    tokens = torch.cat([prompt.tokens, torch.tensor(written, dtype=torch.long)])[None]
    out = hf(input_ids=tokens, output_hidden_states=True, use_cache=False)
    return [h[0, -1] for h in out.hidden_states], out.logits[0, -1]


def whole_head(hf: Any, h: Tensor, *, normalise: bool) -> Tensor:
    """The head with the family's scale or cap."""
    if hf.config.is_encoder_decoder:
        h = hf.decoder.final_layer_norm(h) if normalise else h
        return hf.lm_head(h * hf.config.d_model**-0.5 if hf.config.scale_decoder_outputs else h)
    norm = hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm
    logits = hf.lm_head(norm(h) if normalise else h) / getattr(hf.config, "logits_scaling", 1)
    cap = getattr(hf.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def naive_divergence(p: Tensor, q: Tensor, *, released: bool) -> float:
    """Token by token, in plain Python."""
    total, log_p, log_q = 0.0, p.double().log_softmax(-1).tolist(), q.double().log_softmax(-1).tolist()
    for a, b in zip(log_p, log_q, strict=True):
        m = (math.exp(a) + math.exp(b)) / 2
        if m == 0:
            continue
        if released:
            total += 0.5 * (m * (math.log(m) - a) + m * (math.log(m) - b))
        else:
            total += 0.5 * (math.exp(a) * (a - math.log(m)) + math.exp(b) * (b - math.log(m)))
    return total / len(log_p) if released else total


@torch.no_grad()
def naive(hf: Any, prompt: ms.Prompt, strategy: DoLa, exits: list[int], eos: Any) -> list[dict[str, Any]]:
    """One prompt, the whole sequence again for every token: token, layer and divergences of each."""
    penalty: Any = RepetitionPenaltyLogitsProcessor(strategy.repetition_penalty)
    steps, written = [], []
    start = [hf.config.decoder_start_token_id] if hf.config.is_encoder_decoder else prompt.tokens.tolist()
    while len(written) < NEW and not (written and written[-1] in eos):
        states, own = hidden_states(hf, prompt, written)
        paper, released = strategy.compat == "paper", strategy.compat == "released"
        mature = hf.lm_head(states[-1]) if released else own
        early = [
            whole_head(hf, states[e], normalise=strategy.normalise) if paper else hf.lm_head(states[e]) for e in exits
        ]
        divergences = [naive_divergence(mature, logits, released=not paper) for logits in early]
        place = min(i for i, d in enumerate(divergences) if d > max(divergences) - 1e-5 * max(divergences))
        log_p, log_q = mature.log_softmax(-1), early[place].log_softmax(-1)
        if paper:
            score = mature + strategy.contrast * (mature - early[place])
        elif released and strategy.relative_top == 0:
            score = mature - early[place]
        else:
            score = log_p - log_q
        p = log_p.exp()
        keep = p >= strategy.relative_top * p.max()
        score = penalty(torch.tensor([start + written]), torch.where(keep, score, -torch.inf)[None])[0]
        written.append(int(score.argmax()))
        steps.append({"token": written[-1], "layer": exits[place], "jsd": divergences, "kept": int(keep.sum())})
    return steps


def forms(family: str) -> list[tuple[str, dict[str, Any]]]:
    """Settings by name that have a meaning in the family."""
    made = [
        ("paper", {}),
        ("lambda", {"contrast": 0.4, "relative_top": 0.0}),
        ("normalised", {"normalise": True, "relative_top": 0.01}),
        ("released", {"compat": "released"}),
        ("unfiltered", {"compat": "released", "relative_top": 0.0, "repetition_penalty": 3.0}),
        ("unpenalised", {"compat": "released", "repetition_penalty": 1.0}),
    ]
    if family not in ENCODER_DECODERS:
        made += [
            ("huggingface", {"compat": "huggingface"}),
            ("huggingface, all", {"compat": "huggingface", "relative_top": 0}),
        ]
    scaled = ("normalised", "released", "huggingface")  # what Granite's division of the logits shows in
    return [form for form in made if family != "granite" or form[0] in scaled]


CASES = [(family, arguments) for family in FAMILIES for _, arguments in forms(family)]
IDS = [f"{family}-{name}" for family in FAMILIES for name, _ in forms(family)]


@pytest.mark.parametrize(("family", "arguments"), CASES, ids=IDS)
def test_tokens_and_layers_equal_the_naive_loop_at_every_step(
    family: str, arguments: dict[str, Any], tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts = prompts_of(model)
    exits = list(range(predicting_stack(model)[1]))
    strategy = DoLa(layers=exits, **arguments)
    out = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW)
    for row, prompt in enumerate(prompts):
        expected = naive(hf, prompt, strategy, exits, ms.model_info(model).eos_ids)
        assert rows(out)[row] == [step["token"] for step in expected]
        trace = out.trace[out.trace["prompt"] == row]
        for column in ("token", "layer", "kept"):
            assert trace[column].tolist() == [step[column] for step in expected], column
        for place, e in enumerate(exits):
            assert trace[f"jsd_{e}"].tolist() == pytest.approx([s["jsd"][place] for s in expected], rel=1e-3, abs=1e-4)
        assert trace["jsd"].tolist() == pytest.approx([max(s["jsd"]) for s in expected], rel=1e-3, abs=1e-4)


def test_the_forms_differ_and_so_do_the_layers_of_rows(tiny: Callable) -> None:
    """What the tests above compare would not be worth much if every form wrote the same or chose one layer."""
    model = tiny("gemma2")
    outs = [
        ms.generate(model, prompts_of(model), strategy=DoLa([0, 1, 2], **arguments), max_new_tokens=NEW)
        for _, arguments in forms("gemma2")
    ]
    assert len({str(rows(out)) for out in outs}) >= 5
    layers = [out.trace.pivot(index="step", columns="prompt", values="layer") for out in outs]
    assert any(table.nunique(axis=1).max() > 1 for table in layers)


# --------------------------------------------------------------------------------------------------- candidate layers


@pytest.mark.parametrize(("layers", "exits"), [("even", [0, 2]), ("high", [1]), ([2], [2]), ((1, 0, 1), [0, 1])])
def test_layers_are_the_papers_numbers(layers: Any, exits: list[int], tiny: Callable) -> None:
    strategy = DoLa(layers)
    out = ms.generate(tiny("llama-gqa"), "the cat", strategy=strategy, max_new_tokens=3)
    assert [c for c in out.trace.columns if c.startswith("jsd_")] == [f"jsd_{e}" for e in exits]
    assert set(out.trace["layer"]) <= set(exits)


class Shape:
    """As much of a decoder-only model as choosing layers needs."""

    def __init__(self, count: int, *, tied: bool) -> None:
        weight = torch.randn(5, 3)
        self.blocks = [None] * count
        self.cfg: Any = None
        self.tokenizer: Any = None
        self.embed = type("Embed", (), {"W_E": 1.7 * weight})
        self.unembed = type("Unembed", (), {"W_U": (weight if tied else torch.randn(5, 3)).T})


@pytest.mark.parametrize(
    ("count", "is_tied", "low", "high"),
    [
        (32, False, range(0, 16, 2), range(16, 32, 2)),
        (32, True, range(2, 16, 2), range(16, 32, 2)),
        (40, False, range(0, 20, 2), range(20, 40, 2)),
        (48, True, range(2, 20, 2), range(28, 48, 2)),
        (4, True, [2], [2]),
        (2, True, [1], [1]),
        (1, True, [0], [0]),
        (1, False, [0], [0]),
        (3, False, [0], [1]),
    ],
)
def test_low_and_high_are_hugging_faces(count: int, is_tied: bool, low: Any, high: Any) -> None:
    model = Shape(count, tied=is_tied)
    assert early_exits(model, "low") == tuple(low)
    assert early_exits(model, "high") == tuple(high)


@pytest.mark.parametrize(
    ("family", "expected"), [("gpt2", True), ("gemma2", True), ("t5", True), ("t5-gated", False), ("llama-gqa", False)]
)
def test_tied_embeddings_are_known_by_their_weights(family: str, expected: bool, tiny: Callable) -> None:
    assert tied(tiny(family)) is expected


# --------------------------------------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("family", ["t5-gated", "gpt2"])
@pytest.mark.parametrize("compat", ["paper", "released"])
def test_rows_do_not_depend_on_batch_or_padding(family: str, compat: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts, strategy = prompts_of(model), DoLa([0, 1], compat=compat)

    def run(**arguments: Any) -> tuple[Any, Any]:
        out = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW, **arguments)
        return rows(out), out.trace

    tokens, trace = run()
    for size in (1, 3):
        other, other_trace = run(batch_size=size)
        assert other == tokens
        assert other_trace["layer"].tolist() == trace["layer"].tolist()
        assert other_trace["jsd"].tolist() == pytest.approx(trace["jsd"].tolist(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("family", ["t5", "llama-gqa"])
def test_a_contrast_of_zero_is_greedy_with_the_same_penalty(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    for penalty in (1.0, 1.7):
        plain = ms.generate(model, prompts, strategy=Greedy(repetition_penalty=penalty), max_new_tokens=NEW)
        dola = DoLa(contrast=0.0, relative_top=0.0, repetition_penalty=penalty)
        out = ms.generate(model, prompts, strategy=dola, max_new_tokens=NEW)
        assert rows(out) == rows(plain)
        torch.testing.assert_close(out.logprobs, plain.logprobs)
    assert rows(plain) != rows(ms.generate(model, prompts, max_new_tokens=NEW)), "the penalty changes something"


def test_only_the_most_likely_token_is_kept_at_relative_top_one(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    strategy = DoLa(relative_top=1.0, repetition_penalty=3.0)
    out = ms.generate(model, prompts_of(model), strategy=strategy, max_new_tokens=NEW)
    assert rows(out) == rows(ms.generate(model, prompts_of(model), max_new_tokens=NEW))
    assert set(out.trace["kept"]) == {1}


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_logprobs_stay_the_models_own(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompts_of(model)[0]
    out = ms.generate(model, prompt, strategy=DoLa(compat="released"), max_new_tokens=NEW)
    tokens = rows(out)[0]
    own = next_logprobs(model, prompt, tokens[:-1])
    expected = own[range(len(tokens)), tokens]
    torch.testing.assert_close(out.logprobs[0, : len(tokens)], expected, atol=1e-4, rtol=1e-4)


def test_a_contrast_beyond_floats_is_refused(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"contrast=1e\+38 makes scores that no float32 holds"):
        ms.generate(tiny("llama-gqa"), "the cat", strategy=DoLa([0, 1], contrast=1e38), max_new_tokens=2)


# ------------------------------------------------------------------------------------------------------------ steering


@pytest.mark.parametrize(("family", "compat"), [("t5", "paper"), ("llama-gqa", "paper"), ("llama-gqa", "released")])
def test_what_the_head_reads_is_edited_at_every_exit_and_recorded_once(
    family: str, compat: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    direction = random_direction(model, site="unembed.hook_in", seed=3)
    hf.lm_head.register_forward_pre_hook(lambda module, args: (args[0] + 2.0 * direction.unit,))
    prompts, strategy = prompts_of(model)[:2], DoLa([0, 1], compat=compat)
    steer, site = ms.add(direction, 2.0), direction.site
    out = ms.generate(model, prompts, steer=steer, strategy=strategy, max_new_tokens=4, record=[site])
    for row, prompt in enumerate(prompts):
        trace = out.trace[out.trace["prompt"] == row]
        expected = naive(hf, prompt, strategy, [0, 1], ms.model_info(model).eos_ids)[:4]
        assert trace["token"].tolist() == [step["token"] for step in expected]
        jsds = [[step["jsd"][place] for step in expected] for place in (0, 1)]
        assert trace["jsd_0"].tolist() == pytest.approx(jsds[0], rel=1e-3, abs=1e-4)
        assert trace["jsd_1"].tolist() == pytest.approx(jsds[1], rel=1e-3, abs=1e-4)
        logprobs = model.unembed(out.activations[site][row][None])[0].log_softmax(-1)
        said = logprobs.gather(1, out.tokens[row, : out.lengths[row], None])[:, 0]
        torch.testing.assert_close(said, out.logprobs[row, : out.lengths[row]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["t5-gated", "llama-gqa"])
def test_exits_see_what_an_intervention_makes_of_the_stream(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts, d = prompts_of(model), random_direction(model, seed=0, layer=0)
    exits, strategy = [0, 1], DoLa([0, 1])

    def shift(module: Any, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + 5.0 * d.unit, *output[1:])
        return output + 5.0 * d.unit

    block = hf.decoder.block[0] if is_encoder_decoder(model) else hf.model.layers[0]
    out = ms.generate(model, prompts, strategy=strategy, steer=ms.add(d, 5.0), max_new_tokens=NEW)
    with_hook = block.register_forward_hook(shift)
    expected = [naive(hf, p, strategy, exits, ms.model_info(model).eos_ids) for p in prompts]
    with_hook.remove()
    assert rows(out) == [[step["token"] for step in steps] for steps in expected]
    assert out.trace["layer"].tolist() == [step["layer"] for steps in expected for step in steps]
    assert rows(out) != rows(ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW))


# ----------------------------------------------------------------------------------------------------- by hand, in part


def test_the_released_divergence_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): m = (3/8, 1/4, 3/8); KL(m || p) = KL(m || q) = 3/8 ln(9/8)."""
    p, q = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    each = 3 / 8 * math.log(3 / 4) + 3 / 8 * math.log(3 / 2)
    assert float(released_jsd(p, q)) == pytest.approx(each / 3, rel=1e-5)
    assert each == pytest.approx(3 / 8 * math.log(9 / 8))


def test_the_released_divergence_has_no_bound_and_shrinks_with_the_vocabulary() -> None:
    """A one-hot exit: m = 1/2 where the last layer has e^-1000, so about 1/4 of 1000 nats, over the vocabulary."""
    for size in (10, 1000):
        log_p = torch.full((size,), -1000.0)
        log_q = log_p.clone()
        log_p[0], log_q[1] = 0.0, 0.0
        assert float(released_jsd(log_p, log_q)) == pytest.approx((0.5 * 1000 - math.log(2)) / size, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"contrast": 0.5}, [4.0, -0.5]),  # l_N + (l_N - l_M) / 2
        ({"compat": "released", "relative_top": 0.0}, [2.0, -1.0]),  # l_N - l_M, whose signs the penalty sees
        ({"compat": "released"}, [2.0 + SHIFT, -1.0 + SHIFT]),  # log q_N - log q_M
        ({"compat": "huggingface", "relative_top": 0.0}, [2.0 + SHIFT, -1.0 + SHIFT]),
    ],
)
def test_the_contrast_by_hand(arguments: dict[str, Any], expected: list[float]) -> None:
    scores = Contrast(DoLa(**arguments), (0,))._scores(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    assert scores[0].tolist() == pytest.approx(expected)


def test_likely_tokens_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.06, 0.04, 0.4], [0.97, 0.01, 0.01, 0.01]]).log()
    assert likely(logits, 0.1).tolist() == [[True, True, False, True], [True, False, False, False]]
    assert likely(logits, 1.0).sum(-1).tolist() == [1, 1]
    assert likely(logits, 0.0).all()


@settings(max_examples=50)
@given(
    scores=st.lists(st.integers(-30, 30).map(lambda x: x / 10), min_size=6, max_size=6),
    seen=st.lists(st.integers(0, 5), min_size=1, max_size=9),
    penalty=st.sampled_from([0.5, 1.0, 1.2, 3.0]),
)
def test_the_penalty_equals_transformers(scores: list[float], seen: list[int], penalty: float) -> None:
    given_scores = torch.tensor([scores, [float("-inf"), *scores[1:]]])
    kept = given_scores.clone()
    processor: Any = RepetitionPenaltyLogitsProcessor(penalty)
    theirs = processor(torch.tensor([seen, seen]), given_scores.clone())
    assert torch.equal(penalised(given_scores, [seen, seen], penalty), theirs)
    assert torch.equal(given_scores, kept)


def test_a_penalty_that_makes_infinite_scores_is_refused() -> None:
    with pytest.raises(ms.MechsteerError, match="repetition_penalty=1e-40 makes infinite scores: take a larger one"):
        penalised(torch.tensor([[1.0, 2.0]]), [[0]], 1e-40)


def test_padding_and_finished_rows_do_not_count_as_read(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = [ms.prompt(model, text) for text in ("the cat sat on mat", "one", "red dog")]
    step = Step(ms.batch(prompts, side="left"), alive=[1, 2])
    expected = [[*prompts[1].tokens.tolist(), 5], [*prompts[2].tokens.tolist(), 6]]
    assert read_so_far(model, step, [[5], [6]]) == expected
    t5 = tiny("t5")
    encoded = Step(ms.batch([ms.prompt(t5, "one"), ms.prompt(t5, "red dog")], side="right"), decoder_prefix=1)
    assert read_so_far(t5, encoded, [[5], []]) == [[0, 5], [0]]


@pytest.mark.parametrize("family", ["t5-gated", "gpt2", "llama-gqa"])
def test_greedy_with_a_penalty_equals_hugging_faces(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts = prompts_of(model)
    out = ms.generate(model, prompts, strategy=Greedy(repetition_penalty=1.8), max_new_tokens=NEW)
    for prompt, tokens in zip(prompts, rows(out), strict=True):
        ids = hf.generate(
            input_ids=prompt.tokens[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            repetition_penalty=1.8,
            max_new_tokens=NEW,
            pad_token_id=0,
        )[0]
        assert tokens == ids[1 if is_encoder_decoder(model) else len(prompt) :].tolist()


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "evn"}, "Unknown layers 'evn'. Did you mean 'even'"),
        ({"layers": []}, "layers must be one of even, low, high or numbers"),
        ({"layers": [0, -1]}, r"got \[0, -1\]"),
        ({"layers": [True]}, r"got \[True\]"),
        ({"compat": "release"}, "Did you mean 'released'"),
        ({"contrast": float("nan")}, "contrast must be finite"),
        ({"contrast": float("inf")}, "contrast must be finite"),
        ({"relative_top": 1.5}, "relative_top must be from 0"),
        ({"relative_top": -0.1}, "relative_top must be from 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be finite"),
        ({"compat": "released", "contrast": 2.0}, "neither contrast nor normalise"),
        ({"compat": "huggingface", "normalise": True}, "neither contrast nor normalise"),
    ],
)
def test_settings_without_a_meaning_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        DoLa(**arguments)


@pytest.mark.parametrize("layers", [3, [0.5], None, [[0]], ""])
def test_layers_of_another_type_are_refused(layers: Any) -> None:
    with pytest.raises(ms.MechsteerError, match="layers"):
        check_layers(layers)


@pytest.mark.parametrize(
    ("family", "strategy", "message"),
    [
        ("t5", DoLa([0, 2]), r"its decoder has early exits 0 to 1 \(2 is the last layer"),
        ("llama-gqa", DoLa([0, 7]), r"layers \[0, 7\] do not fit .*blocks has early exits 0 to 2 \(none such"),
        ("t5", DoLa(compat="huggingface"), "decoder-only models: transformers has no DoLa for t5"),
        ("gpt2", DoLa("low"), "too shallow"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    family: str, strategy: DoLa, message: str, tiny: Callable
) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.generate(tiny(family), "the cat", strategy=strategy)


def test_logits_that_are_not_finite_are_an_error(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(random_direction(model, seed=0, layer=0), 3e38)
    with pytest.raises(ms.MechsteerError, match=r"exit 1 with the last layer: logits are not finite in float32"):
        ms.generate(model, "the cat", strategy=DoLa([0, 1]), steer=steer + steer, max_new_tokens=2)


def test_settings_can_be_compared_and_kept_in_sets() -> None:
    assert DoLa([2, 0]) == DoLa((0, 2)) and len({DoLa([2, 0]), DoLa((0, 2)), DoLa()}) == 2
