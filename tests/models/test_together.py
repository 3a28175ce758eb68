"""Several states in one pass give what each gives alone; and a state's last position can be taken off and put on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechsteer.models import (
    State,
    advance,
    advance_together,
    before_last,
    extend,
    first_tokens,
    fork,
    is_encoder_decoder,
    last_position,
    ordered_rows,
    pad,
    repeat_rows,
    select_rows,
    start,
)
from mechsteer.models.mlp import apply_mlp
from tests.decoding.test_directer import prompts_of

FAMILIES = ["gpt2", "llama-gqa", "mistral", "gemma2", "t5", "t5-gated"]


def read(model: Any, count: int, seed: int, steps: int) -> State:
    """The state of some padded prompts, some tokens further."""
    batch = pad(model, prompts_of(model, count, seed))
    state = start(model, batch.tokens, batch.mask)
    advance(model, state, *first_tokens(model, batch))
    for step in range(steps):
        advance(model, state, *token(count, 5 + step))
    return state


def token(rows: int, first: int) -> tuple[Tensor, Tensor]:
    tokens = torch.arange(first, first + rows)[:, None]
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_states_at_different_positions_share_a_pass(family: str, tiny: Callable) -> None:
    model = tiny(family)
    one, other, alone = read(model, 3, 0, 1), read(model, 2, 1, 5), read(model, 1, 2, 0)
    states = [repeat_rows(one, 2), fork(other), fork(alone)]
    tokens = [token(state.rows, 7 + i)[0] for i, state in enumerate(states)]
    expected, kept = [], []
    for state, ids in zip([repeat_rows(one, 2), fork(other), fork(alone)], tokens, strict=True):
        expected.append(advance(model, state, ids, torch.ones_like(ids, dtype=torch.bool))[:, -1])
        kept.append(state)
    found = advance_together(model, states, tokens)
    for logits, wanted, state, same in zip(found, expected, states, kept, strict=True):
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
        assert state.length == same.length
        assert (state.seen is None) == (same.seen is None)
        torch.testing.assert_close(last_position(state), last_position(same), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_inside_attention_are_the_first_states_alone(family: str, tiny: Callable) -> None:
    model = tiny(family)
    one, other = read(model, 2, 0, 1), read(model, 3, 1, 2)
    name = "decoder.0.cross_attn" if is_encoder_decoder(model) else "blocks.0.attn"
    seen: list[int] = []
    with model.hooks(fwd_hooks=[(f"{name}.hook_attn_scores", lambda x, hook: seen.append(x.shape[0]))]):
        advance_together(model, [one, other], [token(2, 5)[0], token(3, 5)[0]])
    assert seen == [2]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_in_an_order_of_their_own(family: str, tiny: Callable) -> None:
    model = tiny(family)
    before = read(model, 3, 0, 1)
    order, ids = torch.tensor([2, 0, 0, 1, 2]), token(5, 7)
    chosen, ordered = select_rows(before, order), ordered_rows(before, order)
    assert ordered.rows == 5
    for _ in range(2):  # afterwards it is a state like any other
        wanted = advance(model, chosen, *ids)
        torch.testing.assert_close(advance(model, ordered, *ids), wanted, atol=0, rtol=0)
    torch.testing.assert_close(last_position(ordered), last_position(chosen), atol=0, rtol=0)
    assert before.rows == 3  # and what it was made of stays as it was


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_position_comes_off_and_on(family: str, tiny: Callable) -> None:
    model = tiny(family)
    before = read(model, 3, 0, 1)
    after = fork(before)
    advance(model, after, *token(3, 9))
    off = before_last(after)
    assert off.length == before.length
    extend(off, last_position(after))
    assert off.length == after.length
    wanted, found = (advance(model, state, *token(3, 11)) for state in (after, off))
    assert torch.equal(found, wanted)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "gpt2"])
@pytest.mark.parametrize("rows", [1, 3, 7, 9])
def test_the_mlp_of_few_rows_is_the_librarys(family: str, rows: int, tiny: Callable) -> None:
    model = tiny(family)
    x = torch.randn(rows, 1, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    seen: dict[str, list[Tensor]] = {}
    names = [n for n in model.hook_dict if n.startswith("blocks.1.") and ("mlp" in n or "ln2_post" in n)]
    hooks = [(n, lambda x, hook: seen.setdefault(hook.name, []).append(x.clone())) for n in names]
    with model.hooks(fwd_hooks=hooks):
        outputs = [apply_mlp(model.blocks[1], x), model.blocks[1].apply_mlp(x)]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    assert seen
    for name, pair in seen.items():
        assert len(pair) == 2, name
        torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)
