"""What can be done with several interventions, or several directions, and what is said of the rest."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models import predicting_stack
from tests.models import test_parity
from tests.steering import naive

hugging_face = functools.cache(test_parity.hugging_face)

TEXT = "the cat sat on a mat"


@pytest.fixture
def model(tiny: Callable) -> Any:
    return tiny("llama-gqa")


@pytest.fixture
def parts(model: Any) -> list[ms.Intervention]:
    return [ms.add(ms.random_direction(model, layer=layer, seed=layer), 2.0) for layer in (0, 1)]


def logprobs(model: Any, steer: ms.Intervention) -> Any:
    return ms.generate(model, TEXT, steer=steer, max_new_tokens=3).logprobs


def test_sum_is_plus(model: Any, parts: list[ms.Intervention]) -> None:
    one, two = parts
    assert sum(parts).edits == (one + two).edits
    assert sum(edit for edit in parts).edits == (one + two).edits
    assert torch.equal(logprobs(model, sum(parts)), logprobs(model, one + two))


ARITHMETIC: dict[str, Callable[[Any], Any]] = {
    "2 * a": lambda a: 2 * a,
    "a * 2": lambda a: a * 2,
    "a / 2": lambda a: a / 2,
    "-a": lambda a: -a,
    "a - a": lambda a: a - a,
    "1 - a": lambda a: 1 - a,
    "a + 1": lambda a: a + 1,
    "1 + a": lambda a: 1 + a,
    "a + None": lambda a: a + None,
    "None + a": lambda a: None + a,
    "a + (a,)": lambda a: a + tuple([a]),
    "sum([a, None])": lambda a: sum([a, None]),
    "Directer() + a": lambda a: ms.Directer() + a,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("expression", ARITHMETIC)
def test_other_arithmetic_says_what_there_is(expression: str, parts: list[ms.Intervention]) -> None:
    with pytest.raises(ms.MechsteerError, match=r"only add up, a \+ b or sum\(\[a, b\]\)") as caught:
        ARITHMETIC[expression](parts[0])
    assert "\n" not in str(caught.value)


MANY: dict[str, Callable[[Any, Any], Any]] = {
    "generate": lambda m, both: ms.generate(m, TEXT, steer=both),
    "generate, a tuple": lambda m, both: ms.generate(m, TEXT, steer=tuple(both)),
    "evaluate": lambda m, both: ms.evaluate(m, ms.task([{"prompt": TEXT}], check="json"), steer=both),
    "capture": lambda m, both: ms.capture(m, [TEXT], sites="resid_post", steer=both),
    "score": lambda m, both: ms.score(m, [TEXT], ["mat"], steer=both),
    "influence": lambda m, both: ms.influence(m, ms.prompt(m, TEXT, instruction="a dog"), steer=both),
    "compare": lambda m, both: ms.compare(m, ms.task([{"prompt": TEXT}], check="json"), {"both": both}),
    "compare, a pair": lambda m, both: ms.compare(
        m, ms.task([{"prompt": TEXT}], check="json"), {"both": (both, ms.Greedy())}
    ),
    "Gated": lambda m, both: ms.Gated([both]),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("use", MANY)
def test_a_list_of_interventions_is_to_be_added_up(use: str, model: Any, parts: list[ms.Intervention]) -> None:
    with pytest.raises(ms.MechsteerError, match=r"add up and act from left to right: a \+ b"):
        MANY[use](model, parts)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [ms.add, ms.project, ms.heads], ids=["add", "project", "heads"])
def test_of_several_directions_one_is_to_be_picked(make: Callable[..., Any], model: Any) -> None:
    directions = ms.directions.differences_in_means(model, [(TEXT, "the dog sat")], layers=[1, 2])
    with pytest.raises(ms.MechsteerError, match=r"got those of layers \[1, 2\]: pick one, e\.g\. directions\[1\]"):
        make(directions)
    with pytest.raises(ms.MechsteerError, match=r"got 2: pick one, e\.g\. directions\[0\]"):
        make(list(directions.values()))
    for empty in ({}, []):
        with pytest.raises(ms.MechsteerError, match="takes a direction first"):
            make(empty)


def test_a_strength_is_shown_in_norms(model: Any) -> None:
    unknown = ms.random_direction(model, layer=1, seed=0)
    known = replace(unknown, activation_norm=4.0)
    assert "strength=1 = 0.25 norms" in repr(ms.add(known)) and "strength=-2 = -0.50 norms" in repr(ms.add(known, -2.0))
    assert "norms" not in repr(ms.add(unknown))
    assert "norms" not in repr(ms.attention_bias())
    z = ms.Direction(torch.full((model.cfg.n_heads * model.cfg.d_head,), 0.5), ms.site(model, "z", 1), "mine")
    length = float(z.norm)
    assert f"= {2 * length / 3:.2f} norms" in repr(ms.heads(replace(z, activation_norm=3.0), 2.0))


def test_explain_has_the_strength_in_norms(model: Any) -> None:
    unknown = ms.random_direction(model, layer=1, seed=0)
    both = ms.add(replace(unknown, activation_norm=4.0), 3.0) + ms.add(unknown, 3.0)
    table = both.explain(model, TEXT)
    assert table["in_norms"].iloc[0] == pytest.approx(0.75)
    here = ms.capture(model, [TEXT], sites=[unknown.site], positions="all")[unknown.site]
    mean = float(torch.as_tensor(here).flatten(0, -2).norm(dim=-1).mean())
    assert table["in_norms"].iloc[1] == pytest.approx(3.0 / mean, rel=1e-4)
    marked = ms.prompt(model, TEXT, instruction="a dog")
    assert ms.attention_bias().explain(model, marked)["in_norms"].isna().all()


class KeysThenWeights(naive.ScaleKeys):
    """Keys times alpha; then the weights of the span times a factor, in Hugging Face's attention."""

    def __init__(self, prompt: ms.Prompt, alpha: float, factor: float) -> None:
        super().__init__(prompt, alpha)
        self.after = naive.Multiply(prompt, factor)

    def weights(self, place: naive.Place, weights: torch.Tensor) -> torch.Tensor:
        return self.after.weights(place, weights)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "t5"])
def test_keys_are_scaled_before_their_scores_are_edited(family: str, tiny: Callable, checkpoint: Callable) -> None:
    """Also where there is no place for it but the scores: in whatever order the sum was written."""
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompt = naive.prompts_of(model)[1]
    keys, bias = ms.scale_keys(alpha=2.0), ms.attention_bias(delta=3.0)
    expected = naive.hf_probabilities(hf, model, prompt, [9, 17], KeysThenWeights(prompt, 2.0, math.exp(3.0)))
    for steer in (keys + bias, bias + keys):
        for cached in (False, True):
            ours = naive.our_probabilities(model, prompt, [9, 17], steer, cached=cached)
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_keys_are_scaled_first_under_a_gate_too(family: str, tiny: Callable) -> None:
    """A trial that scales keys, under a bias that generate was given, is DIRECTER at a fixed strength under it."""
    model = tiny(family)
    prompts, bias = naive.prompts_of(model), ms.attention_bias(delta=4.0, at="cross")
    gated = ms.Gated([ms.scale_keys(alpha=3.0, at="cross")], beta=1e-12)
    fixed = ms.Directer(alpha=3.0, strength=predicting_stack(model)[1])
    one, other = (ms.generate(model, prompts, steer=bias, strategy=how, max_new_tokens=5) for how in (gated, fixed))
    assert one.tokens.equal(other.tokens)
    assert (other.trace["token"] != other.trace["raw_token"]).any()
