"""Sampling draws from the distribution that its settings name, and the same draws for the same seed."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.decoding import Choice, Pass
from mechsteer.decoding.repetition import read_so_far
from mechsteer.models import State
from mechsteer.steering import Step
from tests.decoding.reference import TEXTS, rows

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 1.5, 0.0, -3.0]])


def naive(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Temperature, then the k most likely, then the smallest set that reaches p, in plain Python."""
    weights = [math.exp(x / temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept = order[:top_k] if top_k else order
    total = sum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass >= top_p - 1e-9 and top_p < 1:
            break
        nucleus.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in nucleus)
    return [weights[i] / total if i in nucleus else 0.0 for i in range(len(weights))]


@settings(max_examples=100)
@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=8, unique=True).map(lambda v: [x / 10 for x in v]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, 9),
    top_p=st.sampled_from([0.05, 0.33, 0.71, 0.93, 1.0]),
)
def test_the_truncated_distribution_equals_the_naive_one(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    strategy = ms.Sample(temperature=temperature, top_k=top_k, top_p=top_p)
    found = strategy.truncated(torch.tensor([logits]))[0].tolist()
    assert found == pytest.approx(naive(logits, temperature, top_k, top_p), abs=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}])
def test_draws_follow_the_distribution(arguments: dict[str, Any]) -> None:
    strategy, n = ms.Sample(seed=11, **arguments), 4000
    drawn = strategy.chooser(None).draw(LOGITS.repeat(n, 1), range(n))  # each row has a generator of its own
    expected = strategy.truncated(LOGITS)[0]
    frequencies = torch.bincount(drawn, minlength=6) / n
    tolerance = 4 * (expected * (1 - expected) / n).sqrt() + 1e-9
    assert ((frequencies - expected).abs() <= tolerance).all()


def test_greedy_takes_the_first_of_equals(tiny: Callable) -> None:
    class Fixed(Pass):
        def logits(self) -> torch.Tensor:
            return torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, -1.0]])

    padded = ms.batch([ms.prompt(tiny("gpt2"), "the cat")] * 2, side="left")
    current = Fixed(None, State([]), padded.tokens, padded.mask, Step(padded), [0, 1], [[], []])
    assert ms.Greedy().choose(current).tokens.tolist() == [1, 0]


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_the_same_seed_gives_the_same_texts_in_every_batch_size(family: str, tiny: Callable) -> None:
    model = tiny(family)

    def sampled(seed: int, **arguments: Any) -> list[list[int]]:
        strategy = ms.Sample(temperature=1.5, seed=seed)
        return rows(ms.generate(model, TEXTS, strategy=strategy, max_new_tokens=8, **arguments))

    assert sampled(1) == sampled(1) == sampled(1, batch_size=1) == sampled(1, batch_size=3)
    assert sampled(1) != sampled(2)


def test_a_strategy_used_again_starts_again(tiny: Callable) -> None:
    strategy = ms.Sample(temperature=1.5, seed=4)
    one, two = (rows(ms.generate(tiny("llama-gqa"), TEXTS, strategy=strategy)) for _ in range(2))
    assert one == two


def test_equal_prompts_are_sampled_differently(tiny: Callable) -> None:
    out = ms.generate(tiny("llama-gqa"), ["the cat"] * 6, strategy=ms.Sample(temperature=3.0), max_new_tokens=6)
    assert len({tuple(row) for row in rows(out)}) == 6


def test_sampling_the_most_likely_only_is_greedy(tiny: Callable) -> None:
    model = tiny("t5-gated")
    assert rows(ms.generate(model, TEXTS, strategy=ms.Sample(top_k=1))) == rows(ms.generate(model, TEXTS))
    assert rows(ms.generate(model, TEXTS, strategy=ms.Sample(top_p=1e-6))) == rows(ms.generate(model, TEXTS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be above 0, got 0\.0; use Greedy"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        ({"top_p": float("nan")}, "top_p must be finite"),
    ],
)
def test_settings_without_a_meaning_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.Sample(**arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1.5}, "seed must be a whole number, in size at most 2 ..? 40, got 1.5"),
        ({"seed": 10**20}, "seed must be a whole number"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"temperature": torch.tensor([1.0, 2.0])}, "temperature must be a number, got tensor"),
        ({"temperature": 10**400}, "temperature must be finite, got 10+…, which no float can hold"),
    ],
)
def test_settings_of_another_type_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.Sample(**arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (lambda: ms.Sample(np.float32(0.5), np.int64(3), torch.tensor(0.5), np.int64(2)), ms.Sample(0.5, 3, 0.5, 2)),
        (lambda: ms.Greedy(np.float32(1.5)), ms.Greedy(1.5)),
        (lambda: ms.Directer(np.float32(3), np.float32(0.25), seed=np.int64(1)), ms.Directer(3.0, 0.25, seed=1)),
        (lambda: ms.Directer(beta=torch.tensor(0.25), strength=np.int64(2)), ms.Directer(beta=0.25, strength=2)),
        (
            lambda: ms.DoLa([0], contrast=np.float32(0.5), relative_top=torch.tensor(0.25)),
            ms.DoLa([0], "paper", 0.5, 0.25),
        ),
    ],
)
def test_numbers_of_numpy_and_torch_are_pythons(given: Callable[[], Any], plain: Any, tiny: Callable) -> None:
    made, model = given(), tiny("llama-gqa")
    assert made == plain and repr(made) == repr(plain)
    prompt = ms.prompt(model, "the cat sat", instruction="answer in capitals")
    one, other = (ms.generate(model, prompt, strategy=how, max_new_tokens=2) for how in (made, plain))
    assert one.tokens.equal(other.tokens)


@pytest.mark.usefixtures("unchecked")
def test_a_gates_threshold_may_be_numpys(tiny: Callable) -> None:
    gated = ms.Gated([ms.attention_bias(delta=2.0)], beta=np.float32(0.25))
    assert gated.beta == 0.25 and type(gated.beta) is float


def test_a_temperature_that_no_float_survives_is_the_limit() -> None:
    logits = torch.cat([LOGITS, LOGITS - 5.0, LOGITS.masked_fill(LOGITS > 1, -torch.inf)])
    drawn = ms.Sample(temperature=1e-42).truncated(logits)
    assert drawn.equal(torch.nn.functional.one_hot(torch.tensor([0, 0, 1]), 6).float())


@dataclass(frozen=True)
class NoRepeat:
    """Greedy, but never the previous token: a rule of one's own."""

    def chooser(self, model: Any) -> "NoRepeat":
        return self

    def choose(self, current: Pass) -> Choice:
        read = read_so_far(current.model, current.step, current.written)
        previous = current.tokens[:, -1:]
        running = [True] * len(read) if current.running is None else current.running.tolist()
        assert all(ids[-1] == last for ids, last, on in zip(read, previous[:, 0].tolist(), running, strict=True) if on)
        logits = current.logits()
        return Choice(logits.scatter(1, previous.to(logits.device), -torch.inf).argmax(-1), logits)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_a_rule_of_ones_own_has_the_previous_token_last_in_its_pass(family: str, tiny: Callable) -> None:
    model = tiny(family)
    together = ms.generate(model, TEXTS, strategy=NoRepeat(), max_new_tokens=6, batch_size=2)
    alone = [ms.generate(model, text, strategy=NoRepeat(), max_new_tokens=6).texts[0] for text in TEXTS]
    assert together.texts == alone
    for ids, length in zip(together.tokens.tolist(), together.lengths, strict=True):
        assert all(a != b for a, b in itertools.pairwise(ids[:length]))
    plain = ms.generate(model, TEXTS, max_new_tokens=6).tokens.tolist()
    assert any(a == b for ids in plain for a, b in itertools.pairwise(ids))  # or the rule would change nothing
