"""Divergence on the unsteered answers: against a loop over prefixes, and zero where nothing is steered."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.distributions import jsd
from mechsteer.decoding.divergence import TOKENS, exchanged, probe
from mechsteer.models import advance
from mechsteer.steering import Intervention, Step, begin, run_batches
from mechsteer.tuning.ladders import Way

TEXTS = ["the cat sat on", "a dog", "write a word , the cat in a house"]
ANSWERS = [[5, 9, 12, 7], [11], [6, 6, 8]]


def prompts(model: Any) -> list[Any]:
    return [ms.prompt(model, text, instruction="answer in capitals") for text in TEXTS]


def next_log_probabilities(model: Any, prompt: Any, steer: Intervention) -> torch.Tensor:
    found: list[torch.Tensor] = []

    def run(step: Step) -> None:
        found.append(advance(model, *begin(model, step))[0, -1].float().log_softmax(-1))

    with torch.no_grad():
        run_batches(model, [prompt], run, steer=steer, batch_size=1)
    return found[0]


def naive(model: Any, steer: Intervention) -> float:
    """Each prefix as a prompt of its own."""
    from dataclasses import replace

    values = []
    for prompt, answer in zip(prompts(model), ANSWERS, strict=True):
        for end in range(len(answer)):
            longer = replace(prompt, tokens=torch.cat([prompt.tokens, torch.tensor(answer[:end], dtype=torch.long)]))
            values.append(jsd(*(next_log_probabilities(model, longer, one) for one in (Intervention(), steer))))
    return float(torch.stack(values).quantile(0.95))


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
def test_one_pass_is_the_loop_over_prefixes(family: str, tiny: Callable[..., Any]) -> None:
    model = tiny(family)
    found = probe(model, prompts(model), ANSWERS)
    for steer in (ms.attention_bias(delta=4.0), ms.spotlight(target=0.6)):
        assert found.divergence(Way(steer)) == pytest.approx(naive(model, steer), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_zero_strength_is_no_divergence_and_more_is_more(family: str, tiny: Callable[..., Any]) -> None:
    model = tiny(family)
    found = probe(model, prompts(model), ANSWERS)
    values = [found.divergence(Way(ms.attention_bias(delta=delta))) for delta in (0.0, 0.5, 2.0, 8.0)]
    assert values[0] < 1e-6 and values == sorted(values) and 0.0 < values[-1] <= 0.6932


def test_a_gate_is_measured_by_the_least_exchange(tiny: Callable[..., Any]) -> None:
    p = torch.tensor([0.5, 0.3, 0.2]).double()
    swapped = p[[1, 0, 2]]
    found = exchanged(p[:1], p[1:2])
    assert found.item() == pytest.approx(jsd(p.float().log(), swapped.float().log()).item(), rel=1e-5)
    model = tiny("llama-gqa")
    measured = probe(model, prompts(model), ANSWERS)
    values = [measured.divergence(Way(strategy=ms.Directer(beta=beta))) for beta in (1.0, 0.5, 0.01)]
    assert values[0] == 0.0 and 0.0 <= values[1] <= values[2] and values[2] > 0.0


def test_a_gate_beside_an_intervention_is_measured_on_the_tokens_that_it_wrote(instruct_llama: Any) -> None:
    """An intervention that does nothing changes nothing, where some answers end before others."""
    model = instruct_llama
    asked = [
        ms.prompt(model, "Tell me about the writer.", instruction=one)
        for one in ("Use only uppercase letters.", "Answer in at most five words.", "Write a list.")
    ]
    measured, gate = probe(model, asked, [[5], [5], [5]]), ms.Directer(beta=0.1)
    out = ms.generate(model, asked, strategy=gate, max_new_tokens=TOKENS)
    assert len(set(out.lengths)) > 1
    nothing = ms.attention_bias(delta=0.0)
    alone, beside = measured.divergence(Way(strategy=gate)), measured.divergence(Way(nothing, gate))
    assert beside == pytest.approx(alone, abs=1e-5)
