"""The state of a batch can be forked and cut down, and says when it is full."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import State, advance, fork, hooked, is_encoder_decoder, repeat_rows, select_rows, start, unembed

FAMILIES = ["llama-gqa", "gemma2", "t5"]
TOKENS = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12], [0, 13, 14, 15, 16]])
MASK = TOKENS != 0


def begin(model: Any) -> tuple[State, Tensor, Tensor]:
    """The state, and what the predicting stack is fed first."""
    state = start(model, TOKENS, MASK)
    if is_encoder_decoder(model):
        fed = torch.tensor([[0, 5], [0, 6], [0, 7]])
        return state, fed, torch.ones_like(fed, dtype=torch.bool)
    return state, TOKENS, MASK


def column(*tokens: int) -> tuple[Tensor, Tensor]:
    fed = torch.tensor(tokens)[:, None]
    return fed, torch.ones_like(fed, dtype=torch.bool)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("when", ["before the first pass", "after it"])
def test_advancing_a_fork_leaves_the_state_alone(family: str, when: str, tiny: Callable) -> None:
    model = tiny(family)
    state, fed, mask = begin(model)
    straight, _, _ = begin(model)
    if when == "after it":
        advance(model, state, fed, mask)
        advance(model, straight, fed, mask)
        fed, mask = column(5, 6, 7)
    branch = fork(state)
    one = advance(model, branch, fed, mask)
    advance(model, branch, *column(20, 21, 22))
    assert branch.length == state.length + fed.shape[1] + 1
    assert when == "after it" or not state.cross  # its own first pass still has to make them, hooks and all
    assert advance(model, state, fed, mask).equal(one)
    assert one.equal(advance(model, straight, fed, mask))
    assert state.length == straight.length


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_kept_go_on_as_if_alone(family: str, tiny: Callable) -> None:
    model = tiny(family)
    state, fed, mask = begin(model)
    advance(model, state, fed, mask)
    whole = advance(model, fork(state), *column(5, 6, 7))
    kept = advance(model, select_rows(state, torch.tensor([2, 0])), *column(7, 5))
    torch.testing.assert_close(kept, whole[[2, 0]], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", *FAMILIES])
def test_repeated_rows_are_copies_side_by_side_and_leave_the_state_alone(family: str, tiny: Callable) -> None:
    model = tiny(family)
    state, fed, mask = begin(model)
    advance(model, state, fed, mask)
    three = repeat_rows(state, 3)
    repeated = advance(model, three, *column(5, 5, 5, 6, 6, 6, 7, 7, 7))
    once = advance(model, fork(state), *column(5, 6, 7))
    torch.testing.assert_close(repeated, once.repeat_interleave(3, 0), atol=1e-4, rtol=1e-4)
    assert {entry.past_keys.shape[1] for entry in three.cache} == {fed.shape[1]}
    torch.testing.assert_close(advance(model, state, *column(5, 6, 7)), once)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_repeated_without_a_copy(family: str, tiny: Callable) -> None:
    model = tiny(family)
    state, fed, mask = begin(model)
    advance(model, state, fed, mask)
    one = select_rows(state, torch.tensor([1]))
    four = repeat_rows(one, 4)
    assert all(a.keys is b.keys and a.values is b.values for a, b in zip(one.cache, four.cache, strict=True))
    assert [entry.keys.data_ptr() for entry in one.cross] == [entry.keys.data_ptr() for entry in four.cross]


def test_hooks_put_first_run_before_those_on_the_model(tiny: Callable) -> None:
    model, seen = tiny("llama-gqa"), []
    site = "blocks.0.hook_resid_pre"
    with (
        hooked(model, [(site, lambda x, hook: seen.append("on the model"))]),
        hooked(model, [(site, lambda x, hook: seen.append("first"))], first=True),
    ):
        model(TOKENS)
    model(TOKENS)
    assert seen == ["first", "on the model"]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_logits_are_the_last_of_all(family: str, tiny: Callable) -> None:
    model = tiny(family)
    one, fed, mask = begin(model)
    two, _, _ = begin(model)
    last = advance(model, one, fed, mask)
    every = advance(model, two, fed, mask, logits_at="all")
    assert last.shape[1] == 1 and every.shape[1] == fed.shape[1]
    torch.testing.assert_close(last, every[:, -1:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "t5", "t5-gated"])
def test_unembed_reads_the_last_residual_stream(family: str, tiny: Callable) -> None:
    model = tiny(family)
    state, fed, mask = begin(model)
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        seen["resid"] = x

    with model.hooks(fwd_hooks=[(ms.site(model, "resid_post", layer=-1), keep)]):
        logits = advance(model, state, fed, mask, logits_at="all")
    assert unembed(model, seen["resid"]).equal(logits)


def test_positions_beyond_the_context_are_refused(tiny: Callable) -> None:
    model = tiny("gpt2")
    tokens = torch.full((1, model.cfg.n_ctx), 5)
    state = start(model, tokens, tokens > 0)
    advance(model, state, tokens, tokens > 0)
    with pytest.raises(ms.MechsteerError, match="129 positions do not fit: this model's context has 128"):
        advance(model, state, *column(5))
