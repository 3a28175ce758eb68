"""Rollout against the worked case, plain loops, and what must not matter."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mechsteer as ms
from mechsteer.analysis.propagation import recursion
from mechsteer.analysis.rollout import rollout, rollout_of
from mechsteer.models import hooked, is_encoder_decoder
from tests.analysis.propagation_reference import assert_equal, naive
from tests.steering.naive import prompts_of
from tests.steering.steers import direction

FAMILIES = ["gpt2", "llama-gqa", "gemma2", "mistral", "t5", "t5-gated", "t5-uneven"]
BOTH = ["llama-gqa", "t5"]
TEXT, MORE = "the cat sat on mat and write red blue house", "one two dog"
A = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])


def prompt_of(model: Any, text: str = TEXT) -> ms.Prompt:
    return ms.prompt(model, text, instruction="answer in capitals", context="the dog on house")


def test_worked_case() -> None:
    found = rollout_of(A.expand(2, 3, 3), torch.tensor([1.0, 0.0, 0.0]))
    expected = torch.tensor([[1.0, 0.25, 0.1], [1.0, 0.4375, 0.2125]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_all_columns_at_once_are_the_matrix_product() -> None:
    """Abnar and Zuidema's whole matrix, whose column sums over U are the rollout of U."""
    attention = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    matrix = torch.eye(6)
    for layer, weights in enumerate(attention):
        matrix = (0.5 * weights + 0.5 * torch.eye(6)) @ matrix
        start = torch.tensor([0.0, 1, 0, 1, 0, 0])
        torch.testing.assert_close(recursion(attention, start, 0.5)[layer], matrix @ start, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("residual", "continuation"), [(0.5, None), (0.8, MORE)])
def test_is_the_plain_loop(family: str, residual: float, continuation: str | None, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    found = rollout(model, prompt, residual=residual, continuation=continuation, chunk=5)
    assert_equal(found, naive(model, prompt, "instruction", residual=residual, continuation=continuation), "rollout")
    assert found["rollout"].between(0, 1 + 1e-6).all()


def test_table(tiny: Callable) -> None:
    model = tiny("t5-uneven")
    prompts = [prompt_of(model), prompt_of(model, "red house")]
    table = rollout(model, prompts, ["task", "instruction"], delta=[0, 1.5], continuation=["one two", "dog"])
    assert list(table.columns) == ["prompt", "span", "delta", "stack", "layer", "position", "token", "rollout"]
    assert not table.duplicated(["prompt", "span", "delta", "stack", "layer", "position"]).any()
    assert len(table) == sum(2 * 2 * (1 * len(p) + 3 * (1 + n)) for p, n in zip(prompts, (2, 1), strict=True))
    part = table[(table["prompt"] == 1) & (table["delta"] == 1.5) & (table["span"] == "task")]
    assert part["token"].tolist() == [*prompts[1].str_tokens, *["<pad>", "dog"] * 3]
    assert part["stack"].tolist() == ["encoder"] * len(prompts[1]) + ["decoder"] * 6
    order = table[["prompt", "span", "delta"]].drop_duplicates().to_numpy().tolist()
    assert order == [[p, s, d] for p in (0, 1) for s in ("task", "instruction") for d in (0.0, 1.5)]


@pytest.mark.parametrize("family", BOTH)
def test_share_of_one_keeps_the_start(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    table = rollout(model, prompt, residual=1.0, continuation=MORE)
    inside = table["position"].isin(prompt.positions("instruction")) & (table["stack"] != "decoder")
    assert (table["rollout"] == inside.astype("float32")).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_input_is_everywhere(family: str, tiny: Callable) -> None:
    """Rows of attention sum to 1. A decoder starts at 0, and each cross-attention brings half of what is missing."""
    model = tiny(family)
    prompt = prompt_of(model)
    prompt = replace(prompt, spans={"everything": [(0, len(prompt))]})
    table = rollout(model, prompt, "everything", continuation=MORE if family.startswith("t5") else None)
    expected = 1 - 0.5 ** (table["layer"] + 1.0).where(table["stack"] == "decoder", float("inf"))
    assert (table["rollout"] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mistral", "t5"])
def test_pieces_do_not_matter(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    steer = ms.add(direction(model), 3.0, scope="prompt")
    steer = steer + ms.scale_keys("context", 2.0, scope="all" if family == "t5" else "prompt")
    whole = rollout(model, prompt, continuation=MORE, steer=steer, chunk=1000)["rollout"]
    for chunk in (1, 3):
        pieces = rollout(model, prompt, continuation=MORE, steer=steer, chunk=chunk)["rollout"]
        assert (whole - pieces).abs().max() < 1e-5
    unsteered = rollout(model, prompt, continuation=MORE)["rollout"]
    assert (whole - unsteered).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_an_edit_that_pools_over_a_pass_gets_a_whole_one(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    steer = ms.spotlight("instruction", 0.6, compat="released")
    found = rollout(model, prompt, steer=steer, chunk=2)
    assert_equal(found, naive(model, prompt, "instruction", residual=0.5, steer=steer), "rollout")


@pytest.mark.parametrize("family", BOTH)
def test_nan_scores_are_named(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = [prompt_of(model, "one"), prompt_of(model)]
    calls: list[str] = []

    def spoil_the_second(q: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(hook.name)
        return q if len(calls) == 1 else torch.where(torch.arange(q.shape[-1]) == 0, torch.nan, q)

    with (
        hooked(model, [(ms.site(model, "q", layer=1), spoil_the_second)]),
        pytest.raises(ms.MechsteerError, match=r"\.1\.attn\.hook_attn_scores for prompt 1"),
    ):
        rollout(model, prompts)


def test_bad_input(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompt_of(model)
    empty = replace(prompt, spans={"nothing": [(2, 2)]})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"span": "instructoin"}, "Did you mean 'instruction'"),
        ({"span": []}, "span must be a name or a list of names"),
        ({"prompt": empty, "span": "nothing"}, "has no tokens"),
        ({"prompt": []}, "No prompts"),
        ({"prompt": " ".join(["cat"] * 128), "span": "task"}, "129 positions do not fit.*128"),
        ({"residual": 1.5}, "between 0 and 1, got 1.5"),
        ({"residual": float("nan")}, "residual must be finite"),
        ({"delta": [0.0, float("inf")]}, "delta must be finite"),
        ({"delta": []}, "No delta"),
        ({"chunk": 0}, "chunk must be an integer of at least 1"),
        ({"continuation": ""}, "has no tokens"),
        ({"continuation": ["one", "two"]}, "1 prompts but 2 continuations"),
        ({"steer": ms.attention_bias("nowhere", 1.0)}, "Unknown span"),
    ]
    for options, message in cases:
        with pytest.raises(ms.MechsteerError, match=message):
            rollout(model, **({"prompt": prompt} | options))


@pytest.mark.parametrize("steer", [None, "bias", "weights"])
@pytest.mark.parametrize("family", BOTH)
def test_weights_are_made_only_for_those_who_need_them(
    family: str, steer: str | None, tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(family)
    prompt = prompt_of(model)
    chosen = {"bias": ms.attention_bias(delta=1.0), "weights": ms.spotlight(target=0.6)}.get(steer or "")
    monkeypatch.setattr("mechsteer.models.attention.SHORT", 0)
    calls: list[int] = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **options: calls.append(1) or kernel(*args, **options)
    )
    alone, count = rollout(model, prompt, steer=chosen), len(calls)
    with hooked(model, [(name, lambda x, hook: None) for name in model.hook_dict if name.endswith("hook_pattern")]):
        looked_at = rollout(model, prompt, steer=chosen)
    assert len(calls) == count
    self_attention_of_t5s_decoder = len(model.decoder) if is_encoder_decoder(model) else 0
    assert count == self_attention_of_t5s_decoder if steer == "weights" else count > self_attention_of_t5s_decoder
    numbers = torch.tensor([table["rollout"].tolist() for table in (alone, looked_at)])
    torch.testing.assert_close(numbers[0], numbers[1], atol=1e-5, rtol=0)


def test_without_the_first_position_the_other_keys_weights_add_up_to_one(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model)[0]
    table = ms.rollout(model, prompt, skip_first=True, chunk=3)
    assert table["position"].min() == 1 and table["skip_first"].all()
    _, cache = model.run_with_cache(prompt.tokens[None])
    now = torch.zeros(len(prompt))
    now[prompt.positions("instruction")] = 1.0
    for layer in range(model.cfg.n_layers):
        weights = cache[f"blocks.{layer}.attn.hook_pattern"][0].mean(0)
        arriving = now.clone()
        for query in range(1, len(prompt)):
            rest = weights[query, 1:] / weights[query, 1:].sum()
            arriving[query] = sum(rest[key - 1] * now[key] for key in range(1, len(prompt)))
        now = 0.5 * now + 0.5 * arriving
        mine = table[table["layer"] == layer].sort_values("position")["rollout"]
        assert mine.tolist() == pytest.approx(now[1:].tolist(), abs=1e-5)
    assert "skip_first" not in ms.rollout(model, prompt)


def test_a_prompt_of_one_token_has_nothing_but_the_first(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    one = ms.Prompt("the", torch.tensor([4]), {"instruction": [(0, 1)]})
    assert rollout(model, one, skip_first=True).empty
    both = rollout(model, [one, prompt_of(model)], skip_first=True)
    assert set(both["prompt"]) == {1} and (both["position"] > 0).all()
    assert rollout(model, one)["rollout"].tolist() == [1.0] * len(model.blocks)
