"""What a batch has computed so far: cached keys and values, and for T5 the encoder's output."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Part = tuple[Float[Tensor, "_ kv_heads _ d_head"], Float[Tensor, "_ kv_heads _ d_head"]]
"""Keys and values of some positions; rows that are repeated share them."""


@dataclass
class KeyValues:
    """One layer's keys (after a rotary embedding) and values so far.

    Heads come before positions, the layout of the attention's matrix products, so that a step does not copy the whole
    cache for them. Nothing is written in place, so a shallow copy is a fork.

    Attributes:
        keys: Of each row, also when its copies go through the next pass.
        values: The same.
        times: How many copies of each row go through the next pass, side by side. If several, what the pass adds is
            kept apart in ``new``.
        new: Keys and values of the copies' new token, once such a pass has come here.
        order: Which rows go through the next pass, in one copy; None for all. After it they are the entry's rows.
    """

    keys: Float[Tensor, "batch heads pos d_head"]
    values: Float[Tensor, "batch heads pos d_head"]
    times: int = 1
    new: tuple[Float[Tensor, "copies 1 heads d_head"], Float[Tensor, "copies 1 heads d_head"]] | None = None
    order: Int[Tensor, "ordered"] | None = None

    @property
    def rows(self) -> int:
        """How many rows go through the next pass, copies counted."""
        return (self.keys if self.order is None else self.order).shape[0] * self.times

    @property
    def past_keys(self) -> Float[Tensor, "copies pos heads d_head"]:
        """The keys, by the name and in the order of the library's cache entry."""
        keys = self.keys if self.order is None else self.keys[self.order]
        return repeat(keys, self.times).transpose(1, 2)

    def append(
        self, new_keys: Float[Tensor, "copies new heads d_head"], new_values: Float[Tensor, "copies new heads d_head"]
    ) -> tuple[Float[Tensor, "copies total heads d_head"], Float[Tensor, "copies total heads d_head"]]:
        """Add the new positions and return all, as the library's cache entry does; copies of a row in full."""
        keys = _joined(repeat(self.keys, self.times), new_keys, self.order)
        values = _joined(repeat(self.values, self.times), new_values, self.order)
        self.order = None
        if self.times > 1:
            self.new = (new_keys, new_values)
        else:
            self.keys, self.values = keys, values
        return keys.transpose(1, 2), values.transpose(1, 2)

    def extended(
        self, new_keys: Float[Tensor, "copies new heads d_head"], new_values: Float[Tensor, "copies new heads d_head"]
    ) -> list[Part]:
        """Add the new positions and return all in parts; copies of a row share the part that they had before."""
        if self.times == 1:
            self.append(new_keys, new_values)
            return [(self.keys, self.values)]
        self.new = (new_keys, new_values)
        return [(self.keys, self.values), (new_keys.transpose(1, 2), new_values.transpose(1, 2))]


def _joined(
    past: Float[Tensor, "_ heads pos d_head"],
    new: Float[Tensor, "batch new heads d_head"],
    order: Int[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch heads total d_head"]:
    if order is None or past.device.type != "cpu":
        return torch.cat([past if order is None else past[order], new.transpose(1, 2)], dim=2)
    _, heads, length, size = past.shape
    joined = past.new_empty((len(order), heads, length + new.shape[1], size))
    torch.index_select(past, 0, order, out=joined[:, :, :length])  # straight to its place: the cache is copied once
    joined[:, :, length:] = new.transpose(1, 2)
    return joined


def rows_of_each(x: Tensor, of: Sequence[Any]) -> Sequence[Tensor]:
    """The rows that belong to each entry or state; where there is one, nothing is cut, which would take time."""
    return (x,) if len(of) < 2 else x.split([one.rows for one in of])


@dataclass
class CrossEntry:
    """One decoder layer's keys and values of the encoder's output."""

    keys: Float[Tensor, "batch heads encoder_pos d_head"]
    values: Float[Tensor, "batch heads encoder_pos d_head"]


def _unannounced(end: int, new: int) -> None:
    """Nobody listens."""


@dataclass
class State:
    """What a batch has computed so far.

    Attributes:
        cache: One entry for each layer of the stack that predicts.
        length: How many positions have gone through that stack.
        seen: Which of those positions are real tokens; on the CPU. None before the first pass, and in a decoder all of
            whose rows began together.
        encoded: T5: the normalised output of the encoder.
        cross_mask: T5: 0 at real and a very large negative number at padded encoder positions.
        cross: T5: keys and values of each decoder layer's cross-attention; empty before the first pass.
        copies: How often each row stands in the next pass; the cross entries hold it once.
        announce: Called before every pass with how many positions there will be after it, and how many are its own;
            forks and rearrangements announce to the same listener.
    """

    cache: list[KeyValues]
    length: int = 0
    seen: Bool[Tensor, "batch pos"] | None = None
    encoded: Float[Tensor, "batch encoder_pos d_model"] | None = None
    cross_mask: Float[Tensor, "batch 1 1 encoder_pos"] | None = None
    cross: list[CrossEntry] = field(default_factory=list)
    copies: int = 1
    announce: Callable[[int, int], object] = _unannounced

    @property
    def rows(self) -> int:
        """How many rows go through the next pass, copies counted."""
        return self.cache[0].rows


def empty(model: Any, rows: int, device: torch.device) -> KeyValues:
    """An entry without positions."""
    cfg = model.cfg
    nothing = torch.empty((rows, cfg.n_key_value_heads or cfg.n_heads, 0, cfg.d_head), device=device, dtype=cfg.dtype)
    return KeyValues(nothing, nothing)


def select_rows(state: State, rows: Int[Tensor, "kept"]) -> State:
    """The state of some of the rows; ``state`` stays as it is."""
    chosen = fork(state)
    chosen.cache = [KeyValues(entry.keys[rows], entry.values[rows]) for entry in state.cache]
    if state.seen is not None:
        chosen.seen = state.seen[rows.cpu()]
    if state.encoded is not None and state.cross_mask is not None:
        chosen.encoded, chosen.cross_mask = state.encoded[rows], state.cross_mask[rows]
        chosen.cross = [CrossEntry(entry.keys[rows], entry.values[rows]) for entry in state.cross]
    return chosen


def rearrange(state: State, kept: Int[Tensor, "kept"], length: int, other: State | None = None) -> State:
    """Some of the rows, and below them the rows of another state, with their last positions side by side.

    Args:
        state: Used up, layer by layer, so that no two whole caches are held.
        kept: Which of its rows.
        length: How many of the last positions to keep: those of the longest row. Shorter states are padded in front.
        other: The other state; used up as well.
    """
    others = [] if other is None else [other]
    seen = [_seen(state)[kept.cpu()], *(_seen(one) for one in others)]
    made = replace(state, cache=[], cross=[], length=length)
    for layer, entry in enumerate(state.cache):
        pairs = [(entry.keys[kept, :, -length:], entry.values[kept, :, -length:])]
        pairs += [(one.cache[layer].keys, one.cache[layer].values) for one in others]
        keys, values = (_together(x, length, front=True) for x in zip(*pairs, strict=True))
        made.cache.append(KeyValues(keys, values))
        for used in (state, *others):
            used.cache[layer] = KeyValues(entry.keys[:0], entry.values[:0])
    made.seen = _together([x[:, -length:] for x in seen], length, front=True, dim=1)
    if state.encoded is not None:
        _rearrange_encoded(made, state, kept, other)
    return made


def _rearrange_encoded(made: State, state: State, kept: Int[Tensor, "kept"], other: State | None) -> None:
    parts = [select_rows(replace(state, cache=[], seen=None), kept), *([] if other is None else [other])]
    masks = [part.cross_mask for part in parts if part.cross_mask is not None]
    hidden = float(torch.finfo(masks[0].dtype).min)
    width = max(int((mask > hidden).sum(-1).max()) for mask in masks)
    made.cross_mask = _together([m[..., :width] for m in masks], width, dim=3, fill=hidden)
    made.encoded = _together([p.encoded[:, :width] for p in parts if p.encoded is not None], width, dim=1)
    for entries in zip(*(part.cross for part in parts), strict=True):
        pairs = zip(*((e.keys[:, :, :width], e.values[:, :, :width]) for e in entries), strict=True)
        made.cross.append(CrossEntry(*(_together(x, width) for x in pairs)))


def _seen(state: State) -> Bool[Tensor, "batch pos"]:
    if state.seen is not None:
        return state.seen
    return torch.ones((len(state.cache[0].keys), state.length), dtype=torch.bool)


def _together(parts: Sequence[Tensor], length: int, *, front: bool = False, dim: int = 2, fill: float = 0.0) -> Tensor:
    """All rows, with one dimension padded to a length at its front or its end."""
    padded = []
    for x in parts:
        sides = [0, 0] * (x.ndim - 1 - dim) + ([length - x.shape[dim], 0] if front else [0, length - x.shape[dim]])
        padded.append(F.pad(x, sides, value=fill) if x.shape[dim] < length else x)
    return torch.cat(padded)


def fork(state: State) -> State:
    """A state that can be advanced without changing ``state``; nothing is copied."""
    return replace(state, cache=[copy(entry) for entry in state.cache], cross=list(state.cross))


def repeat_rows(state: State, times: int) -> State:
    """A state for one pass of one token in which every row stands ``times`` times, copies side by side.

    Nothing is copied: the copies share the keys and values of their row.

    Args:
        state: Stays as it is. An encoder-decoder's must have been advanced before.
        times: How often each row is wanted.
    """
    repeated = replace(fork(state), copies=times)
    for entry in repeated.cache:
        entry.times = times
    if state.seen is not None:
        repeated.seen = repeat(state.seen, times)
    if state.cross_mask is not None:
        repeated.cross_mask = repeat(state.cross_mask, times)
    return repeated


def ordered_rows(state: State, rows: Int[Tensor, "ordered"]) -> State:
    """A state for one pass in which these rows stand, some of them perhaps several times; after it they are its rows.

    What :func:`select_rows` and the pass give, with one copy of keys and values less.

    Args:
        state: Stays as it is.
        rows: Which of its rows, on the device of the cache.
    """
    ordered = select_rows(replace(state, cache=[]), rows)
    ordered.cache = [KeyValues(entry.keys, entry.values, order=rows) for entry in state.cache]
    return ordered


def before_last(state: State) -> State:
    """The state before its last position went through; nothing is copied."""
    seen = None if state.seen is None else state.seen[:, :-1]
    earlier = replace(fork(state), length=state.length - 1, seen=seen)
    earlier.cache = [KeyValues(entry.keys[:, :, :-1], entry.values[:, :, :-1]) for entry in state.cache]
    return earlier


def last_position(state: State) -> Float[Tensor, "layers 2 rows kv_heads d_head"]:
    """The keys and values of the position that has just gone through, of every copy."""
    kept = [
        (e.keys[:, :, -1], e.values[:, :, -1]) if e.new is None else (e.new[0][:, 0], e.new[1][:, 0])
        for e in state.cache
    ]
    return torch.stack([torch.stack(pair) for pair in kept])


def extend(state: State, new: Float[Tensor, "layers 2 rows kv_heads d_head"]) -> None:
    """One more position, from what :func:`last_position` took of the same rows elsewhere."""
    for entry, (keys, values) in zip(state.cache, new, strict=True):
        entry.append(keys[:, None], values[:, None])
    state.length += 1
    if state.seen is not None:
        state.seen = F.pad(state.seen, (0, 1), value=True)


def adopt(state: State, repeated: State, copy_: int = 0) -> State:
    """The state after what one copy of every row computed in the pass of :func:`repeat_rows`.

    Args:
        state: What was repeated; stays as it is.
        repeated: The repeated state, after its pass.
        copy_: Which of the copies.
    """
    if repeated.copies == 1:
        return repeated
    adopted = fork(state)
    adopted.length = repeated.length
    for entry, done in zip(adopted.cache, repeated.cache, strict=True):
        if done.new is not None:
            entry.append(*(x[copy_ :: repeated.copies] for x in done.new))
    if repeated.seen is not None:
        adopted.seen = repeated.seen[copy_ :: repeated.copies]
    return adopted


def repeat(x: Tensor, times: int) -> Tensor:
    """Each row ``times`` times, side by side; the same tensor for once."""
    return x if times == 1 else x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)
