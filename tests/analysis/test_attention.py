"""Attention patterns equal those of the library's own forward, and their labels are the tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.analysis.attention import attention
from mechsteer.errors import MechsteerError
from mechsteer.models import is_encoder_decoder
from tests.decoding.reference import prompts_of

AFTER = "red blue house"


@torch.no_grad()
def naive(model: Any, prompt: ms.Prompt, name: str, continuation: str, steer: Any = None) -> Tensor:
    """The pattern of the whole sequence in one uncached forward."""
    kept: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> None:
        kept.append(x[0])

    ids = model.tokenizer(continuation, add_special_tokens=False)["input_ids"]
    hooks = [*(steer.hooks(prompt) if steer is not None else []), (name, keep)]
    if is_encoder_decoder(model):
        decoder = torch.tensor([[model.cfg.decoder_start_token_id, *ids]])
        model.run_with_hooks(prompt.tokens[None], decoder, fwd_hooks=hooks)
    else:
        tokens = torch.cat([prompt.tokens, torch.tensor(ids, dtype=torch.long)])[None]
        model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False)
    return kept[0]


@pytest.mark.parametrize("continuation", ["", AFTER])
@pytest.mark.parametrize(
    ("family", "place", "name"),
    [
        ("gpt2", {"layer": 1}, "blocks.1.attn.hook_pattern"),
        ("llama-gqa", {"layer": -1}, "blocks.2.attn.hook_pattern"),
        ("mistral", {"layer": 0}, "blocks.0.attn.hook_pattern"),
        ("t5", {"layer": 1}, "decoder.1.attn.hook_pattern"),
        ("t5", {"layer": 1, "kind": "cross"}, "decoder.1.cross_attn.hook_pattern"),
        ("t5", {"layer": 0, "stack": "encoder"}, "encoder.0.attn.hook_pattern"),
        ("t5-uneven", {"layer": -1, "kind": "cross"}, "decoder.2.cross_attn.hook_pattern"),
    ],
)
def test_it_equals_one_uncached_forward(
    family: str, place: dict[str, Any], name: str, continuation: str, tiny: Callable
) -> None:
    model = tiny(family)
    prompt = prompts_of(model)[2]
    steer = ms.attention_bias("instruction", 1.0)
    for applied in (None, steer):
        pattern, queries, keys = attention(model, prompt, **place, continuation=continuation or None, steer=applied)
        torch.testing.assert_close(pattern, naive(model, prompt, name, continuation, applied), atol=1e-5, rtol=1e-4)
        assert (len(queries), len(keys)) == pattern.shape[1:]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:2]))
    plain = attention(model, prompt, **place, continuation=continuation or None)[0]
    assert plain.shape[1:] == (1, 1) or not pattern.allclose(plain)


def test_the_labels_are_the_tokens(tiny: Callable) -> None:
    llama, t5 = tiny("llama-gqa"), tiny("t5")
    _, queries, keys = attention(llama, "the cat sat", 0, continuation=AFTER)
    assert queries == keys == ["<s>", "the", "cat", "sat", "red", "blue", "house"]
    _, queries, keys = attention(t5, "the cat sat", 0, kind="cross", continuation=AFTER)
    assert (queries, keys) == (["<pad>", "red", "blue", "house"], ["the", "cat", "sat", "</s>"])
    _, queries, keys = attention(t5, "the cat sat", 0, continuation=AFTER)
    assert queries == keys == ["<pad>", "red", "blue", "house"]
    _, queries, keys = attention(t5, "the cat sat", 0, stack="encoder", continuation=AFTER)
    assert queries == keys == ["the", "cat", "sat", "</s>"]


def test_a_scope_tells_the_continuation_from_the_prompt(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model)[0]
    plain = attention(model, prompt, 0, continuation=AFTER)[0]
    for scope, changed in (("generated", slice(len(prompt), None)), ("prompt", slice(0, len(prompt)))):
        steered = attention(model, prompt, 0, continuation=AFTER, steer=ms.scale_keys("instruction", 3.0, scope=scope))[
            0
        ]
        different = (steered - plain).abs().amax(dim=(0, 2)) > 1e-6
        assert different[changed].any()
        different[changed] = False
        assert not different.any()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama-gqa", {"layer": 3}, "Layer 3 is out of range: the blocks has layers 0 to 2"),
        ("llama-gqa", {"layer": 0, "kind": "cross"}, "Only the decoder of an encoder-decoder has cross-attention"),
        ("t5", {"layer": 0, "kind": "cross", "stack": "encoder"}, "Only the decoder"),
        ("t5", {"layer": 0, "kind": "crss"}, "Unknown kind 'crss'.*cross"),
        ("t5", {"layer": 0, "stack": "encodr"}, "Unknown stack 'encodr'.*encoder"),
        ("t5", {"layer": 0, "continuation": " "}, "The continuation ' ' has no tokens"),
    ],
)
def test_bad_input_is_named(family: str, options: dict[str, Any], message: str, tiny: Callable) -> None:
    with pytest.raises(MechsteerError, match=message):
        attention(tiny(family), "the cat", **options)


@pytest.mark.parametrize(
    ("family", "place"),
    [("gpt2", {"layer": 1}), ("t5", {"layer": 0, "stack": "encoder"}), ("t5", {"layer": 1, "kind": "cross"})],
)
def test_scores_that_are_nan_are_named_not_shown_as_no_attention(
    family: str, place: dict[str, Any], checkpoint: Any
) -> None:
    model = ms.load(str(checkpoint(family)))
    block = model.blocks[1] if family == "gpt2" else model.encoder[0] if "stack" in place else model.decoder[1]
    reads = block.cross_attn if "kind" in place else block.attn
    reads.W_Q.data = torch.full_like(reads.W_Q, torch.nan)
    with pytest.raises(MechsteerError, match=r"NaN or infinite numbers at \w+\.\d\.\w+\.hook_attn_scores for prompt 0"):
        attention(model, "the cat sat", **place)
