"""Out of memory: half as many prompts together, the same results, and a word in the log; one alone is one line."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models import causal, halving
from mechsteer.sources import last_states

TEXTS = ["the cat", "a dog sat on the mat", "one", "red blue"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes decoders run out of memory amid a block, with more than so many rows; says which were tried."""
    real = causal.apply_mlp

    def limit(rows: int) -> list[int]:
        tried: list[int] = []

        def apply_mlp(block: Any, x: torch.Tensor) -> torch.Tensor:
            tried.append(len(x))
            if len(x) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GB")
            return real(block, x)

        monkeypatch.setattr(causal, "apply_mlp", apply_mlp)
        return tried

    return limit


@pytest.mark.parametrize("strategy", [ms.Greedy(), ms.Sample(seed=3)])
def test_generation_goes_on_with_half_as_many(
    strategy: Any, tiny: Callable, small: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("llama")
    options: dict[str, Any] = {"strategy": strategy, "max_new_tokens": 4, "record": ["blocks.1.hook_resid_post"]}
    expected = ms.generate(model, TEXTS, batch_size=1, **options)
    small(2)
    with caplog.at_level(logging.WARNING, "mechsteer"):
        found = ms.generate(model, TEXTS, **options)
    assert found.texts == expected.texts and torch.equal(found.tokens, expected.tokens)
    for one, other in zip(*(out.activations["blocks.1.hook_resid_post"] for out in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert "Out of memory with 4 prompts together; going on with 2." in caplog.text
    assert "\n2 GB" not in caplog.text


def test_measures_and_captures_go_on_with_half_as_many(tiny: Callable, small: Callable) -> None:
    model, site = tiny("llama"), "blocks.1.hook_resid_post"
    prompts = [ms.prompt(model, text) for text in TEXTS]

    def all_of_it() -> list[torch.Tensor]:
        rows = ms.evaluate(model, ms.task([{"prompt": t} for t in TEXTS], "lowercase", max_new_tokens=3), quality=True)
        return [
            last_states(model, prompts, [site])[site],
            ms.score(model, prompts, " cat"),
            ms.capture(model, prompts, sites="resid_post")[site],
            ms.capture(model, prompts, sites="resid_post", generate=3)[site],
            torch.tensor(rows[["n_tokens", "surprise"]].to_numpy(float)),
        ]

    expected = all_of_it()
    tried = small(2)
    for one, other in zip(all_of_it(), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert max(tried) == 4


def test_one_prompt_that_is_too_much_is_one_line(tiny: Callable, small: Callable) -> None:
    model = tiny("llama")
    small(0)
    for run in (lambda: ms.generate(model, TEXTS), lambda: ms.score(model, TEXTS, " cat")):
        with pytest.raises(ms.MechsteerError, match="One prompt alone needs more memory than is free: CUDA out of"):
            run()


def test_other_errors_are_not_taken_for_memory() -> None:
    def fail() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        halving.fits(fail, 4)
    assert halving.out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"))


def test_a_long_text_of_a_t5_says_what_it_costs(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("t5")
    monkeypatch.setattr(halving, "LARGE", 10_000)
    text = "the cat " * 60
    with pytest.warns(UserWarning, match=r"T5's attention over 121 tokens, .* takes 0\.0 GB of memory"):
        ms.generate(model, text, max_new_tokens=1)
    monkeypatch.setattr(halving, "_free", lambda device: 10_001)
    with pytest.raises(ms.MechsteerError, match=r"One prompt alone .*give shorter prompts"):
        ms.generate(model, text, max_new_tokens=1)
