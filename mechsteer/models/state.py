"""What a batch has computed so far: cached keys and values, and for T5 the encoder's output."""

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class KeyValues:
    """One layer's keys and values so far, with the interface of the library's cache entry.

    In memory heads come before positions, the layout of the attention's matrix products, so that a step does not copy
    the whole cache for them; the library sees ``[batch, pos, heads, d_head]``.
    """

    past_keys: Float[Tensor, "batch pos heads d_head"]
    past_values: Float[Tensor, "batch pos heads d_head"]
    frozen: bool = False

    def append(
        self, new_keys: Float[Tensor, "batch new heads d_head"], new_values: Float[Tensor, "batch new heads d_head"]
    ) -> tuple[Float[Tensor, "batch total heads d_head"], Float[Tensor, "batch total heads d_head"]]:
        """Add the new positions and return all; frozen entries do not keep the new ones.

        Nothing is written in place, so a shallow copy is a fork.
        """
        keys, values = _joined(self.past_keys, new_keys), _joined(self.past_values, new_values)
        if not self.frozen:
            self.past_keys, self.past_values = keys, values
        return keys, values


def _joined(
    past: Float[Tensor, "batch pos heads d_head"], new: Float[Tensor, "batch new heads d_head"]
) -> Float[Tensor, "batch total heads d_head"]:
    return torch.cat([past.transpose(1, 2), new.transpose(1, 2)], dim=2).transpose(1, 2)


@dataclass
class CrossEntry:
    """One decoder layer's keys and values of the encoder's output, in the layout that the matrix products want."""

    keys: Float[Tensor, "batch heads d_head encoder_pos"]
    values: Float[Tensor, "batch heads encoder_pos d_head"]


@dataclass
class State:
    """What a batch has computed so far.

    Attributes:
        cache: The library's cache (decoder-only) or one cache entry for each decoder layer (T5).
        length: How many positions have gone through the predicting stack.
        encoded: T5: the normalised output of the encoder.
        cross_mask: T5: 0 at real and a very large negative number at padded encoder positions.
        cross: T5: keys and values of each decoder layer's cross-attention; empty before the first pass.
    """

    cache: Any
    length: int = 0
    encoded: Float[Tensor, "batch encoder_pos d_model"] | None = None
    cross_mask: Float[Tensor, "batch 1 1 encoder_pos"] | None = None
    cross: list[CrossEntry] = field(default_factory=list)


def empty(model: Any, rows: int, device: torch.device) -> KeyValues:
    """An entry without positions."""
    cfg = model.cfg
    nothing = torch.empty((rows, 0, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head), device=device, dtype=cfg.dtype)
    return KeyValues(nothing, nothing)


def select_rows(state: State, rows: Int[Tensor, "kept"]) -> State:
    """The state of some of the rows (to stop computing finished ones)."""
    entries = state.cache if isinstance(state.cache, list) else state.cache.entries
    for entry in entries:
        entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]
    if not isinstance(state.cache, list):
        state.cache.previous_attention_mask = state.cache.previous_attention_mask[rows]
    if state.encoded is not None and state.cross_mask is not None:
        state.encoded, state.cross_mask = state.encoded[rows], state.cross_mask[rows]
        state.cross = [CrossEntry(entry.keys[rows], entry.values[rows]) for entry in state.cross]
    return state


def fork(state: State) -> State:
    """A state that can be advanced without changing ``state``; nothing is copied."""
    if isinstance(state.cache, list):
        cache: Any = [copy(entry) for entry in state.cache]
    else:
        cache = replace(state.cache, entries=[copy(entry) for entry in state.cache.entries])
    return replace(state, cache=cache, cross=list(state.cross))


def repeat_rows(state: State, times: int) -> State:
    """A state for one pass in which every row stands ``times`` times, copies side by side.

    A single row is not copied but shared, and the pass does not keep its keys and values: memory holds the repeated
    ones of one layer at a time.

    Args:
        state: Stays as it is. An encoder-decoder's should have been advanced before, or the keys and values of its
            cross-attention are computed ``times`` times.
        times: How often each row is wanted.
    """
    repeated = fork(state)
    entries = repeated.cache if isinstance(repeated.cache, list) else repeated.cache.entries
    for entry in entries:
        entry.past_keys, entry.past_values = _repeat(entry.past_keys, times), _repeat(entry.past_values, times)
        entry.frozen = True
    if not isinstance(repeated.cache, list):
        repeated.cache.previous_attention_mask = _repeat(repeated.cache.previous_attention_mask, times)
    if repeated.encoded is not None and repeated.cross_mask is not None:
        repeated.encoded, repeated.cross_mask = _repeat(repeated.encoded, times), _repeat(repeated.cross_mask, times)
    repeated.cross = [CrossEntry(_repeat(entry.keys, times), _repeat(entry.values, times)) for entry in state.cross]
    return repeated


def _repeat(x: Tensor, times: int) -> Tensor:
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)
