"""The token that a word counts by."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.models import word_id


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
