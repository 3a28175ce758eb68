"""Logits that are NaN or infinite end a run, with the prompt, the token, the dtype and the edits that acted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models import model_info
from mechsteer.models.info import set_info
from tests.steering.naive import prompts_of
from tests.steering.steers import direction

FAMILIES = ["llama-gqa", "t5-gated"]
HUGE = 1e6  # beyond float16


@pytest.fixture(scope="module")
def half(checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    """A function that loads a tiny model in float16, once a family."""
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            made[family] = ms.load(str(checkpoint(family)), dtype="float16", check=False)
        return made[family]

    return get


def broken(model: Any, **where: Any) -> ms.Intervention:
    """An edit whose result does not fit float16, beside one that is harmless."""
    z = direction(model, "z", layer=0)
    return ms.heads(z, 0.01, scope="generated") + ms.heads(z, HUGE, **where)


STRATEGIES = [
    ms.Greedy(),
    ms.Greedy(repetition_penalty=1.2),
    ms.Sample(seed=1),
    ms.Sample(temperature=0.7, top_k=5, top_p=0.9),
    ms.DoLa([0, 1], normalise=True),
    ms.Directer(),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_every_strategy_stops_at_the_first_logit_that_is_not_finite(
    family: str, strategy: Any, half: Callable[..., Any]
) -> None:
    model = half(family)
    steer = broken(model, scope="all", rows=[1])
    message = r"prompt 1 are not finite \((nan|-?inf)\) at its new token 0.* in float16\. Edits that acted: heads\("
    with pytest.raises(ms.MechsteerError, match=message) as caught:
        ms.generate(model, prompts_of(model), steer=steer, strategy=strategy, max_new_tokens=3)
    assert "0.01" not in str(caught.value) and "scope=all of rows [1]" in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_new_token_is_the_one_whose_logits_they_are(family: str, half: Callable[..., Any]) -> None:
    model = half(family)
    prompts = prompts_of(model)
    steer = broken(model, scope="generated", rows=[2])
    with pytest.raises(ms.MechsteerError, match=r"prompt 2 are not finite .* at its new token 1, in float16"):
        ms.generate(model, prompts, steer=steer, max_new_tokens=3)
    assert ms.generate(model, prompts, steer=steer, max_new_tokens=1).lengths == [1, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_stop_too_and_padding_of_continuations_does_not_count(family: str, half: Callable[..., Any]) -> None:
    model = half(family)
    prompts, long, short = prompts_of(model)[:2], " the cat sat", " cat"
    count = len(model.tokenizer(short, add_special_tokens=False)["input_ids"])
    last = ([len(prompts[1])] if family == "llama-gqa" else [1]) if count == 1 else None
    assert last is not None, "the short continuation has one token, so what is fed after it is padding"
    broken_there = ms.heads(direction(model, "z", layer=0), HUGE, scope=last, rows=[1])
    with pytest.raises(ms.MechsteerError, match=r"prompt 1 are not finite .* at its new token 1, in float16"):
        ms.score(model, prompts, [short, long], steer=broken_there)
    found = ms.score(model, prompts, [long, short], steer=broken_there)
    torch.testing.assert_close(found, ms.score(model, prompts, [long, short]))


def test_a_trial_of_a_gated_strategy_is_named(half: Callable[..., Any]) -> None:
    model = half("llama-gqa")
    weak, strong = (ms.heads(direction(model, "z", layer=0), c, scope="all") for c in (0.1, HUGE))
    gated = ms.decoding.Gated([weak, strong], beta=1e-6)
    with pytest.raises(ms.MechsteerError, match=r"not finite .* token 0 \(trial 2 of its strategy\), in float16"):
        ms.generate(model, prompts_of(model)[0], strategy=gated, max_new_tokens=2)


@pytest.mark.parametrize("strategy", [ms.Greedy(), ms.Sample(seed=3), ms.DoLa([0, 1], normalise=True)], ids=repr)
def test_a_row_that_has_ended_stops_nobody(strategy: Any, half: Callable[..., Any]) -> None:
    model = half("llama-gqa")
    prompts = prompts_of(model, ["the cat", "one dog sat", "red blue", "in house", "write a word", "two ends"])
    wanted = ms.generate(model, prompts, strategy=strategy, max_new_tokens=6)
    ends = wanted.tokens[0, 1].item()
    info = model_info(model)
    set_info(model, replace(info, eos_ids=(ends,)))
    try:
        before = ms.generate(model, prompts, strategy=strategy, max_new_tokens=6)
        end = len(prompts[0]) + before.lengths[0] - 1
        after_its_end = ms.heads(direction(model, "z", layer=0), HUGE, scope=[end], rows=[0])
        after = ms.generate(model, prompts, strategy=strategy, max_new_tokens=6, steer=after_its_end)
    finally:
        set_info(model, info)
    assert before.lengths[0] < max(before.lengths)
    assert after.tokens.equal(before.tokens) and after.lengths == before.lengths


def test_without_edits_and_in_float32_the_message_says_so(tiny: Callable) -> None:
    model = tiny("gpt2")
    with (
        model.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", lambda x, hook: x * torch.inf)]),
        pytest.raises(ms.MechsteerError, match=r"token 0, in float32\. No edit acted\.$"),
    ):
        ms.generate(model, "the cat", max_new_tokens=2)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "mistral", "t5"])
def test_no_weight_of_attention_hides_nan(family: str, checkpoint: Callable[..., Path]) -> None:
    model = ms.load(str(checkpoint(family)))
    names = [name for name, weight in model.named_parameters() if "attn" in name and weight.ndim == 3]
    for name in names:  # torch's kernel on the CPU makes 0 of a query that is NaN
        weight = model.get_parameter(name).data
        kept = weight[0, 0, 0].clone()
        weight[0, 0, 0] = torch.nan
        for run in (
            lambda: ms.generate(model, ["the cat", "a dog"], max_new_tokens=2),
            lambda: ms.score(model, ["the cat", "a dog"], [" mat", " sat"]),
        ):
            with pytest.raises(ms.MechsteerError, match="are not finite"):
                assert not run(), name
        weight[0, 0, 0] = kept
    assert len(names) >= 12 and ms.generate(model, "the cat", max_new_tokens=2).lengths
