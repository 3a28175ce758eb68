"""A scope means the same positions however the sequence is cut, padded and batched."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.models import hooked
from mechsteer.prompts import Batch, Prompt
from mechsteer.steering import Scope, Step, make_scope
from mechsteer.steering.scope import _integers

NAMED = ["all", "prompt", "generated", "last_prompt", "span:a"]


def make_prompt(length: int, span: tuple[int, int]) -> Prompt:
    start, end = min(span[0], length - 1), min(span[1], length)
    return Prompt("x", torch.arange(length), {"a": [(start, max(end, start + 1))]})


@st.composite
def cases(draw: Any, new: tuple[int, ...] = (0, 0, 1, 2, 4)) -> dict[str, Any]:
    """What :func:`made` makes padded prompts, a scope, and a number of following tokens of."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    span = draw(st.tuples(st.integers(0, 4), st.integers(1, 6)))
    following = draw(st.sampled_from(new))
    side = "left" if following else draw(st.sampled_from(["left", "right"]))  # nothing can follow padding
    where = draw(
        st.just("all") | st.sampled_from(NAMED) | st.lists(st.integers(-4, 9), min_size=1, max_size=4).map(tuple)
    )
    rows = draw(st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple))
    return {"lengths": lengths, "span": span, "new": following, "side": side, "where": where, "rows": rows}


def made(case: dict[str, Any]) -> tuple[Batch, Scope, int]:
    prompts = [make_prompt(length, case["span"]) for length in case["lengths"]]
    return ms.batch(prompts, side=case["side"]), Scope(case["where"], case["rows"]), case["new"]


def wanted(scope: Scope, prompt: Prompt, length: int, position: int) -> bool:
    """Whether a position, counted from the prompt's first token, is in the scope: the definition, word for word."""
    if scope.where == "all":
        return True
    if scope.where == "prompt":
        return position < length
    if scope.where == "generated":
        return position >= length
    if scope.where == "last_prompt":
        return position == length - 1
    if scope.where == "span:a":
        return position in prompt.positions("a")
    return any(position == (p + length if p < 0 else p) for p in scope.where)


def reference(batch: Batch, scope: Scope, new: int) -> list[list[bool]]:
    """Decoder-only: the mask over prompts and new tokens, position by position."""
    mask = []
    for row, prompt in enumerate(batch.prompts):
        real = [*batch.mask[row].tolist(), *[True] * new]
        active = scope.rows is None or row in scope.rows
        mask.append(
            [
                active and real[i] and wanted(scope, prompt, len(prompt), i - batch.starts[row])
                for i in range(batch.length + new)
            ]
        )
    return mask


def as_mask(selection: Any, rows: int, count: int) -> list[list[bool]]:
    if isinstance(selection, bool):
        return [[selection] * count for _ in range(rows)]
    return selection.tolist()


@settings(max_examples=150)
@given(cases())
def test_a_whole_sequence_is_selected_as_defined(case: dict[str, Any]) -> None:
    batch, scope, new = made(case)
    total = batch.length + new
    expected = reference(batch, scope, new)
    assert as_mask(Step(batch).select(scope, "blocks", total), len(batch), total) == expected


@settings(max_examples=150)
@given(cases(), st.data())
def test_chunks_select_what_the_whole_sequence_selects(case: dict[str, Any], data: Any) -> None:
    batch, scope, new = made(case)
    total = batch.length + new
    cuts = data.draw(st.sets(st.integers(1, total - 1)) if total > 1 else st.just(set()))
    step, columns, begin = Step(batch), [[] for _ in batch.prompts], 0
    for end in [*sorted(cuts), total]:
        step.begin(end)
        chunk = as_mask(step.select(scope, "blocks", end - begin), len(batch), end - begin)
        columns = [left + right for left, right in zip(columns, chunk, strict=True)]
        begin = end
    assert columns == reference(batch, scope, new)


@settings(max_examples=60)
@given(cases(), st.data())
def test_rows_that_are_left_keep_their_own_selection(case: dict[str, Any], data: Any) -> None:
    batch, scope, new = made(case)
    alive = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, unique=True))
    step = Step(batch, alive=alive)
    step.begin(batch.length + new)
    expected = reference(batch, scope, new)
    total = batch.length + new
    assert as_mask(step.select(scope, "blocks", total), len(alive), total) == [expected[row] for row in alive]


@settings(max_examples=60)
@given(cases(), st.permutations([0, 1, 2, 3]))
def test_rows_are_the_places_in_the_callers_list(case: dict[str, Any], places: list[int]) -> None:
    batch, scope, new = made(case)
    index = places[: len(batch)]
    if scope.rows is not None:
        here = tuple(row for row, place in enumerate(index) if place in scope.rows)
    else:
        here = None
    total = batch.length + new
    moved = as_mask(Step(batch, index=index).select(scope, "blocks", total), len(batch), total)
    assert moved == reference(batch, Scope(scope.where, here), new)


@settings(max_examples=60)
@given(cases(new=(0,)))
def test_encoder_padding_is_never_selected(case: dict[str, Any]) -> None:
    batch, scope, _ = made(case)
    step = Step(batch, decoder_prefix=1)
    step.begin(3)  # the decoder's length says nothing about encoder positions
    if scope.where == "generated":
        expected = [[False] * batch.length for _ in batch.prompts]
    else:
        expected = reference(batch, scope, 0)
    assert as_mask(step.select(scope, "encoder", batch.length), len(batch), batch.length) == expected


@settings(max_examples=40)
@given(cases(), st.integers(1, 5))
def test_decoder_positions_count_from_the_start_token(case: dict[str, Any], total: int) -> None:
    batch, scope, _ = made(case)
    step, begin = Step(batch, decoder_prefix=1), 0
    if scope.where == "span:a":
        with pytest.raises(ms.MechsteerError, match="decoder positions have no spans"):
            Step(batch, decoder_prefix=1).select(Scope("span:a"), "decoder", total)
        return
    columns: list[list[bool]] = [[] for _ in batch.prompts]
    for end in range(1, total + 1):
        step.begin(end)
        chunk = as_mask(step.select(scope, "decoder", end - begin), len(batch), end - begin)
        columns = [left + right for left, right in zip(columns, chunk, strict=True)]
        begin = end
    one_token = make_prompt(1, (0, 1))
    expected = [
        [(scope.rows is None or row in scope.rows) and wanted(scope, one_token, 1, i) for i in range(total)]
        for row in range(len(batch))
    ]
    assert columns == expected
    assert as_mask(Step(batch, decoder_prefix=1).select(scope, "decoder", total), len(batch), total) == expected


def test_a_span_that_a_prompt_does_not_have_is_refused() -> None:
    step = Step(ms.batch([make_prompt(3, (0, 1))], side="left"))
    with pytest.raises(ms.MechsteerError, match="Unknown span"):
        step.select(Scope("span:b"), "blocks", 3)


@pytest.mark.parametrize("where", ["everything", "span", "span:", "last"])
def test_an_unknown_scope_is_refused(where: str) -> None:
    with pytest.raises(ms.MechsteerError, match=f"Unknown scope '{where}'"):
        make_scope(where)


@pytest.mark.parametrize(("where", "rows"), [([], None), ([True], None), ("all", []), ("all", [False])])
def test_positions_and_rows_are_integers(where: Any, rows: Any) -> None:
    with pytest.raises(ms.MechsteerError, match="must name integers"):
        make_scope(where, rows)


def test_scopes_read_as_what_they_mean() -> None:
    assert str(make_scope([0, -1], rows=[2])) == "[0, -1] of rows [2]" and str(make_scope("prompt")) == "prompt"


def test_rows_may_be_numpy_or_torch_integers() -> None:
    assert _integers("rows", np.array([0, 2])) == _integers("rows", torch.tensor([0, 2])) == (0, 2)


@pytest.mark.parametrize("wrong", [[], [True], [1.5], ["a"], np.array([0.5])])
def test_what_is_no_integer_is_refused(wrong: Any) -> None:
    with pytest.raises(ms.MechsteerError, match=r"rows must name integers, e\.g\. \[0, 3\], got"):
        _integers("rows", wrong)


@pytest.mark.parametrize("scope", ["all", "generated"])
def test_rows_of_prompts_that_are_not_there_are_refused(scope: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(ms.random_direction(model, layer=1, seed=0), 4.0, scope=scope, rows=[0, 2, -1])
    texts = ["the cat sat", "a dog"]
    for use in (
        lambda: ms.generate(model, texts, steer=steer, max_new_tokens=2),
        lambda: ms.score(model, texts, ["cat"] * 2, steer=steer),
        lambda: steer.hooks([ms.prompt(model, text) for text in texts]),
    ):
        with pytest.raises(ms.MechsteerError, match=r"add at .* in \[2, -1\]: there are 2 prompts, rows 0 to 1"):
            use()
    with pytest.raises(ms.MechsteerError, match=r"met no position in \[2, -1\]: there is one prompt, row 0"):
        ms.generate(model, texts[0], steer=steer, max_new_tokens=2)


def test_no_generated_token_is_in_an_encoder(tiny: Callable) -> None:
    model = tiny("t5")
    prompt = ms.prompt(model, "the cat sat", instruction="answer in capitals")
    inside = ms.random_direction(model, site=ms.site(model, "resid_post", 0, stack="encoder"), seed=0)
    keys = ms.random_direction(model, site=ms.site(model, "cross_k", 0), seed=0)
    for steer in (
        ms.attention_bias(delta=2.0, at="encoder", scope="generated"),
        ms.add(inside, 2.0, scope="generated"),
        ms.add(keys, 2.0, scope="generated"),
    ):
        with pytest.raises(ms.MechsteerError, match="would never act: its scope is 'generated', but the encoder"):
            ms.generate(model, prompt, steer=steer, max_new_tokens=2)
    ms.attention_bias(delta=2.0, at="both", scope="generated").check(model)  # it acts in cross-attention


@pytest.mark.parametrize("where", [(3, 3), (2, 1)])
def test_an_empty_span_is_no_place_to_steer(where: tuple[int, int], tiny: Callable) -> None:
    model = tiny("llama-gqa")
    full = ms.prompt(model, "the cat sat", instruction="answer in capitals")
    empty = Prompt(full.text, full.tokens, {"instruction": [where]})
    for steer in (
        ms.attention_bias(delta=2.0),
        ms.scale_keys(alpha=2.0),
        ms.add(ms.random_direction(model, layer=1, seed=0), 4.0, scope="span:instruction"),
    ):
        with pytest.raises(ms.MechsteerError, match=r"The span 'instruction' of .* is empty"):
            ms.generate(model, [full, empty], steer=steer, max_new_tokens=2)
    one = Prompt("the", torch.tensor([4]), {})  # all of it is the first token, which "content" leaves out
    ms.generate(model, one, steer=ms.attention_bias("content", 2.0), max_new_tokens=1)


def test_a_prompt_without_tokens_is_refused(tiny: Callable) -> None:
    nothing = Prompt("", torch.tensor([], dtype=torch.long), {})
    for prompts in ([nothing], [ms.prompt(tiny("llama-gqa"), "a cat"), nothing]):
        with pytest.raises(ms.MechsteerError, match=f"Prompt {len(prompts) - 1} of {len(prompts)} has no tokens"):
            ms.generate(tiny("llama-gqa"), prompts, max_new_tokens=1)


@pytest.mark.parametrize("run", [ms.generate, lambda m, p, **o: ms.score(m, p, " dog", **o)], ids=["generate", "score"])
def test_a_span_that_one_prompt_lacks_is_said_before_anything_is_run(run: Any, tiny: Callable) -> None:
    model, passes = tiny("llama-gqa"), []
    prompts = [ms.prompt(model, "the cat", instruction="answer"), ms.prompt(model, "the dog sat on the mat")]
    seen = [("blocks.0.hook_resid_pre", lambda x, hook: passes.append(1))]
    added = ms.add(ms.random_direction(model, layer=1, seed=0), 4.0, scope="span:instruction")
    for steer in (ms.attention_bias(delta=1.0), added):
        with hooked(model, seen), pytest.raises(ms.MechsteerError, match=r"Unknown span .*the mat.*To mark it"):
            run(model, prompts, steer=steer, batch_size=1)
        assert not passes
    gates = ms.Directer(), ms.Gated([ms.attention_bias(delta=1.0)]), ms.Directer(beta=[0.5], span="task")
    for gate in gates if run is ms.generate else ():
        with hooked(model, seen), pytest.raises(ms.MechsteerError, match=r"Unknown span .*the mat|more prompts than"):
            run(model, prompts, strategy=gate, batch_size=1)
        assert not passes
    mine = ms.attention_bias(delta=1.0, rows=[0])
    run(model, prompts, steer=mine, batch_size=1)
