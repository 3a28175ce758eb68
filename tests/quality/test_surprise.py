"""Surprise is the log-likelihood that ``score`` gives, token by token, and depends on no batch mate."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.decoding.score import score_ids
from mechsteer.quality.surprise import surprises

ASKED = ["the cat sat on", "a dog", "write a word in capitals , the cat"]


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_it_is_the_likelihood_of_the_answer(family: str, tiny: Callable[..., Any]) -> None:
    model = tiny(family)
    prompts = [ms.prompt(model, text) for text in (*ASKED, *ASKED[:2])]  # some are asked twice
    answers = [[7, 8, 9, 10, 11], [12], [7, 7], [9, 10, 9], [13, 12, 9]]
    found = surprises(model, prompts, answers)
    for prompt, ids, one in zip(prompts, answers, found, strict=True):
        sums = [float(score_ids(model, [prompt], [[ids[: n + 1]]])[0]) for n in range(len(ids))]
        losses = -torch.tensor(sums).diff(prepend=torch.zeros(1))
        assert one.mean == pytest.approx(float(losses.mean()), abs=1e-4)
        assert one.p95 == pytest.approx(float(losses.quantile(0.95)), abs=1e-4)
    for size in (1, 2):
        again = surprises(model, prompts, answers, batch_size=size)
        assert [one.mean for one in again] == pytest.approx([one.mean for one in found], abs=1e-4)
    assert surprises(model, prompts[1:2], answers[1:2])[0].mean == pytest.approx(found[1].mean, abs=1e-4)


def test_the_excess_is_over_the_entropy(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    prompt = ms.prompt(model, ASKED[0])
    logprobs = model(prompt.tokens[None])[0, -1].float().log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum()
    for token in (7, 30):
        (one,) = surprises(model, [prompt], [[token]])
        assert one.excess == pytest.approx(float(-logprobs[token] - entropy), abs=1e-4)


def test_answers_without_tokens_have_none(tiny: Callable[..., Any]) -> None:
    model = tiny("gpt2")
    prompts = [ms.prompt(model, text) for text in ASKED]
    found = surprises(model, prompts, [[], [5], []])
    assert [math.isnan(one.mean) for one in found] == [True, False, True]
    assert math.isnan(surprises(model, prompts[:1], [[]])[0].excess)
    with pytest.raises(ms.MechsteerError, match="3 prompts, but 1 answers"):
        surprises(model, prompts, [[1]])
