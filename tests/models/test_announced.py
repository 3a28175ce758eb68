"""A state announces the passes that are made of it, and so do its forks, copies and rearrangements."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mechsteer.models import (
    State,
    adopt,
    advance,
    first_tokens,
    fork,
    is_encoder_decoder,
    pad,
    rearrange,
    repeat_rows,
    residual,
    start,
)
from mechsteer.prompts import prompt


def one_more(state: State, model: Any, rows: int) -> None:
    advance(model, state, torch.full((rows, 1), 5), torch.ones((rows, 1), dtype=torch.bool))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_every_pass_is_announced_before_it_is_made(family: str, tiny: Callable) -> None:
    model, heard = tiny(family), []
    batch = pad(model, [prompt(model, "the cat sat"), prompt(model, "the cat")])
    state = start(model, batch.tokens, batch.mask)
    state.announce = lambda end, new: heard.append((end, new, state.length))
    tokens, mask = first_tokens(model, batch)
    first = tokens.shape[1]
    residual(model, state, tokens, mask)
    assert heard == [(first, first, 0)]
    one_more(fork(state), model, 2)
    repeated = repeat_rows(state, 3)
    one_more(repeated, model, 6)
    assert heard[1:] == [(first + 1, 1, first)] * 2
    one_more(adopt(state, repeated), model, 2)
    kept = rearrange(fork(state), torch.tensor([0]), first)
    one_more(kept, model, 1)
    assert [end for end, *_ in heard[3:]] == [first + 2, first + 1]
    assert is_encoder_decoder(model) == (first == 1)
