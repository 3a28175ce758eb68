"""The plausibility gate, by hand; and any schedule of interventions under it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import mechsteer as ms
from mechsteer.decoding.gate import plausible, settled
from mechsteer.decoding.strategies import Pass
from mechsteer.steering import Step, begin, run_batches
from tests.decoding.test_directer import NEW, prompts_of


def distribution(first: float, second: float) -> Float[Tensor, "1 4"]:
    """Two likely tokens and two that share the rest."""
    rest = (1 - first - second) / 2
    return torch.tensor([[rest, second, first, rest]])


@pytest.mark.parametrize(
    ("first", "second", "skip"), [(0.9, 0.05, True), (0.5, 0.45, False), (0.6, 0.3, False), (0.6, 0.29, True)]
)
@pytest.mark.parametrize("released", [False, True])
def test_where_nothing_could_change(first: float, second: float, skip: bool, released: bool) -> None:
    assert settled(distribution(first, second), 0.5, released=released).tolist() == [skip]


def test_a_token_at_the_threshold_is_accepted_but_not_by_the_released_code() -> None:
    p, tokens = distribution(0.5, 0.25), torch.tensor([[2, 1, 0]])
    assert plausible(p, tokens, 0.5).tolist() == [[True, True, False]]
    assert plausible(p, tokens, 0.5, released=True).tolist() == [[True, False, False]]
    assert plausible(p, tokens, 1.0).tolist() == [[True, False, False]]


def naive(model: Any, prompt: ms.Prompt, schedule: list[ms.Intervention], beta: float) -> list[int]:
    """One pass after another: each steered pass is a forward over the whole text that steers its last position."""
    ends, written = ms.model_info(model).eos_ids, []
    for _ in range(NEW):
        tokens = torch.cat([prompt.tokens, torch.tensor(written, dtype=torch.long)])
        whole = ms.Prompt(prompt.text, tokens, prompt.spans)
        with torch.no_grad():
            p = model(tokens[None])[0, -1].softmax(-1)
            token = int(p.argmax())
            for item in schedule:
                steered = int(model.run_with_hooks(tokens[None], fwd_hooks=item.hooks(whole))[0, -1].argmax())
                if p[steered] >= beta * p.max():
                    token = steered
                    break
        written.append(token)
        if token in ends:
            break
    return written


def schedules(model: Any, scope: Any) -> dict[str, list[ms.Intervention]]:
    direction = ms.random_direction(model, layer=1, seed=0)
    return {
        "vectors": [ms.add(direction, c, scope=scope) for c in (12.0, 6.0, 3.0)],
        "pasta": [ms.pasta(alpha=a, scope=scope) for a in (0.001, 0.01, 0.1)],
        "guide": [ms.attention_bias(delta=d, scope=scope) for d in (8.0, 2.0)],
        "spotlight": [ms.spotlight(target=t, scope=scope) for t in (0.9, 0.5)],
        "both": [ms.add(direction, 8.0, scope=scope) + ms.attention_bias(delta=3.0, scope=scope)],
    }


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("name", ["vectors", "pasta", "guide", "spotlight", "both"])
def test_a_schedule_equals_the_plain_loop(name: str, batch_size: int, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model, 10, seed=7)
    gated = ms.Gated(schedules(model, "all")[name], beta=0.3)
    found = ms.generate(model, prompts, strategy=gated, max_new_tokens=NEW, batch_size=batch_size)
    last = schedules(model, [-1])[name]  # the last position of a whole text, in the naive loop
    for place, prompt in enumerate(prompts):
        assert found.tokens[place, : found.lengths[place]].tolist() == naive(model, prompt, last, 0.3)
    assert (found.trace["token"] != found.trace["raw_token"]).any()
    assert {0, 1} <= set(found.trace["accepted"])


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_interventions_on_some_prompts_are_those_prompts_own(batch_size: int, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model, 6, seed=11)
    one, other = (ms.random_direction(model, layer=1, seed=seed) for seed in (0, 1))
    rows = {0: one, 1: other, 2: one, 3: other, 4: None, 5: None}
    halves = [[place for place, direction in rows.items() if direction is d] for d in (one, other)]
    schedule = [ms.add(one, c, rows=halves[0]) + ms.add(other, c, rows=halves[1]) for c in (12.0, 6.0)]
    found = ms.generate(
        model, prompts, strategy=ms.Gated(schedule, beta=0.3), max_new_tokens=NEW, batch_size=batch_size
    )
    for place, direction in rows.items():
        strategy = None if direction is None else ms.Gated([ms.add(direction, c) for c in (12.0, 6.0)], beta=0.3)
        alone = ms.generate(model, prompts[place], strategy=strategy, max_new_tokens=NEW)
        assert found.tokens[place, : found.lengths[place]].equal(alone.tokens[0])
    assert (found.trace["token"] != found.trace["raw_token"]).any()


def test_scaled_keys_in_a_schedule_are_directer_without_a_ranking(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model, 8, seed=8)
    gated = ms.generate(model, prompts, strategy=ms.Gated([ms.scale_keys(alpha=3.0)]), max_new_tokens=NEW)
    only = ms.generate(model, prompts, strategy=ms.Directer(alpha=3.0), max_new_tokens=NEW)
    first = only.trace["accepted"] <= 1
    assert first.any()
    for place in range(len(prompts)):
        line = only.trace[only.trace["prompt"] == place]
        same = int((line["accepted"].cummax() <= 1).sum())  # until a second trial was needed
        assert gated.tokens[place, :same].equal(only.tokens[place, :same])


def test_it_runs_on_an_encoder_decoder(tiny: Callable) -> None:
    model = tiny("t5")
    prompts = prompts_of(model, 5, seed=9)
    direction = ms.random_direction(model, layer=0, seed=0)
    strategy = ms.Gated([ms.add(direction, 9.0) + ms.attention_bias(delta=4.0, at="cross"), ms.add(direction, 3.0)])
    together = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW)
    alone = [ms.generate(model, p, strategy=strategy, max_new_tokens=NEW) for p in prompts]
    assert together.texts == [r.texts[0] for r in alone]
    assert (together.trace["token"] != together.trace["raw_token"]).any()


@pytest.mark.parametrize(
    ("schedule", "message"), [([], "at least one"), ([ms.steering.Intervention()], r"got Intervention\(\) in it")]
)
def test_a_schedule_of_nothing_is_refused(schedule: list[Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.Gated(schedule)


def test_an_intervention_that_cannot_act_is_refused(tiny: Callable) -> None:
    model = tiny("t5")
    prompts = prompts_of(model, 2)
    with pytest.raises(ms.MechsteerError, match="never"):
        ms.generate(model, prompts, strategy=ms.Gated([ms.attention_bias(delta=2.0, at="encoder")], beta=0.01))
    with pytest.raises(ms.MechsteerError, match="beta must be"):
        ms.Gated([ms.attention_bias(delta=2.0)], beta=0.0)


@pytest.mark.parametrize("beta", [0.02, 0.5])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_logits_of_the_first_token_are_those_of_the_accepted_trial(
    family: str, beta: float, tiny: Callable
) -> None:
    model, prompts = tiny(family), prompts_of(tiny(family), 5)
    schedule = [ms.add(ms.random_direction(model, layer=1, seed=0), c, scope="last_prompt") for c in (12.0, 3.0)]
    trace = ms.generate(model, prompts, strategy=ms.Gated(schedule, beta), max_new_tokens=1).trace
    ways: list[Any] = [ms.Intervention(()), *schedule]
    found: list[Tensor] = [torch.empty(0)] * len(prompts)

    def run(step: Step) -> None:
        state, tokens, mask = begin(model, step)
        places = list(step.index or [])
        current = Pass(model, state, tokens, mask, step, places, [[] for _ in places])
        rows = ms.Gated(schedule, beta).chooser(model).first_logits(current)
        for place, row in zip(places, rows, strict=True):
            found[place] = row

    run_batches(model, prompts, run, steer=ms.Intervention(()), batch_size=3)
    for row, accepted in enumerate(trace["accepted"]):
        inputs = (prompts[row].tokens[None], torch.tensor([[0]]))[: 2 if family == "t5" else 1]
        with torch.no_grad():
            logits = model.run_with_hooks(*inputs, fwd_hooks=ways[accepted].hooks(prompts[row]))[0, -1]
        assert torch.allclose(found[row], logits, atol=1e-4)
        assert int(found[row].argmax()) == trace["token"][row]
    assert set(trace["accepted"]) != {0} or beta == 0.5


def test_steps_that_need_no_trials_are_one_row_and_others_are_one_pass(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, new = tiny("llama-gqa"), 12
    prompt = ms.prompt(model, "the cat sat on mat", instruction="answer in capitals")
    copies = len(ms.Directer().schedule(3)) + 1
    seen: dict[float, list[int]] = {}
    for beta in (1.0, 1e-9):  # nothing else could pass; everything does
        rows: list[int] = []
        hooks = [("blocks.0.hook_resid_pre", lambda x, hook, rows=rows: rows.append(x.shape[0]))]
        with model.hooks(fwd_hooks=hooks):
            out = ms.generate(model, prompt, strategy=ms.Directer(beta=beta), max_new_tokens=new)
        seen[beta] = rows[-(out.lengths[0] - 5) :]  # what the first steps needed decides
    assert set(seen[1.0]) == {1}
    assert set(seen[1e-9]) == {copies}
    for beta in (0.1, 0.5):
        made = []
        for share in (0.0, 2.0):  # always together; always the raw pass first
            monkeypatch.setattr("mechsteer.decoding.trials.NEEDED", {"cpu": share})
            made.append(ms.generate(model, prompt, strategy=ms.Directer(beta=beta), max_new_tokens=new))
        assert made[0].tokens.equal(made[1].tokens)
        columns = ["token", "accepted", "trials", "skipped"]
        assert made[0].trace[columns].equals(made[1].trace[columns])
