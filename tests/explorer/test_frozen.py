"""Frozen attention against a naive loop: every token anew, without a cache, the weights of an unsteered pass put in."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.explorer import attention_frozen


def naive(model: Any, prompt: ms.Prompt, direction: ms.Direction, scale: float, new: int) -> list[int]:
    tokens = prompt.tokens[None]
    add = (direction.site, lambda x, hook: x + scale * direction.vector / direction.vector.norm())
    for _ in range(new):
        _, cache = model.run_with_cache(tokens)
        frozen = [
            (name, lambda x, hook, kept=cache[name]: kept) for name in model.hook_dict if name.endswith("hook_pattern")
        ]
        logits = model.run_with_hooks(tokens, fwd_hooks=[add, *frozen])
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens[0, len(prompt) :].tolist()


@torch.no_grad()
def test_equals_the_naive_loop(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    prompt = ms.prompt(model, "the cat sat", instruction="write capitals")
    for seed in range(2):
        direction = ms.random_direction(model, layer=0, seed=seed)
        steer, strategy = attention_frozen(ms.add(direction, 6.0))
        made = ms.generate(model, [prompt, prompt], steer=steer, strategy=strategy, max_new_tokens=8)
        expected = naive(model, prompt, direction, 6.0, 8)
        assert made.tokens[1].tolist() == expected[: made.lengths[1]]
        free = ms.generate(model, prompt, steer=ms.add(direction, 6.0), max_new_tokens=8)
        assert not torch.allclose(made.logprobs[1, :1], free.logprobs[0, :1], atol=1e-3), "freezing changes something"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_of_a_method_that_acts_on_attention_nothing_is_left(tiny: Callable[..., Any], family: str) -> None:
    model = tiny(family)
    prompt = ms.prompt(model, "the cat sat", instruction="write capitals")
    plain = ms.generate(model, prompt, max_new_tokens=8)
    for bias in (ms.attention_bias(delta=5.0), ms.spotlight(target=0.9), None):
        steer, strategy = attention_frozen(bias)
        made = ms.generate(model, [prompt, prompt], steer=steer, strategy=strategy, max_new_tokens=8)
        assert made.tokens[1].tolist() == plain.tokens[0].tolist()


def test_one_prompt_is_given_twice(tiny: Callable[..., Any]) -> None:
    steer, strategy = attention_frozen(None)
    with pytest.raises(ms.MechsteerError, match=r"\[prompt, prompt\], got 1"):
        ms.generate(tiny("llama"), "the cat", steer=steer, strategy=strategy)
