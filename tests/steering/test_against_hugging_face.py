"""Attention steering and key scaling equal Hugging Face's models with the paper's equation in their attention."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models import is_encoder_decoder
from tests.models import test_parity
from tests.steering import naive

hugging_face = functools.cache(test_parity.hugging_face)

FOLLOWING = [9, 17, 30, 5]
HEADS = [(0, 1), (0, 3), (1, 0)]

RULES: dict[str, tuple[ms.Intervention, Callable[[ms.Prompt], naive.Rule]]] = {
    "guide": (ms.attention_bias(delta=1.5), lambda p: naive.Multiply(p, math.exp(1.5))),
    "instaboost": (ms.attention_bias(delta=math.log(7.0)), lambda p: naive.Multiply(p, 7.0)),
    "guide, negative": (ms.attention_bias(delta=-2.0), lambda p: naive.Multiply(p, math.exp(-2.0))),
    "guide in one layer": (
        ms.attention_bias(delta=3.0, layers=[1]),
        lambda p: naive.Multiply(p, math.exp(3.0), layers=[1]),
    ),
    "guide, prompt": (
        ms.attention_bias(delta=2.0, scope="prompt", at="cross"),
        lambda p: naive.Multiply(p, math.exp(2.0), queries="prompt", places=("self", "cross")),
    ),
    "guide, generated": (
        ms.attention_bias(delta=2.0, scope="generated", at="cross"),
        lambda p: naive.Multiply(p, math.exp(2.0), queries="generated", places=("self", "cross")),
    ),
    "pasta": (ms.pasta(alpha=0.05), lambda p: naive.Pasta(p, 0.05)),
    "pasta in some heads": (ms.pasta(alpha=0.01, heads=HEADS), lambda p: naive.Pasta(p, 0.01, HEADS)),
    "spotlight": (ms.spotlight(target=0.6), lambda p: naive.Spotlight(p, 0.6)),
    "keys": (ms.scale_keys(alpha=2.5), lambda p: naive.ScaleKeys(p, 2.5)),
    "keys in one layer": (ms.scale_keys(alpha=100.0, layers=[1]), lambda p: naive.ScaleKeys(p, 100.0, layers=[1])),
}
RELEASED: dict[str, tuple[ms.Intervention, Callable[[ms.Prompt], naive.Rule]]] = {
    "pasta": (ms.pasta(alpha=0.05, compat="released"), lambda p: naive.Pasta(p, 0.05, released=True)),
    "spotlight": (ms.spotlight(target=0.9, compat="released"), lambda p: naive.SpotlightReleased(p, 0.9)),
}
PLACES = {"encoder": ("encoder",), "cross": ("cross",), "both": ("encoder", "cross")}


def check(
    family: str, tiny: Callable, checkpoint: Callable[..., Path], steer: ms.Intervention, rule: Any, *, cached: bool
) -> None:
    """Every prompt and every following position: our probabilities are theirs, and not those of the plain model."""
    model, hf = tiny(family), hugging_face(checkpoint(family))
    moved = 0.0
    atol = (
        3e-4 if steer.edits[0].method == "spotlight" else 1e-4
    )  # its bias comes from scores that are themselves large
    for prompt in naive.prompts_of(model)[:2]:
        expected = naive.hf_probabilities(hf, model, prompt, FOLLOWING, rule(prompt))
        plain = naive.hf_probabilities(hf, model, prompt, FOLLOWING, naive.Rule(prompt))
        ours = naive.our_probabilities(model, prompt, FOLLOWING, steer, cached=cached)
        torch.testing.assert_close(ours, expected, atol=atol, rtol=0)
        moved = max(moved, float((expected - plain).abs().max()))
    assert moved > 1e-2


@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached"])
@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "t5"])
def test_a_method_is_its_equation_in_hugging_faces_attention(
    family: str, method: str, cached: bool, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    steer, rule = RULES[method]
    check(family, tiny, checkpoint, steer, rule, cached=cached)


@pytest.mark.parametrize("method", ["guide", "spotlight", "keys"])
@pytest.mark.parametrize("family", ["mistral", "phi3", "qwen2", "qwen3", "gemma2", "t5-gated", "t5-uneven"])
def test_other_architectures_agree_too(
    family: str, method: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    steer, rule = RULES[method]
    check(family, tiny, checkpoint, steer, rule, cached=False)
    check(family, tiny, checkpoint, steer, rule, cached=True)


@pytest.mark.parametrize("method", RELEASED)
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "t5"])
def test_a_released_form_is_the_released_codes_arithmetic(
    family: str, method: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    steer, rule = RELEASED[method]
    check(family, tiny, checkpoint, steer, rule, cached=False)


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("method", ["guide", "keys"])
def test_an_encoder_decoder_is_steered_where_chosen(
    method: str, at: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    steer, rule = {
        "guide": (
            ms.attention_bias(delta=2.0, at=at),
            lambda p: naive.Multiply(p, math.exp(2.0), places=PLACES[at]),
        ),
        "keys": (ms.scale_keys(alpha=3.0, at=at), lambda p: naive.ScaleKeys(p, 3.0, places=PLACES[at])),
    }[method]
    for cached in (False, True):
        check("t5", tiny, checkpoint, steer, rule, cached=cached)


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "t5"])
@torch.no_grad()
def test_guide_is_an_additive_mask_of_four_dimensions_in_hugging_face(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    for prompt in naive.prompts_of(model):
        length = len(prompt)
        bias = torch.zeros(1, 1, 1, length)
        bias[..., prompt.positions("instruction")] = 1.5
        if is_encoder_decoder(model):
            fed = torch.tensor([[model.cfg.decoder_start_token_id]])
            logits = hf(input_ids=prompt.tokens[None], decoder_input_ids=fed, attention_mask=bias).logits[0, -1]
        else:
            causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
            logits = hf(input_ids=prompt.tokens[None], attention_mask=bias + causal).logits[0, -1]
        ours = naive.our_probabilities(model, prompt, [], ms.attention_bias(delta=1.5), cached=True)[-1]
        torch.testing.assert_close(ours, logits.softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama-gqa", "mistral", "qwen3", "gemma2", "gpt2"])
@torch.no_grad()
def test_scaling_keys_for_generated_tokens_is_scaling_hugging_faces_cached_keys(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    from transformers import DynamicCache

    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompt = ms.prompt(model, "mat", instruction="answer" if family in ("mistral", "gemma2") else naive.INSTRUCTION)
    cache = DynamicCache()  # without the configuration, so that it does not cut sliding windows
    first = hf(input_ids=prompt.tokens[None], past_key_values=cache, use_cache=True).logits[0, -1:]
    for layer in cache.layers:
        assert layer.keys is not None and layer.keys.shape[2] == len(prompt)
        layer.keys[:, :, prompt.positions("instruction")] *= 4.0
    position = torch.tensor([[len(prompt)]])
    arguments = {"input_ids": torch.tensor([[9]]), "past_key_values": cache, "use_cache": True}
    second = hf(**arguments, position_ids=position).logits[0]
    steer = ms.scale_keys(alpha=4.0, scope="generated")
    ours = naive.our_probabilities(model, prompt, [9], steer, cached=True)
    torch.testing.assert_close(ours, torch.cat([first, second]).softmax(-1), atol=1e-4, rtol=0)
    plain = naive.our_probabilities(model, prompt, [9], ms.steering.Intervention(), cached=True)
    assert (plain[0] - ours[0]).abs().max() == 0 and (plain[1] - ours[1]).abs().max() > 1e-2
