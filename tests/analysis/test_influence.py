"""Influence against the worked case, plain loops over everything kept, and what must not matter."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.analysis.influence import influence, influence_of
from mechsteer.analysis.propagation import p_norm, stream_share
from mechsteer.analysis.rollout import rollout
from mechsteer.models import hooked, is_encoder_decoder
from tests.analysis.propagation_reference import assert_equal, naive
from tests.analysis.test_rollout import BOTH, FAMILIES, MORE, A, prompt_of
from tests.models.test_parity import hugging_face
from tests.steering.steers import direction
from tests.tiny import WORDS

PAPER: dict[str, Any] = {"norm": 1, "source": "residual", "values": False, "heads": "mean"}
FORMS: list[dict[str, Any]] = [
    {},
    {"source": "ln_input"},
    {"source": "ln_input_lagged"},
    {"values": True, "norm": 2},
    {"heads": "weighted", "norm": float("inf")},
    {"source": "ln_input_lagged", "values": True, "heads": "weighted", "norm": 3.5},
]


def test_worked_case() -> None:
    norms = torch.full((2, 3), 10.0), torch.tensor([1.0, 1.0, 2.0]).expand(2, 3)
    found = influence_of(A.expand(2, 3, 3), *norms, torch.tensor([1.0, 0.0, 0.0]))
    expected = torch.tensor([[1.0, 0.045455, 0.033333], [1.0, 0.088843, 0.066162]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_plain_loop(family: str, form: dict[str, Any], tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model, "the cat sat on mat")
    found = influence(model, prompt, continuation=MORE, chunk=6, **form)
    assert_equal(found, naive(model, prompt, "instruction", continuation=MORE, **(PAPER | form)), "influence")
    assert found["influence"].between(0, 1 + 1e-6).all()


@pytest.mark.parametrize("family", BOTH)
def test_forms_differ(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    tables = [influence(model, prompt, **form)["influence"] for form in FORMS] + [rollout(model, prompt)["rollout"]]
    for i, one in enumerate(tables):
        assert all((one - other).abs().max() > 1e-4 for other in tables[:i])


def steers(model: Any) -> list[ms.Intervention]:
    stack = "encoder" if is_encoder_decoder(model) else None
    added = ms.add(direction(model, stack=stack), 5.0, scope="span:instruction")
    return [ms.attention_bias("task", 2.0), ms.scale_keys("instruction", 3.0), added, ms.pasta("task", 0.1) + added]


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "t5"])
def test_under_interventions(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model, "cat sat on")
    unsteered = influence(model, prompt, continuation=MORE)["influence"]
    for steer in steers(model):
        found = influence(model, prompt, steer=steer, continuation=MORE, chunk=4)
        expected = naive(model, prompt, "instruction", steer=steer, continuation=MORE, **PAPER)
        assert_equal(found, expected, "influence")
        assert (found["influence"] - unsteered).abs().max() > 1e-3


@pytest.mark.parametrize("family", BOTH)
def test_delta_is_the_bias_on_that_span(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    steer = ms.add(direction(model), 4.0) + ms.spotlight("context", 0.7)
    found = influence(model, prompt, ["instruction", "task"], delta=[-1, 0, 2.5], steer=steer, continuation=MORE)
    for span in ("instruction", "task"):
        for delta in (-1.0, 0.0, 2.5):
            part = found[(found["span"] == span) & (found["delta"] == delta)].reset_index(drop=True)
            biased = steer + ms.attention_bias(span, delta)
            alone = influence(model, prompt, span, steer=biased, continuation=MORE)
            assert (part["influence"] - alone["influence"]).abs().max() < 1e-6
            assert (part["token"] == alone["token"]).all()
    last = found[found["layer"] == found["layer"].max()].groupby(["span", "delta"])["influence"].mean()
    assert (last["instruction"].diff().dropna() > 0).all()


@pytest.mark.parametrize("family", ["gpt2", "mistral", "t5"])
def test_pieces_and_company_do_not_matter(family: str, tiny: Callable) -> None:
    model = tiny(family)
    texts = ["one", "the cat sat on mat and write red blue house", "red blue"]
    prompts = [prompt_of(model, text) for text in texts]
    form: dict[str, Any] = {"source": "ln_input_lagged", "values": True, "heads": "weighted"}
    many = influence(model, prompts, ["task", "instruction"], chunk=1000, continuation=[MORE, "cat", "on mat"], **form)
    for chunk in (1, 3):
        pieces = influence(
            model, prompts, ["task", "instruction"], chunk=chunk, continuation=[MORE, "cat", "on mat"], **form
        )
        assert (pieces["influence"] - many["influence"]).abs().max() < 1e-5
        assert pieces.drop(columns="influence").equals(many.drop(columns="influence"))
    for place, more in enumerate([MORE, "cat", "on mat"]):
        for span in ("task", "instruction"):
            alone = influence(model, prompts[place], span, continuation=more, **form)
            part = many[(many["prompt"] == place) & (many["span"] == span)].reset_index(drop=True)
            assert (part["influence"] - alone["influence"]).abs().max() < 1e-6


phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize("family", BOTH)
@settings(max_examples=15)
@given(text=phrase, instruction=phrase, form=st.sampled_from(FORMS))
def test_spans_that_make_up_the_input_share_it(
    family: str, text: str, instruction: str, form: dict[str, Any], tiny: Callable
) -> None:
    """Influence is linear in the start: that of disjoint spans adds up, and that of everything is 1 everywhere."""
    model = tiny(family)
    prompt = ms.prompt(model, text, instruction=instruction)
    inside = [prompt.positions(span) for span in ("instruction", "task")]
    rest = [(i, i + 1) for i in range(len(prompt)) if not any(i in positions for positions in inside)]
    prompt = replace(prompt, spans=prompt.spans | {"rest": rest, "everything": [(0, len(prompt))]})
    table = influence(model, prompt, ["instruction", "task", "rest", "everything"], **form)
    wide = table.pivot(index=["stack", "layer", "position"], columns="span", values="influence")
    parts = wide["instruction"] + wide["task"] + wide["rest"]
    assert (parts - wide["everything"]).abs().max() < 1e-5
    whole = wide["everything"].drop("decoder", errors="ignore")
    assert (whole - 1).abs().max() < 1e-5


@given(p=st.floats(1, 60), scale=st.floats(-30, 30), seed=st.integers(0, 99))
def test_norms(p: float, scale: float, seed: int) -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)) * 10**scale
    expected = (x.double().abs() ** p).sum(-1) ** (1 / p) if abs(p * scale) < 300 else None
    found = p_norm(x, p)
    assert (found >= x.abs().amax(-1) * (1 - 1e-5)).all() and (found <= x.abs().sum(-1) * (1 + 1e-5)).all()
    if expected is not None:
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_norms_at_the_edges() -> None:
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert p_norm(x, float("inf")).tolist() == [4.0, 0.0]
    assert p_norm(x, 1e6).tolist() == pytest.approx([4.0, 0.0], rel=1e-4)
    assert p_norm(x, 2.0).tolist() == [5.0, 0.0]
    assert stream_share(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.75]


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("form", [{}, {"values": True}, {"heads": "weighted"}], ids=str)
def test_what_moves_nothing_leaves_influence_where_it_is(family: str, form: dict[str, Any], tiny: Callable) -> None:
    """Heads without values or outputs, and an update of 0: no division by zero."""
    model = tiny(family)
    prompt = prompt_of(model)
    stack = "encoder" if is_encoder_decoder(model) else "blocks"
    silent = [(ms.site(model, "v", layer, stack), lambda x, hook: torch.zeros_like(x)) for layer in range(2)]
    with hooked(model, silent):
        table = influence(model, prompt, **form)
    part = table[(table["stack"] == stack) & (table["layer"] < 2)]
    inside = part["position"].isin(prompt.positions("instruction"))
    assert (part["influence"] == inside.astype("float32")).all()


@pytest.mark.parametrize(
    ("form", "kind", "layer", "seen"),
    [
        ({}, "resid_pre", 1, r"1\.hook_resid_pre"),
        ({"source": "ln_input"}, "resid_pre", 1, r"1\.ln1\.hook_normalized"),
        ({"values": True}, "v", 0, r"0\.attn\.hook_v"),
        ({"heads": "weighted"}, "z", 1, r"1\.attn\.hook_z"),
        ({}, "attn_out", 1, r"1\.hook_attn_out"),
    ],
)
@pytest.mark.parametrize("family", BOTH)
def test_nan_is_named(family: str, form: dict[str, Any], kind: str, layer: int, seen: str, tiny: Callable) -> None:
    model = tiny(family)
    spoilt = [(ms.site(model, kind, layer), lambda x, hook: torch.full_like(x, torch.nan))]
    with hooked(model, spoilt), pytest.raises(ms.MechsteerError, match=f"NaN.*{seen} for prompt 0"):
        influence(model, prompt_of(model), **form)


def test_bad_input(tiny: Callable) -> None:
    model = tiny("t5")
    prompt = prompt_of(model)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"span": "taks"}, "Did you mean 'task'"),
        ({"norm": 0.5}, "norm must be a number from 1 to infinity.*0.5"),
        ({"norm": float("nan")}, "norm must be"),
        ({"source": "ln_inputs"}, "Unknown source.*Did you mean 'ln_input'"),
        ({"heads": "weight"}, "Unknown heads.*'weighted'"),
        ({"delta": float("nan")}, "delta must be finite"),
        ({"chunk": -1}, "chunk"),
    ]
    for options, message in cases:
        with pytest.raises(ms.MechsteerError, match=message):
            influence(model, prompt, **options)


@pytest.mark.parametrize("source", ["residual", "ln_input"])
def test_an_update_that_granite_scales_is_taken_before_that_in_the_released_form(
    source: str, tiny: Callable, checkpoint: Callable
) -> None:
    model, hf = tiny("granite"), hugging_face(checkpoint("granite"))
    prompt = prompt_of(model)
    reads, writes, streams = [], [], []
    for layer in hf.model.layers:
        layer.register_forward_pre_hook(lambda module, args: streams.append(args[0][0]))
        layer.self_attn.register_forward_hook(
            lambda module, args, kwargs, out: (
                (reads.append(kwargs["hidden_states"][0]), writes.append(out[0][0])) and None
            ),
            with_kwargs=True,
        )
    with torch.no_grad():
        attention = torch.stack([a[0].mean(0) for a in hf(prompt.tokens[None], output_attentions=True).attentions])
    update = torch.stack(writes).norm(p=1, dim=-1)
    stream = torch.stack(streams if source == "residual" else reads).norm(p=1, dim=-1)
    start = torch.zeros(len(prompt))
    start[prompt.positions("instruction")] = 1.0
    scale = hf.config.residual_multiplier if source == "residual" else 1.0
    expected = influence_of(attention, stream, scale * update, start)
    found = influence(model, prompt, source=source).pivot(index="layer", columns="position", values="influence")
    torch.testing.assert_close(torch.tensor(found.to_numpy()), expected, atol=1e-5, rtol=0)
