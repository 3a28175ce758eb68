"""Side effects: unrelated answers before and after, and what cannot act on them."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.tuning.ladders import Way
from mechsteer.tuning.side_effects import Effect, Side, acting_on, side_task, unrelated
from mechsteer.tuning.trying import Runs


@pytest.fixture
def model(tiny: Callable[..., Any]) -> Any:
    return tiny("llama-gqa")


def side(model: Any, task: Any) -> Side:
    return Side(Runs(model, task, None, 8))


def test_the_bundled_questions_accept_their_answers_alone() -> None:
    task = unrelated()
    right = ["Paris", "Rome", "Mars", "seven", "yellow", "honey", "A dog.", "It is 4.", "ice", "William Shakespeare"]
    right += ["The Pacific Ocean", "cold", "eight", "spring", "Portuguese", "carbon dioxide"]
    assert len(task.samples) == 16
    for place, sample in enumerate(task.samples):
        assert [task.scores(sample, f"I think: {text}.")["adherence"] for text in right] == [
            other == place for other in range(16)
        ]


def test_what_acts_on_spans_alone_changes_nothing_elsewhere(model: Any) -> None:
    prompts = [ms.prompt(model, "the cat"), ms.prompt(model, "a dog")]
    steer = ms.attention_bias(delta=3.0)
    vector = ms.add(random_direction(model, layer=1, seed=0), 50.0)
    assert acting_on(Way(steer), prompts) == acting_on(Way(strategy=ms.Directer()), prompts) == Way()
    (left,) = acting_on(Way(steer + vector), prompts).steer.edits  # type: ignore[union-attr]
    assert left is vector.edits[0]
    told = [ms.prompt(model, "the cat", instruction="answer")]
    assert acting_on(Way(steer, ms.Directer()), told).strategy == ms.Directer()
    found = side(model, side_task(["the cat", "a dog"]))
    assert found.effect(Way(steer)) == Effect(1.0, 1.0)


def test_worse_answers_and_other_texts_are_counted(model: Any) -> None:
    texts = ["the cat", "a dog", "write a word", "red , blue"]
    outputs = ms.evaluate(model, side_task(texts))["output"].tolist()
    task = ms.task(texts, lambda text, sample: text in outputs, max_new_tokens=32)
    found = side(model, task)
    weak = ms.add(random_direction(model, layer=1, seed=0), 0.0)
    assert found.effect(Way(weak)) == Effect(1.0, 1.0)
    strong = found.effect(Way(ms.add(random_direction(model, layer=1, seed=0), 500.0)))
    assert strong.same < 1.0 and strong.kept <= 1.0
    assert found.right == float(found.before["adherence"].mean())
