"""Prompts for a model, the token that a word counts by, and the last position of a batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models import as_prompts, at_last, pad, word_id


@pytest.mark.parametrize("family", ["t5", "qwen2"])
def test_a_word_counts_by_its_first_token_after_a_space(family: str, tiny: Callable) -> None:
    model = tiny(family)
    ids = model.tokenizer(" house", add_special_tokens=False)["input_ids"]
    assert word_id(model, "house") == word_id(model, " house\n") == ids[0]
    assert word_id(model, " house. ", strip=" .") == ids[0]


@pytest.mark.parametrize(
    ("word", "message"),
    [("  ", "The word '  ' has no tokens"), (" . ", r"The word ' \. ' has no tokens"), (3, "A word must be a text")],
)
def test_what_has_no_token_is_refused(word: Any, message: str, tiny: Callable, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        word_id(tiny("t5"), word, strip=" .")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (3, "prompts must be a list, got 3"),
        (None, "prompts must be a list, got None"),
        ({"role": "user", "content": "the"}, "prompts must be a list, got {'role': 'user'"),
        (["the", 3], "A prompt is a text or what mechsteer.prompt makes, got 3"),
        ([], "No prompts were given"),
    ],
)
def test_what_is_no_prompt_is_refused(prompts: Any, message: str, tiny: Callable, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        as_prompts(tiny("gpt2"), prompts)


@pytest.mark.parametrize(
    ("family", "site", "wanted"),
    [
        ("gpt2", "blocks.0.hook_resid_post", [2, 2]),
        ("gpt2", "hook_embed", [2, 2]),
        ("t5", "encoder.0.hook_resid_post", [1, 2]),
        ("t5", "decoder.0.cross_attn.hook_k", [1, 2]),
        ("t5", "decoder.0.hook_resid_post", [2, 2]),
    ],
)
def test_the_last_position_is_never_padding(family: str, site: str, wanted: list[int], tiny: Callable) -> None:
    model = tiny(family)
    prompts = [ms.prompt(model, text) for text in (("the", "the cat") if "t5" in family else ("the cat", "the"))]
    batch = pad(model, prompts)
    x = torch.arange(3.0).repeat(2, 1)[..., None] + torch.tensor([0.0, 10.0])[:, None, None]
    assert at_last(model, x, site, batch)[:, 0].tolist() == [wanted[0], wanted[1] + 10]
