"""Reading ahead changes no token, and a token costs one pass."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.decoding import trials
from mechsteer.decoding.ahead import MOST, Ahead
from mechsteer.models import is_encoder_decoder
from tests.decoding.test_directer import ALPHA, NEW, Naive, prompts_of, ranked


@contextmanager
def passes(model: Any) -> Iterator[list[int]]:
    """How many rows each pass of the predicting stack had, seen from beside the hook points."""
    rows: list[int] = []
    block = (model.decoder if is_encoder_decoder(model) else model.blocks)[0]
    handle = block.mlp.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[0]))
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize(("family", "beta"), [("llama-gqa", 0.5), ("mistral", 0.5), ("gemma2", 0.1), ("t5", 0.5)])
def test_tokens_and_trace_equal_the_plain_loop(
    family: str, beta: float, tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass after another for each prompt alone; here alone, and in batches that are refilled from the queue."""
    model = tiny(family)
    prompts, ends = prompts_of(model, 9, seed=21), ms.model_info(model).eos_ids
    naive = [Naive(model, prompt, beta=beta, ranked=ranked(model, prompt, "paper")).run(ends) for prompt in prompts]
    read: list[int] = []
    keep = Ahead._keep
    monkeypatch.setattr(Ahead, "_keep", lambda self, *args, **more: read.append(1) or keep(self, *args, **more))
    monkeypatch.setattr(trials, "NEEDED", {"cpu": 2.0})  # never the raw pass and all trials in one
    strategy = ms.Directer(alpha=ALPHA, beta=beta)
    for batch_size, first in ((1, 1), (3, 1), (8, 2)):
        monkeypatch.setattr(trials, "FIRST", {"cpu": (first, first)})
        read.clear()
        found = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW, batch_size=batch_size)
        traces = found.trace.groupby("prompt")
        for place, (tokens, trace) in enumerate(naive):
            assert found.tokens[place, : found.lengths[place]].tolist() == tokens
            assert traces.get_group(place)[list(trace[0])].to_dict("records") == trace
        assert read
    lines = [line for _, trace in naive for line in trace]
    assert {line["skipped"] for line in lines} == {True, False}
    assert family == "gemma2" or any(line["trials"] > 1 for line in lines)  # its caps leave little to reject


def test_a_token_costs_one_pass(tiny: Callable) -> None:
    """But for rows that many tokens are plausible for, and for trials after the first two."""
    model, new = tiny("gpt2"), 12
    strategy, saved = ms.Directer(alpha=ALPHA, beta=0.7), 0
    for prompt in prompts_of(model, 6, seed=22):
        with passes(model) as rows:
            found = ms.generate(model, prompt, strategy=strategy, max_new_tokens=new)
        needed = int((~found.trace["skipped"]).sum())
        apart = 1 + found.lengths[0] + needed  # the ranking, a raw pass a token, and trials where they were needed
        assert len(rows) <= apart
        saved += apart - len(rows)
        assert max(rows[2:], default=0) <= trials.FIRST["cpu"][0] + MOST
    assert saved > 12


def test_what_was_read_is_forgotten(tiny: Callable) -> None:
    """Of rows that end, so that a long run does not hold what it does not need."""
    model = tiny("llama-gqa")
    strategy = ms.Directer(alpha=ALPHA, beta=0.5)
    chooser = strategy.chooser(model)
    kept: list[int] = []

    class Same:
        def chooser(self, model: Any) -> Any:
            return self

        def choose(self, current: Any) -> Any:
            choice = chooser.choose(current)
            kept.append(len({place for place, _ in chooser._ahead.read}))
            return choice

    ms.generate(model, prompts_of(model, 24, seed=23), strategy=Same(), max_new_tokens=3, batch_size=2)
    assert 0 < max(kept) <= 6


def test_the_context_is_not_left(tiny: Callable) -> None:
    """The last token that fits is not read beyond."""
    model = tiny("gpt2")
    prompt = prompts_of(model, 1, seed=24)[0]
    short = copy.deepcopy(model)
    short.cfg.n_ctx = len(prompt) + NEW
    strategy = ms.Directer(alpha=ALPHA, beta=0.5)
    texts = [ms.generate(m, prompt, strategy=strategy, max_new_tokens=NEW).texts for m in (model, short)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_hooks_of_others_see_passes_of_one_position(family: str, tiny: Callable) -> None:
    """With a hook on the model nothing is read ahead, and the tokens are the same."""
    model = tiny(family)
    prompts = prompts_of(model, 6, seed=25)
    strategy = ms.Directer(alpha=ALPHA, beta=0.5)
    plain = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW)
    stack = "decoder" if family == "t5" else "blocks"
    with model.hooks(fwd_hooks=[(f"{stack}.0.hook_resid_post", lambda x, hook: None)]):
        seen = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW)
    assert seen.tokens.equal(plain.tokens)
    columns = ["token", "raw_token", "accepted", "trials", "skipped", "layers"]
    assert seen.trace[columns].equals(plain.trace[columns])


def test_a_schedule_of_interventions_reads_ahead_too(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model, 6, seed=26)
    direction = ms.random_direction(model, layer=1, seed=0)
    schedule = [ms.add(direction, c) + ms.attention_bias(delta=d) for c, d in ((12.0, 4.0), (6.0, 2.0), (3.0, 1.0))]
    runs = []
    for most in (MOST, 0):
        monkeypatch.setattr("mechsteer.decoding.ahead.MOST", most)
        for batch_size in (1, 3):
            strategy = ms.Gated(schedule, beta=0.3)
            runs.append(ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW, batch_size=batch_size))
    columns = ["token", "accepted", "trials", "skipped"]
    for other in runs[1:]:
        assert other.tokens.equal(runs[0].tokens)
        assert other.trace[columns].equals(runs[0].trace[columns])
    assert len(set(runs[0].trace["accepted"])) > 2
