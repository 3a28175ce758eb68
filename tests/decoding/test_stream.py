"""``stream`` against ``generate``: the same tokens, one after the other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.decoding import stream
from mechsteer.models.hooking import hooks_on

TEXTS = ["the cat sat <!-> write capitals <-!>", "a dog <!-> quote one word <-!> in the house"]


def steering(model: Any) -> dict[str, dict[str, Any]]:
    vector = ms.random_direction(model, layer=0, seed=0)
    return {
        "unsteered": {},
        "bias and vector": {"steer": ms.attention_bias(delta=3.0) + ms.add(vector, 4.0)},
        "sampled": {"strategy": ms.Sample(seed=3), "stop": ["cat"]},
        "DIRECTER": {"strategy": ms.Directer(beta=0.2)},
    }


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("how", ["unsteered", "bias and vector", "sampled", "DIRECTER"])
def test_a_stream_ends_in_what_generate_returns(tiny: Callable[..., Any], family: str, how: str) -> None:
    model = tiny(family)
    prompts = [ms.prompt(model, text) for text in TEXTS]
    named = steering(model)[how] | {"max_new_tokens": 6}
    whole = ms.generate(model, prompts, **named)
    seen = list(stream(model, prompts, **named))
    assert seen[-1].texts == whole.texts
    assert torch.equal(seen[-1].tokens, whole.tokens)
    assert torch.equal(seen[-1].logprobs, whole.logprobs)
    assert seen[-1].trace.equals(whole.trace)
    assert [max(one.lengths) for one in seen] == list(range(1, max(whole.lengths) + 1))
    for one in seen:
        for row, length in enumerate(one.lengths):
            assert torch.equal(one.tokens[row, :length], whole.tokens[row, :length])


def test_streams_of_one_model_can_take_turns(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    prompt = ms.prompt(model, TEXTS[0])
    steer = ms.add(ms.random_direction(model, layer=0, seed=0), 20.0)
    plain, steered = stream(model, prompt), stream(model, prompt, steer=steer)
    for one, other in zip(plain, steered, strict=False):
        assert not hooks_on(model)
        last = one, other
    assert last[0].lengths == last[1].lengths == [20]
    assert last[0].texts == ms.generate(model, prompt).texts
    assert last[1].texts == ms.generate(model, prompt, steer=steer).texts != last[0].texts


def test_what_generate_refuses_is_refused_with_the_first_token(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ms.MechsteerError, match="max_new_tokens"):
        next(stream(tiny("llama"), "the cat", max_new_tokens=0))
