"""Freed places are filled from the queue, within a budget of positions, and nobody's tokens notice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.decoding.loop import Queue
from mechsteer.models import is_encoder_decoder
from mechsteer.models.info import set_info
from mechsteer.sources.live import places_of_batches
from tests.decoding.reference import prompts_of, row_logprobs, rows

NEW, ENDS = 10, tuple(range(5, 30))
TEXTS = [" ".join(["the cat sat on mat in house dog"] * (1 + k % 3))[: 5 + 11 * k % 60] for k in range(9)]


@pytest.fixture(scope="module")
def exact(checkpoint: Callable[..., Path]) -> Callable[[str], Any]:
    """A function that loads a tiny model in float64, in which rounding does not show, whose rows end here and there."""
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            model = ms.load(str(checkpoint(family)), check=False).double()
            model.cfg.dtype = torch.float64
            set_info(model, replace(ms.model_info(model), eos_ids=ENDS))
            made[family] = model
        return made[family]

    return get


def ways(model: Any) -> dict[str, dict[str, Any]]:
    direction = ms.random_direction(model, layer=1, seed=0)
    return {
        "greedy": {},
        "sampled": {"strategy": ms.Sample(temperature=2.0, seed=4)},
        "DoLa": {"strategy": ms.DoLa()},
        "DIRECTER": {"strategy": ms.Directer(beta=0.2)},
        "gated": {"strategy": ms.Gated([ms.attention_bias(delta=3.0, at="cross")], beta=0.2)},
        "generated": {"steer": ms.add(direction, 9.0, scope="generated", rows=range(0, len(TEXTS), 2))},
        "span and positions": {"steer": ms.attention_bias(delta=2.0) + ms.add(direction, 5.0, scope=[3, 8])},
        "keys": {"steer": ms.scale_keys(alpha=3.0)},
    }


WAYS = ["greedy", "sampled", "DoLa", "DIRECTER", "gated", "generated", "span and positions", "keys"]
OTHERS = [("greedy", "gpt2"), ("greedy", "t5-uneven"), ("DIRECTER", "mistral")]


@pytest.mark.parametrize(
    ("way", "family"), [*((way, family) for way in WAYS for family in ("llama-gqa", "t5")), *OTHERS]
)
def test_a_row_does_not_know_whose_place_it_took(way: str, family: str, exact: Callable[[str], Any]) -> None:
    model = exact(family)
    prompts = prompts_of(model, TEXTS)
    site = ms.site(model, "resid_post", layer=-1)
    options = {"max_new_tokens": NEW, "record": [site]} | ways(model)[way]
    alone = ms.generate(model, prompts, batch_size=1, **options)
    assert len(set(alone.lengths)) > 1
    for batch_size, budget in ((3, 10_000), (6, 120)):
        out = ms.generate(model, prompts, batch_size=batch_size, max_batch_tokens=budget, **options)
        assert rows(out) == rows(alone)
        for place in range(len(prompts)):
            assert row_logprobs(out)[place] == pytest.approx(row_logprobs(alone)[place], abs=1e-5)
            torch.testing.assert_close(out.activations[site][place], alone.activations[site][place])
        if len(alone.trace):
            named = ["prompt", "step", "token"]
            assert out.trace[named].equals(alone.trace[named])


def held(model: Any, **options: Any) -> tuple[Any, list[tuple[int, int]]]:
    """A generation, and for each pass of the first block the rows and the positions that were seen."""
    seen = []
    name = "decoder.0.attn.hook_pattern" if is_encoder_decoder(model) else "blocks.0.attn.hook_pattern"
    with model.hooks(fwd_hooks=[(name, lambda x, hook: seen.append((x.shape[0], x.shape[-1])))]):
        out = ms.generate(model, prompts_of(model, TEXTS), max_new_tokens=NEW, **options)
    return out, seen


def test_no_more_positions_are_held_than_the_budget_has(exact: Callable[[str], Any]) -> None:
    model = exact("llama-gqa")
    longest = max(len(p) for p in prompts_of(model, TEXTS)) + NEW
    for budget in (longest, 3 * longest):
        _, seen = held(model, max_batch_tokens=budget)
        assert max(r * positions for r, positions in seen) <= budget
    assert max(r for r, _ in seen) > 1
    _, tight = held(model, max_batch_tokens=1)
    assert {r for r, _ in tight} == {1}  # a prompt that is more than the budget runs alone


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_freed_places_are_filled(family: str, exact: Callable[[str], Any]) -> None:
    model = exact(family)
    out, seen = held(model, batch_size=4)
    assert max(r for r, _ in seen) == 4
    steps = [r for r, _ in seen]
    assert sum(steps) < 1.5 * sum(out.lengths)  # fixed batches of four compute each row as long as the longest


def test_the_context_is_never_outgrown_by_rows_that_have_ended(exact: Callable[[str], Any]) -> None:
    model = exact("llama-gqa")
    prompts = prompts_of(model, TEXTS)
    longest = max(len(p) for p in prompts)
    context, model.cfg.n_ctx = model.cfg.n_ctx, longest + NEW
    try:
        out = ms.generate(model, prompts, max_new_tokens=NEW, batch_size=5)
    finally:
        model.cfg.n_ctx = context
    assert rows(out) == rows(ms.generate(model, prompts, max_new_tokens=NEW, batch_size=1))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30) | st.integers(400, 2000), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
    budget=st.integers(1, 120) | st.just(9000),
    data=st.data(),
)
def test_the_queue_hands_out_each_prompt_once_and_keeps_to_its_limits(
    lengths: list[int], batch_size: int, budget: int, data: Any
) -> None:
    prompts = [ms.Prompt("", torch.ones(n, dtype=torch.long), {}) for n in lengths]
    queue, running, given_out = Queue(prompts, batch_size, budget, 4), [], []
    places = list(places_of_batches(prompts, batch_size))
    assert sorted(place for batch in places for place in batch) == list(range(len(lengths)))
    batches = [[lengths[place] for place in batch] for batch in places]
    while queue.waiting:
        taken = queue.take(running)
        assert taken or running
        running, given_out = running + taken, given_out + taken
        assert len(running) <= batch_size
        assert len(running) == 1 or len(running) * (max(lengths[place] for place in running) + 4) <= budget
        batches += [[lengths[place] for place in running]] if taken else []
        running = running[data.draw(st.integers(1, len(running))) :]
    assert sorted(given_out) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= batch_size
        assert len(batch) * max(batch) - sum(batch) <= max(512, sum(batch) / 2)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_a_long_prompt_does_not_lengthen_short_ones(
    family: str, exact: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechsteer.models.batching.PADDING", 0)
    model = exact(family)
    texts = ["the cat", "the cat sat on the mat in the house " * 5, "the dog"]
    prompts = prompts_of(model, texts)
    seen = []
    name = "encoder.0.hook_resid_pre" if is_encoder_decoder(model) else "blocks.0.hook_resid_pre"
    with model.hooks(fwd_hooks=[(name, lambda x, hook: seen.append(tuple(x.shape[:2])))]):
        out = ms.generate(model, prompts, max_new_tokens=2)
        made, seen = [shape for shape in seen if shape[1] > 1], []
        scored = ms.score(model, prompts, [[" house"]] * 3)
        ms.capture(model, prompts, sites=[ms.site(model, "resid_post", layer=0)])
    short, long = max(len(prompts[0]), len(prompts[2])), len(prompts[1])
    assert made == [(2, short), (1, long)]
    assert [shape for shape in seen if shape[1] > 1] == 2 * made
    assert rows(out) == [one for p in prompts for one in rows(ms.generate(model, p, max_new_tokens=2))]
    alone = [float(ms.score(model, p, [[" house"]])[0][0]) for p in prompts]
    assert [float(one[0]) for one in scored] == pytest.approx(alone)


@pytest.mark.parametrize("name", ["batch_size", "max_batch_tokens"])
def test_sizes_are_positive(name: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=name):
        ms.generate(tiny("llama-gqa"), "the cat", **{name: 0})
