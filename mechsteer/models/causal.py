"""The blocks of a decoder-only model, run against cached keys and values.

As in the library's own forward, hook point by hook point, but: keys are cached after their rotary embedding, so that a
step rotates one position and not all; query heads share their key-value head without copies of it; the norm before
attention runs, and fires, once and not for queries, keys and values each; and a step without padding needs no mask.

Where a family's blocks differ: the norms may stand after attention and MLP instead of before them (OLMo 2 and 3), or on
both sides (Gemma 2 and 3); attention and MLP may read the same stream side by side (GPT-J, GPT-NeoX, Phi-2), and then
there is no ``resid_mid``; and layers may have rotary embeddings of their own.

Rows that stand at different positions, as states of their own, can share a pass: they are one batch but for attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.models.attention import Mask, attend
from mechsteer.models.heads import normalised, output, post_norm, queries_keys_values
from mechsteer.models.mlp import apply_mlp
from mechsteer.models.state import KeyValues, State, rows_of_each

Rotation = tuple[Float[Tensor, "batch new 1 rotary"], Float[Tensor, "batch new 1 rotary"]]


@dataclass(frozen=True)
class Positions:
    """Where the new positions of a pass stand; the same for all layers.

    Attributes:
        rotations: Cosines and sines of their rotary embedding, by the ``id`` of the table that they are from, since
            layers may have different ones; empty without rotary embeddings.
        masks: Of each state, for ``"global"`` and for ``"local"`` (sliding-window) attention.
    """

    rotations: dict[int, Rotation]
    masks: Sequence[dict[str, Mask]]


def run_blocks(
    model: Any,
    states: Sequence[State],
    tokens: Int[Tensor, "batch new"],
    mask: Bool[Tensor, "batch new"],
    layers: int | None,
) -> Float[Tensor, "batch new d_model"]:
    """The residual stream after the first ``layers`` blocks, before the final norm; the states get what is new.

    Of several states the rows stand below each other, and the hook points inside attention fire for the first alone.
    """
    sizes = [state.rows for state in states]
    seen = []
    for state, part in zip(states, mask.cpu().split(sizes), strict=True):
        state.seen = part if state.seen is None else torch.cat([state.seen, part], dim=1)
        seen.append(state.seen)
    resid = model.hook_embed(model.embed(tokens))
    if model.cfg.positional_embedding_type == "standard":
        parts = zip(tokens.split(sizes), states, seen, strict=True)
        embedded = [model.pos_embed(part, state.length, real.int().to(part.device)) for part, state, real in parts]
        resid = resid + model.hook_pos_embed(torch.cat(embedded))
    positions = _positions(model, seen, [state.length for state in states])
    for layer, block in enumerate(model.blocks[:layers]):
        resid = _block(block, resid, [state.cache[layer] for state in states], positions)
    return resid


def _positions(model: Any, seen: Sequence[Bool[Tensor, "_ _"]], past: Sequence[int]) -> Positions:
    kinds = {"global": 0} | ({"local": model.cfg.window_size} if "local" in (model.cfg.attn_types or ()) else {})
    rotations = _rotations(model, seen, past) if model.cfg.positional_embedding_type == "rotary" else {}
    pairs = list(zip(seen, past, strict=True))
    masks = [{kind: _mask(*pair, window, model.W_E) for kind, window in kinds.items()} for pair in pairs]
    return Positions(rotations, masks)


def _rotations(model: Any, seen: Sequence[Bool[Tensor, "_ _"]], past: Sequence[int]) -> dict[int, Rotation]:
    places = [real.long().cumsum(1)[:, first:] for real, first in zip(seen, past, strict=True)]
    place = (torch.cat(places) - 1).clamp(min=0).to(model.W_E.device)
    total = max(real.shape[1] for real in seen)
    rotations: dict[int, Rotation] = {}
    for block in model.blocks:
        attention = block.attn
        if total > attention.rotary_cos.shape[0]:
            attention._extend_rotary_embeddings(min(model.cfg.n_ctx, 2 * total))
        table = id(attention.rotary_cos)
        if table not in rotations:
            rotations[table] = (attention.rotary_cos[place, None], attention.rotary_sin[place, None])
    return rotations


def _mask(real: Bool[Tensor, "batch total"], past: int, window: int, like: Tensor) -> Mask:
    """What the new positions see: real ones, up to themselves, within a window if there is one."""
    total = real.shape[1]
    new, windowed, padded = total - past, bool(window) and total > window, not bool(real.all())
    if not (windowed or padded) and (new == 1 or not past):
        return Mask(causal=new if new > 1 else 0, like=like)
    device = like.device
    query, key = torch.arange(past, total, device=device)[:, None], torch.arange(total, device=device)[None]
    seen = (key <= query)[None]
    seen = seen & (key > query - window) if windowed else seen
    seen = seen & real[:, None].to(device) if padded else seen
    blind = None if bool(real[:, past:].all()) else ~seen.any(-1)[:, None, :, None]
    hidden = ~seen[:, None] if blind is None else ~(seen[:, None] | blind)
    return Mask(added=like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf), blind=blind)


def _block(
    block: Any,
    resid_pre: Float[Tensor, "batch new d_model"],
    entries: Sequence[KeyValues],
    positions: Positions,
) -> Float[Tensor, "batch new d_model"]:
    cfg = block.cfg
    resid_pre = block.hook_resid_pre(resid_pre)
    attn_out = _attention(block, resid_pre, entries, positions)
    if cfg.use_normalization_before_and_after:
        attn_out = normalised(block.ln1_post, attn_out)
    if post_norm(cfg):
        attn_out = normalised(block.ln1, attn_out)
    added = resid_pre + block.hook_attn_out(attn_out)
    mlp_in = resid_pre if cfg.parallel_attn_mlp else block.hook_resid_mid(added)
    resid_mid = added if cfg.parallel_attn_mlp else mlp_in
    mlp_in = block.hook_mlp_in(mlp_in.clone()) if cfg.use_hook_mlp_in else mlp_in
    mlp_out = apply_mlp(block, mlp_in if post_norm(cfg) else normalised(block.ln2, mlp_in))
    return block.hook_resid_post(resid_mid + mlp_out)


def _attention(
    block: Any,
    resid_pre: Float[Tensor, "batch new d_model"],
    entries: Sequence[KeyValues],
    positions: Positions,
) -> Float[Tensor, "batch new d_model"]:
    attention = block.attn
    q, k, v = queries_keys_values(block, resid_pre)
    if positions.rotations:
        rotation, adjacent = positions.rotations[id(attention.rotary_cos)], attention.cfg.rotary_adjacent_pairs
        q, k = attention.hook_rot_q(_rotated(q, *rotation, adjacent)), _rotated(k, *rotation, adjacent)
    masks = [kinds[attention.attn_type] for kinds in positions.masks]
    apart = zip(*(rows_of_each(x, entries) for x in (q, k, v)), entries, masks, strict=True)
    rotary = bool(positions.rotations)
    z = [_read(attention, *one, rotary=rotary, fires=not number) for number, one in enumerate(apart)]
    return output(attention, attention.hook_z(z[0] if len(z) == 1 else torch.cat(z)))


def _read(
    attention: Any,
    q: Float[Tensor, "batch new heads d_head"],
    k: Float[Tensor, "batch new kv_heads d_head"],
    v: Float[Tensor, "batch new kv_heads d_head"],
    entry: KeyValues,
    mask: Mask,
    *,
    rotary: bool,
    fires: bool,
) -> Float[Tensor, "batch new heads d_head"]:
    """What each head reads of one state's keys and values; without ``fires`` no hook point on the way does."""
    if fires and rotary and attention.hook_rot_k.fwd_hooks:
        keys, values = entry.append(k, v)
        keys = attention.hook_rot_k(keys.clone())  # a hook may write in place
        parts = [(keys.transpose(1, 2), values.transpose(1, 2))]
    else:
        parts = entry.extended(k, v)
    return attend(attention, q.transpose(1, 2), parts, mask, fires=fires)


def _rotated(
    x: Float[Tensor, "batch new heads d_head"],
    cos: Float[Tensor, "batch new 1 rotary"],
    sin: Float[Tensor, "batch new 1 rotary"],
    adjacent: bool,
) -> Float[Tensor, "batch new heads d_head"]:
    """The first ``rotary`` dimensions turned: pairs of neighbours (GPT-J), or of the first half with the second."""
    part = cos.shape[-1] < x.shape[-1]
    turned = x[..., : cos.shape[-1]] if part else x
    if adjacent:
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        across = torch.cat([-second, first], dim=-1)
    turned = (turned * cos + across * sin).to(x.dtype)  # OLMo's tables are in float32 always
    return torch.cat([turned, x[..., cos.shape[-1] :]], dim=-1) if part else turned
