"""Directions that are estimated under an intervention: as they are measured when both are on the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.decoding import score
from mechsteer.directions import random_direction
from mechsteer.directions.sparse_problem import Problem

BOTH = ["llama-gqa", "t5"]
PROMPTS = ["the cat sat on mat", "write a word in the house", "quote", "answer in capitals : the dog ends ."]
WORDS = [("red", "blue"), ("one", "two"), ("dog", "cat"), ("house", "mat")]


@dataclass(frozen=True)
class Trap:
    prompt: str
    target: str
    trap: str


TRAPS = [Trap(prompt, *words) for prompt, words in zip(PROMPTS, WORDS, strict=True)]


def steering(model: Any) -> ms.Intervention:
    """At the last prompt token, in the attention, and at tokens that come later."""
    first, second = (random_direction(model, seed=seed, layer=0) for seed in (1, 2))
    return (
        ms.add(first, 3.0, scope="last_prompt")
        + ms.attention_bias("task", 1.0)
        + ms.add(second, 2.0, scope="generated")
    )


@pytest.mark.parametrize("family", BOTH)
def test_a_mined_gradient_is_the_slope_of_the_words_odds_under_the_intervention(family: str, tiny: Callable) -> None:
    model = tiny(family)
    steer = steering(model)
    mined = ms.gradient_direction(model, TRAPS, layer=1, steer=steer, batch_size=3)
    towards = random_direction(model, seed=7, layer=1)

    def odds(scale: float) -> float:
        moved = steer + ms.add(towards, scale, scope="last_prompt")
        both = score(model, PROMPTS, [[f" {word}" for word in pair] for pair in WORDS], steer=moved)
        return float((both[:, 0] - both[:, 1]).mean())

    h = 0.02
    slope = (odds(h) - odds(-h)) / (2 * h)
    assert slope == pytest.approx(float(mined.vector @ towards.unit), rel=0.03, abs=2e-3)
    plain = ms.gradient_direction(model, TRAPS, layer=1)
    assert not torch.allclose(plain.vector, mined.vector, rtol=0.02, atol=1e-3)
    nothing = ms.add(random_direction(model, seed=1, layer=0), 0.0)
    torch.testing.assert_close(ms.gradient_direction(model, TRAPS, layer=1, steer=nothing).vector, plain.vector)


@pytest.mark.parametrize("family", BOTH)
def test_a_sparse_vectors_loss_is_that_of_both(family: str, tiny: Callable) -> None:
    model = tiny(family)
    steer, texts = steering(model), [" red blue", " one", " dog cat ends", " mat"]
    options: dict[str, Any] = {"generated": "none", "n": None, "validation": 0.0, "seed": 0, "batch_size": 3}
    examples = list(zip(PROMPTS, texts, strict=True))
    made = Problem.of(model, examples, layers=[1], site="z", steer=steer, **options)
    delta = 0.3 * torch.randn(made.shape, generator=torch.Generator().manual_seed(5)).double()
    meta = {"model_fingerprint": ms.model_info(model).fingerprint}
    heads = ms.heads(ms.Direction(delta.flatten().float(), made.sites[0], "mine", meta=meta))
    for d, both in ((made.zero(), steer), (delta, steer + heads)):
        wanted = -score(model, PROMPTS, texts, steer=both).mean()
        assert made.smooth(d)[0] == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_an_intervention_that_never_acts_is_an_error(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    never = ms.add(random_direction(model, seed=0, layer=0), 1.0, scope=[50])
    pairs = [("the cat", "a dog"), ("red", "blue")]
    for run in (
        lambda steer: ms.gradient_direction(model, TRAPS, layer=1, steer=steer),
        lambda steer: ms.sparse_direction(model, [("the cat", " red")] * 4, layer=1, validation=0.0, steer=steer),
        lambda steer: ms.difference_in_means(model, pairs, layer=1, steer=steer),
        lambda steer: ms.sinks(model, "the cat", steer=steer),
    ):
        with pytest.raises(ms.MechsteerError, match=r"never fired: its scope '\[50\]' met no position"):
            run(never)
        with pytest.raises(ms.MechsteerError, match="steer must be an intervention"):
            run(3.0)
