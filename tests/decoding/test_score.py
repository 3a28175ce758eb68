"""Scores are the log-probabilities of whole sequences, one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder
from tests.decoding.reference import next_logprobs, prompts_of
from tests.tiny import WORDS

BOTH = ["llama-gqa", "t5"]
CHOICES = [["cat", "red blue", "the dog sat on mat"], ["one", "two one", "house"], [".", "in", "ends ends ends"]]
TEXTS = ["the cat sat on", "one", "write red blue house in the dog ."]


def naive(model: Any, prompt: ms.Prompt, text: str, steer: Any = None) -> float:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = next_logprobs(model, prompt, ids[:-1], steer)
    return float(sum(whole[i, token] for i, token in enumerate(ids)))


def interventions(model: Any) -> list[Any]:
    d = random_direction(model, seed=0, layer=1)
    steers = [None, ms.add(d, 6.0), ms.add(d, 6.0, scope="generated"), ms.add(d, -6.0, scope="last_prompt")]
    if is_encoder_decoder(model):
        encoder = random_direction(model, seed=0, site=ms.site(model, "resid_pre", layer=1, stack="encoder"))
        return [*steers, ms.add(encoder, 20.0, scope="span:instruction")]
    return [*steers, ms.add(d, 6.0, scope="span:instruction")]


@pytest.mark.parametrize("family", [*BOTH, "gemma2", "t5-gated"])
def test_choices_are_scored_as_whole_sequences(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model, TEXTS)
    tables = []
    for steer in interventions(model):
        found = ms.score(model, prompts, CHOICES, steer=steer)
        expected = [[naive(model, p, text, steer) for text in row] for p, row in zip(prompts, CHOICES, strict=True)]
        torch.testing.assert_close(found, torch.tensor(expected), atol=2e-3, rtol=1e-4)
        tables.append(found)
    assert all((table - tables[0]).abs().max() > 0.05 for table in tables[1:])


@pytest.mark.parametrize("family", BOTH)
def test_single_continuations_give_one_number_a_prompt(family: str, tiny: Callable) -> None:
    model = tiny(family)
    texts = ["red blue", "cat", "one two one"]
    found = ms.score(model, TEXTS, texts)
    assert found.shape == (3,)
    expected = [naive(model, ms.prompt(model, p), text) for p, text in zip(TEXTS, texts, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)


@pytest.mark.parametrize("family", BOTH)
@settings(max_examples=15)
@given(pairs=st.lists(st.tuples(phrase, phrase, phrase), min_size=1, max_size=5), batch_size=st.integers(1, 4))
def test_scores_do_not_depend_on_the_batch(
    family: str, pairs: list[tuple[str, str, str]], batch_size: int, tiny: Callable
) -> None:
    model = tiny(family)
    prompts, choices = prompts_of(model, [p for p, _, _ in pairs]), [[a, b] for _, a, b in pairs]
    steer = ms.add(random_direction(model, seed=0, layer=0), 5.0)
    found = ms.score(model, prompts, choices, steer=steer, batch_size=batch_size)
    for place, (prompt, row) in enumerate(zip(prompts, choices, strict=True)):
        alone = ms.score(model, [prompt], [row], steer=steer)
        swapped = ms.score(model, [prompt], [row[::-1]], steer=steer)
        torch.testing.assert_close(found[place], alone[0], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(alone[0], swapped[0].flip(0), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("family", BOTH)
def test_probabilities_of_all_next_tokens_sum_to_one(family: str, tiny: Callable) -> None:
    model = tiny(family)
    words = [model.tokenizer.convert_ids_to_tokens(i) for i in range(model.cfg.d_vocab)]
    assert float(ms.score(model, ["the cat"], [words]).exp().sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("family", BOTH)
def test_the_score_of_what_was_generated_is_its_log_probability(family: str, tiny: Callable) -> None:
    model = tiny(family)
    out = ms.generate(model, TEXTS, max_new_tokens=3)
    texts = [" ".join(model.tokenizer.convert_ids_to_tokens(row)) for row in out.tokens.tolist()]
    assert ms.score(model, TEXTS, texts).tolist() == pytest.approx(out.logprobs.sum(1).tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("continuations", "message"),
    [
        (["cat"], "2 prompts but 1 continuations"),
        ([["cat", "dog"], ["cat"]], r"same number of choices, at least one; got \[1, 2\]"),
        ([[], []], r"same number of choices, at least one; got \[0\]"),
        (["cat", ""], "The continuation '' has no tokens"),
        ([["cat"], ["  "]], "The continuation '  ' has no tokens"),
    ],
)
def test_continuations_that_do_not_fit_are_refused(continuations: Any, message: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.score(tiny("llama-gqa"), ["the cat", "one"], continuations)


def test_scoring_leaves_no_hooks(tiny: Callable) -> None:
    model = tiny("t5")
    ms.score(model, TEXTS, ["cat"] * 3, steer=ms.add(random_direction(model, seed=0, layer=0), 1.0))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("family", BOTH)
def test_one_text_is_scored_after_one_prompt_or_after_each(family: str, tiny: Callable) -> None:
    model = tiny(family)
    wanted = ms.score(model, TEXTS, [" cat"] * 3)
    torch.testing.assert_close(ms.score(model, TEXTS, " cat"), wanted)
    alone = ms.score(model, TEXTS[0], " cat")
    assert alone.shape == (1,) and float(alone) == pytest.approx(float(wanted[0]), abs=1e-4)
    made = ms.prompt(model, TEXTS[0])
    assert float(ms.score(model, made, " cat")) == pytest.approx(float(alone), abs=1e-5)
    assert ms.score(model, made, [[" cat", " red"]]).shape == (1, 2)


def test_choices_of_one_prompt_are_a_list_in_a_list(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"1 prompts but 2 continuations .* choices are lists, one for each"):
        ms.score(tiny("llama-gqa"), "the cat", [" sat", " red"])
