"""Filters of collapsed texts: repetition by hand-worked texts, perplexity against a plain loop."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mechsteer.analysis.quality import MUCH_REPEATED, perplexities, repeated_share
from mechsteer.errors import MechsteerError
from mechsteer.tasks import instructions


def test_repeated_share_of_hand_worked_texts() -> None:
    assert repeated_share("") == repeated_share("aaaaaaaaa") == 0  # shorter than one run
    assert repeated_share("0123456789") == 0
    assert repeated_share("a" * 19) == pytest.approx(9 / 10)  # ten runs, all the same
    assert repeated_share("0123456789" * 2) == pytest.approx(1 / 11)  # eleven runs, the last is the first again


def test_a_loop_is_much_repeated_and_answers_are_not() -> None:
    loop = '{"topic": "writer", "answer": ' + '"{"topic": ' * 15
    assert repeated_share(loop) > MUCH_REPEATED
    sentences = "The lion is yellow and happy. You can find it in the castle. It likes to eat cheese. It can swim."
    for text in (sentences, sentences.upper(), "- " + sentences.replace(". ", ".\n- ")):
        assert repeated_share(text) < 0.2
    assert all(repeated_share(s.task) < 0.2 for s in instructions().samples)


def test_perplexity_is_exp_of_the_mean_surprise(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("gpt2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["the cat sat on the mat", "red", ""]
    ids = tokenizer(texts[0])["input_ids"]
    with torch.no_grad():
        surprise = [
            -float(model(torch.tensor([ids[:i]])).logits[0, -1].log_softmax(-1)[ids[i]]) for i in range(1, len(ids))
        ]
    found = perplexities(str(folder), texts)
    assert found[0] == pytest.approx(math.exp(sum(surprise) / len(surprise)), rel=1e-4)
    assert math.isnan(found[2])


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match="No such model directory"):
        perplexities(str(tmp_path / "gpt2"), ["a"])
