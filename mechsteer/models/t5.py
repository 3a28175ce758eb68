"""T5's two stacks, block by block: the encoder, and the decoder with cached keys and values."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.models.attention import Mask, attend
from mechsteer.models.halving import say_cost
from mechsteer.models.heads import normalised, output, project, queries_keys_values
from mechsteer.models.state import CrossEntry, KeyValues, Part, State, rows_of_each


def encode(
    model: Any, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], layers: int | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """The encoder's residual stream after its first ``layers`` blocks (default: all), before the final norm."""
    length = tokens.shape[1]
    cells = length * length * model.cfg.n_heads * (len(tokens) if len(tokens) > 1 else 1)  # padding has a bias a row
    what = f"T5's attention over {length:,} tokens, a bias for each pair of them and head,"
    say_cost(what, 2 * cells * model.cfg.dtype.itemsize, tokens.device)
    resid = model.hook_embed(model.embed(tokens))
    bias = model.encoder[0].attn.compute_relative_attention_bias(length, length, device=tokens.device)
    seen = Mask(added=bias.contiguous() if bool(mask.all()) else bias + additive_mask(model, mask))
    for block in model.encoder[:layers]:
        resid_mid = _self_attention(block, resid, [seen], [])
        mlp_in = block.hook_mlp_in(resid_mid.clone()) if block.cfg.use_hook_mlp_in else resid_mid
        resid = block.hook_resid_post(mlp_in + block.hook_mlp_out(block.mlp(normalised(block.ln2, mlp_in))))
    return resid


def additive_mask(model: Any, mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch 1 1 pos"]:
    """0 at real positions, a very large negative number at padded ones."""
    additive = torch.zeros(mask.shape, dtype=model.cfg.dtype, device=mask.device)
    return additive.masked_fill(~mask, torch.finfo(model.cfg.dtype).min)[:, None, None, :]


def decode(
    model: Any, states: Sequence[State], tokens: Int[Tensor, "batch new"], layers: int | None
) -> Float[Tensor, "batch new d_model"]:
    """The decoder's residual stream after its first ``layers`` blocks, before the final norm.

    Of several states the rows stand below each other, and the hook points inside attention fire for the first alone.
    """
    resid = model.embed(tokens)
    seen = [_seen(model, state, tokens.shape[1], tokens.device) for state in states]
    for layer, block in enumerate(model.decoder[:layers]):
        resid_mid = _self_attention(block, resid, seen, [state.cache[layer] for state in states])
        cross_out = block.hook_cross_attn_out(
            _cross_attention(block.cross_attn, normalised(block.ln2, resid_mid), states, layer)
        )
        resid_mid_cross = block.hook_resid_mid_cross(resid_mid + cross_out)
        mlp_out = block.hook_mlp_out(block.mlp(normalised(block.ln3, resid_mid_cross)))
        resid = block.hook_resid_post(resid_mid_cross + mlp_out)
    return resid


def _seen(model: Any, state: State, new: int, device: torch.device) -> Mask:
    """What the new positions of a state see; the state is told that they are real."""
    bias = _decoder_bias(model.decoder[0].attn, state.length, new, device)
    if state.seen is not None:
        state.seen = F.pad(state.seen, (0, new), value=True)
        bias = bias.masked_fill(~state.seen[:, None, None].to(bias.device), -torch.inf)
    return Mask(added=bias)


def _decoder_bias(attention: Any, past: int, new: int, device: torch.device) -> Float[Tensor, "1 heads new total"]:
    """T5's relative position bias of the new queries on all keys so far, -inf on those that come later."""
    queries = torch.arange(past, past + new, device=device)[:, None]
    keys = torch.arange(past + new, device=device)[None, :]
    buckets = attention._relative_position_bucket(
        keys - queries,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias = attention.rel_pos_bias(buckets).permute(2, 0, 1)[None].contiguous()
    return bias if new == 1 else bias.masked_fill(keys > queries, -torch.inf)


def _self_attention(
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], seen: Sequence[Mask], entries: Sequence[KeyValues]
) -> Float[Tensor, "batch new d_model"]:
    """The stream after a block's self-attention; in the decoder, with cached keys and values."""
    resid_pre = block.hook_resid_pre(resid_pre)
    q, k, v = queries_keys_values(block, resid_pre)
    queries, keys, values = (rows_of_each(x, entries) for x in (q, k, v))
    parts = [[(k.transpose(1, 2), v.transpose(1, 2))]]
    if entries:
        parts = [entry.extended(*new) for *new, entry in zip(keys, values, entries, strict=True)]
    z = _each(block.attn, queries, parts, seen)
    attn_out = output(block.attn, block.attn.hook_z(z))
    return block.hook_resid_mid(resid_pre + block.hook_attn_out(attn_out))


def _each(
    attention: Any,
    queries: Sequence[Tensor],
    parts: Sequence[Sequence[Part]],
    seen: Sequence[Mask],
) -> Float[Tensor, "batch new heads d_head"]:
    """What the heads read, each state's rows of its own keys and values."""
    apart = zip([q.transpose(1, 2) for q in queries], parts, seen, strict=True)
    read = [attend(attention, *one, fires=not number) for number, one in enumerate(apart)]
    return read[0] if len(read) == 1 else torch.cat(read)


def _cross_attention(
    attention: Any, x: Float[Tensor, "batch new d_model"], states: Sequence[State], layer: int
) -> Float[Tensor, "batch new d_model"]:
    q = attention.hook_q(project(x, attention.W_Q, attention.b_Q))
    for state in states:
        if layer == len(state.cross) and state.encoded is not None:
            k = attention.hook_k(project(state.encoded, attention.W_K, attention.b_K))
            v = attention.hook_v(project(state.encoded, attention.W_V, attention.b_V))
            state.cross.append(CrossEntry(k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()))
    parts = [[(state.cross[layer].keys, state.cross[layer].values)] for state in states]
    seen = [Mask(added=state.cross_mask) for state in states]
    z = _each(attention, rows_of_each(q, states), parts, seen)
    return output(attention, attention.hook_z(z))
