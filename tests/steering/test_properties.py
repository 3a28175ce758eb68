"""What holds for every family of steering, in both model types, at generated prompts, strengths and batch sizes."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import mechsteer as ms
from mechsteer.models import is_encoder_decoder
from mechsteer.steering import Edit, Intervention, Scope
from tests.decoding.reference import greedy, next_logprobs, row_logprobs, rows
from tests.steering.naive import prompts_of
from tests.steering.steers import (
    BOTH,
    GENERAL,
    MAKERS,
    NO_ZERO,
    PASS_BY_PASS,
    TWO_STACKS,
    Make,
    affine_map,
    cases,
    direction,
    project,
)
from tests.steering.test_intervention import run
from tests.tiny import WORDS

NEW = 3
FOLLOWING = "w40 cat w70"


def examples(count: int) -> settings:
    """Generated cases without shrinking: each is small already, and slow as tests of arithmetic go."""
    return settings(max_examples=count, derandomize=True, phases=[Phase.generate])


texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=2, max_size=3)
strengths = st.floats(0.2, 1.0)


def named(family: str, *groups: dict[str, Make]) -> st.SearchStrategy[str]:
    return st.sampled_from([name for of, name in cases(*groups) if of == family])


def same(one: list[float], other: list[float]) -> bool:
    return one == pytest.approx(other, abs=1e-3)


def logprobs_of(model: Any, prompts: list[ms.Prompt], steer: Intervention | None) -> tuple[Tensor, Tensor]:
    """What generating and scoring give."""
    out = ms.generate(model, prompts, steer=steer, max_new_tokens=NEW)
    return out.logprobs, ms.score(model, prompts, [FOLLOWING] * len(prompts), steer=steer)


@functools.cache
def unsteered(model: Any, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The same for all families."""
    return logprobs_of(model, prompts_of(model, list(texts)), None)


@pytest.mark.parametrize(("family", "name"), cases(MAKERS))
@examples(2)
@given(texts=texts, strength=strengths)
def test_a_batch_equals_its_rows_one_by_one(
    family: str, name: str, texts: list[str], strength: float, tiny: Callable
) -> None:
    model = tiny(family)
    prompts, steer = prompts_of(model, texts), MAKERS[name](model, strength)
    together = ms.generate(model, prompts, steer=steer, max_new_tokens=NEW)
    alone = ms.generate(model, prompts, steer=steer, max_new_tokens=NEW, batch_size=1)
    assert rows(together) == rows(alone)
    for one, other in zip(row_logprobs(together), row_logprobs(alone), strict=True):
        assert same(one, other)
    choices = [[FOLLOWING, "dog"]] * len(prompts)
    scored = ms.score(model, prompts, choices, steer=steer)
    assert (scored - ms.score(model, prompts, choices, steer=steer, batch_size=1)).abs().max() < 1e-3


@pytest.mark.parametrize(("family", "name"), cases(GENERAL, TWO_STACKS, NO_ZERO))
@examples(2)
@given(texts=texts, strength=strengths)
def test_cached_steps_equal_the_whole_sequence_again_for_each_token(
    family: str, name: str, texts: list[str], strength: float, tiny: Callable
) -> None:
    model = tiny(family)
    prompts, steer = prompts_of(model, texts[:2]), MAKERS[name](model, strength)
    out = ms.generate(model, prompts, steer=steer, max_new_tokens=NEW)
    continuation = model.tokenizer(FOLLOWING, add_special_tokens=False)["input_ids"]
    scored = ms.score(model, prompts, [FOLLOWING] * len(prompts), steer=steer)
    for place, prompt in enumerate(prompts):
        tokens, logprobs = greedy(model, prompt, steer, NEW)
        assert tokens == rows(out)[place] and same(logprobs, row_logprobs(out)[place])
        whole = next_logprobs(model, prompt, continuation[:-1], steer)
        expected = float(whole[torch.arange(3), torch.tensor(continuation)].sum())
        assert float(scored[place]) == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("family", BOTH)
@examples(30)
@given(data=st.data(), texts=texts, strength=strengths, extra=st.integers(1, 9))
def test_more_padding_changes_nothing(
    family: str, data: Any, texts: list[str], strength: float, extra: int, tiny: Callable
) -> None:
    model, name = tiny(family), data.draw(named(family, MAKERS))
    short, steer = prompts_of(model, texts), MAKERS[name](model, strength)
    longest = prompts_of(model, [" ".join(["mat"] * (max(map(len, short)) + extra))])
    alone = ms.generate(model, short, steer=steer, max_new_tokens=NEW)
    padded = ms.generate(model, [*short, *longest], steer=steer, max_new_tokens=NEW)
    assert rows(padded)[:-1] == rows(alone)
    for place in range(len(short)):
        assert same(row_logprobs(padded)[place], row_logprobs(alone)[place])


@pytest.mark.parametrize(("family", "name"), cases(GENERAL, TWO_STACKS, PASS_BY_PASS))
@examples(2)
@given(texts=texts)
def test_strength_zero_is_unsteered(family: str, name: str, texts: list[str], tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model, texts)
    plain, zero = unsteered(model, tuple(texts)), logprobs_of(model, prompts, MAKERS[name](model, 0.0))
    for one, other in zip(plain, zero, strict=True):
        assert (one - other).abs().max() <= 1e-6
    strong = ms.score(model, prompts, [FOLLOWING] * len(prompts), steer=MAKERS[name](model, 1.0))
    assert (strong - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", BOTH)
def test_projecting_to_the_projection_that_is_there_is_unsteered(family: str, tiny: Callable) -> None:
    model, d = tiny(family), direction(tiny(family))
    prompt = prompts_of(model)[0]
    plain, seen = run(model, [prompt], [], fed=1)
    own = float(seen[d.site][0, -1] @ d.unit)
    at_last = ms.project(d, target=own, scope="last_prompt")
    after, _ = run(model, [prompt], at_last.hooks(prompt), fed=1)
    torch.testing.assert_close(after[:, -1].log_softmax(-1), plain[:, -1].log_softmax(-1), atol=1e-5, rtol=0)
    elsewhere, _ = run(model, [prompt], ms.project(d, target=own + 5, scope="last_prompt").hooks(prompt), fed=1)
    assert (elsewhere[:, -1] - plain[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", BOTH)
@examples(20)
@given(data=st.data(), texts=texts, strength=strengths)
def test_the_order_of_a_sum_does_not_matter_across_hook_points(
    family: str, data: Any, texts: list[str], strength: float, tiny: Callable
) -> None:
    model = tiny(family)
    one, two = (MAKERS[name](model, strength) for name in data.draw(st.sampled_from(apart(family))))
    prompts = prompts_of(model, texts)
    for forward, backward in zip(
        logprobs_of(model, prompts, one + two), logprobs_of(model, prompts, two + one), strict=True
    ):
        assert forward.equal(backward)


def apart(family: str) -> list[tuple[str, str]]:
    """Pairs of families that share no hook point (with grouped-query rotary attention, keys are scaled at rot_k)."""
    groups = [
        {"add", "add, generated", "project", "affine"},
        {"heads", "heads, generated", "heads, encoder", "heads, cross"},
        {"attention_bias", "pasta", "pasta, heads", "spotlight", "attention_bias, encoder"},
    ]
    if family == "llama-gqa":
        groups.append({"scale_keys", "scale_keys, generated"})
    names = [sorted(n for n in group if family == "t5" or n not in TWO_STACKS) for group in groups]
    return [(a, b) for i, first in enumerate(names) for second in names[i + 1 :] for a in first for b in second]


@pytest.mark.parametrize("family", BOTH)
@examples(15)
@given(data=st.data(), strength=strengths)
def test_a_sum_is_one_edit_after_the_other(family: str, data: Any, strength: float, tiny: Callable) -> None:
    """At one hook point, the sum's hooks equal the first's hooks nested around the second's; keys come first."""
    model, prompts = tiny(family), prompts_of(tiny(family))[:2]
    names = [name for model_family, name in cases(MAKERS) if model_family == family and name not in PASS_BY_PASS]
    drawn = sorted(data.draw(st.tuples(*[st.sampled_from(names)] * 2)), key=lambda name: "scale_keys" not in name)
    one, two = (MAKERS[name](model, strength) for name in drawn)
    fed = {"fed": 1}
    together, _ = run(model, prompts, (one + two).hooks(prompts), **fed)
    with model.hooks(fwd_hooks=one.hooks(prompts)):
        nested, _ = run(model, prompts, two.hooks(prompts), **fed)
    assert together.equal(nested)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("family", BOTH)
def test_adding_and_projecting_do_not_commute(family: str, tiny: Callable) -> None:
    model, d = tiny(family), direction(tiny(family))
    prompt = prompts_of(model)[0]
    shift, onto = ms.add(d, 5.0), project(model, 2.0)
    _, before = run(model, [prompt], [])
    _, added_last = run(model, [prompt], (onto + shift).hooks(prompt))
    _, projected_last = run(model, [prompt], (shift + onto).hooks(prompt))
    x = before[d.site]
    on_target = x + (2.0 - x @ d.unit)[..., None] * d.unit
    torch.testing.assert_close(projected_last[d.site], on_target, atol=1e-5, rtol=0)
    torch.testing.assert_close(added_last[d.site], on_target + 5.0 * d.unit, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", BOTH)
def test_biases_and_spotlight_do_not_commute(family: str, tiny: Callable) -> None:
    model, prompts = tiny(family), prompts_of(tiny(family))
    bias, spot = ms.attention_bias(delta=-4.0), ms.spotlight(target=0.5)
    one, two = logprobs_of(model, prompts, bias + spot)[1], logprobs_of(model, prompts, spot + bias)[1]
    assert (one - two).abs().max() > 1e-2


@pytest.mark.parametrize("family", BOTH)
def test_two_biases_are_one_of_their_sum(family: str, tiny: Callable) -> None:
    model, prompts = tiny(family), prompts_of(tiny(family))
    twice = logprobs_of(model, prompts, ms.attention_bias(delta=0.5) + ms.attention_bias(delta=1.25))
    once = logprobs_of(model, prompts, ms.attention_bias(delta=1.75))
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("family", "name"), cases(MAKERS))
def test_hooks_are_gone_after_an_error(family: str, name: str, tiny: Callable) -> None:
    model = tiny(family)

    def explode(edit: Edit, x: Tensor, where: Any) -> Tensor:
        raise RuntimeError("boom")

    last = ms.site(model, "resid_post", layer=-1)
    bomb = Intervention((Edit("bomb", last, Scope(), 1.0, explode),))
    steer = MAKERS[name](model, 0.5) + bomb
    for use in (lambda: ms.generate(model, "cat", steer=steer), lambda: steer.explain(model, "cat")):
        with pytest.raises((RuntimeError, ms.MechsteerError)):
            use()
        assert not any(point.fwd_hooks for point in model.hook_dict.values())
    with pytest.raises(RuntimeError, match="boom"):
        ms.generate(model, prompts_of(model), steer=steer, max_new_tokens=2)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize(("family", "name"), cases(GENERAL, TWO_STACKS, NO_ZERO))
def test_generating_inside_the_librarys_hooks_applies_both(family: str, name: str, tiny: Callable) -> None:
    model, prompt = tiny(family), prompts_of(tiny(family))[0]
    outer = ms.add(direction(model, layer=0), 6.0)
    inner = MAKERS[name](model, 0.7)
    expected = ms.generate(model, prompt, steer=outer + inner, max_new_tokens=NEW)
    with model.hooks(fwd_hooks=outer.hooks()):
        nested = ms.generate(model, prompt, steer=inner, max_new_tokens=NEW)
    assert nested.tokens.equal(expected.tokens)
    torch.testing.assert_close(nested.logprobs, expected.logprobs, atol=1e-4, rtol=0)
    assert not nested.logprobs.equal(ms.generate(model, prompt, steer=inner, max_new_tokens=NEW).logprobs)


ROWS: dict[str, Callable[[Any, list[int]], Intervention]] = {
    "add": lambda m, r: ms.add(direction(m), 8.0, rows=r),
    "project": lambda m, r: project(m, 3.0, rows=r),
    "affine": lambda m, r: ms.affine(affine_map(m), 4.0, rows=r),
    "heads": lambda m, r: ms.heads(direction(m, "z"), 2.0, rows=r),
    "attention_bias": lambda m, r: ms.attention_bias(delta=2.0, rows=r),
    "pasta": lambda m, r: ms.pasta(alpha=0.02, rows=r),
    "pasta, released": lambda m, r: ms.pasta(alpha=0.02, rows=r, compat="released"),
    "spotlight": lambda m, r: ms.spotlight(target=0.9, rows=r),
    "spotlight, released": lambda m, r: ms.spotlight(target=0.9, rows=r, compat="released"),
    "scale_keys": lambda m, r: ms.scale_keys(alpha=3.0, rows=r),
    "scale_keys, generated": lambda m, r: ms.scale_keys(alpha=3.0, rows=r, scope="generated"),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("family", BOTH)
def test_only_the_chosen_rows_are_steered(family: str, name: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model, ["the cat sat on mat", "one", "write red blue house in the dog .", "quote : ends"])
    some, every = ROWS[name](model, [1, 2]), ROWS[name](model, [0, 1, 2, 3])
    plain = ms.generate(model, prompts, max_new_tokens=NEW)
    full = ms.generate(model, prompts, steer=every, max_new_tokens=NEW)
    for batch_size in (1, 2, 4):
        out = ms.generate(model, prompts, steer=some, max_new_tokens=NEW, batch_size=batch_size)
        for place in range(4):
            expected = full if place in (1, 2) else plain
            assert rows(out)[place] == rows(expected)[place], batch_size
            assert same(row_logprobs(out)[place], row_logprobs(expected)[place]), batch_size
    assert any(not same(row_logprobs(full)[place], row_logprobs(plain)[place]) for place in (1, 2))


@pytest.mark.parametrize(("family", "name"), cases(GENERAL, TWO_STACKS, NO_ZERO))
def test_hooks_in_the_librarys_own_forward_equal_the_first_step_of_generate(
    family: str, name: str, tiny: Callable
) -> None:
    model, prompts = tiny(family), prompts_of(tiny(family))
    steer = MAKERS[name](model, 0.8)
    logits, _ = run(model, prompts, steer.hooks(prompts), fed=1)
    logprobs = logits[:, -1].log_softmax(-1)
    out = ms.generate(model, prompts, steer=steer, max_new_tokens=1)
    assert out.tokens[:, 0].equal(logprobs.argmax(-1))
    torch.testing.assert_close(out.logprobs[:, 0], logprobs.max(-1).values, atol=1e-3, rtol=0)
    plain, _ = run(model, prompts, [], fed=1)
    unmoved = "generated" in name or (is_encoder_decoder(model) and name == "add, generated")
    assert ((plain[:, -1].log_softmax(-1) - logprobs).abs().max() > 1e-2) != unmoved
