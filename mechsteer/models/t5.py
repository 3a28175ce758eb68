"""T5's two stacks, block by block: the encoder, and the decoder with cached keys and values."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.models import attention as attending
from mechsteer.models.attention import Mask, attend
from mechsteer.models.heads import normalised, output, project, queries_keys_values
from mechsteer.models.hooking import hooked
from mechsteer.models.state import CrossEntry, KeyValues, State


def encode(
    model: Any, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], layers: int | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """The encoder's residual stream after its first ``layers`` blocks (default: all), before the final norm.

    Short prompts go through the library's own blocks, to the bit; there is no time to win.
    """
    resid = model.hook_embed(model.embed(tokens))
    length = tokens.shape[1]
    bias = model.encoder[0].attn.compute_relative_attention_bias(length, length, device=tokens.device)
    if length <= attending.SHORT:
        additive = additive_mask(model, mask)
        for number, block in enumerate(model.encoder[:layers]):
            with hooked(model, _nothing_lost(f"encoder.{number}.attn")):
                resid = block(resid, additive_attention_mask=additive, position_bias=bias)
        return resid
    seen = Mask(added=bias.contiguous() if bool(mask.all()) else bias + additive_mask(model, mask))
    for block in model.encoder[:layers]:
        resid_mid = _self_attention(block, resid, seen, None)
        mlp_in = block.hook_mlp_in(resid_mid.clone()) if block.cfg.use_hook_mlp_in else resid_mid
        resid = block.hook_resid_post(mlp_in + block.hook_mlp_out(block.mlp(normalised(block.ln2, mlp_in))))
    return resid


def _nothing_lost(attention: str) -> list[tuple[str, Any]]:
    """Hooks that keep NaN: of scores that are NaN or infinite the library makes weights of 0."""
    lost: list[Tensor] = []

    def look(scores: Float[Tensor, "batch heads queries keys"], hook: Any) -> None:
        largest = scores.detach().amax((1, 2, 3))
        lost.append(largest - largest)

    def keep(z: Float[Tensor, "batch pos heads d_head"], hook: Any) -> Tensor:
        return z + lost.pop().to(z)[:, None, None, None]

    return [(f"{attention}.hook_attn_scores", look), (f"{attention}.hook_z", keep)]


def additive_mask(model: Any, mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch 1 1 pos"]:
    """0 at real positions, a very large negative number at padded ones."""
    additive = torch.zeros(mask.shape, dtype=model.cfg.dtype, device=mask.device)
    return additive.masked_fill(~mask, torch.finfo(model.cfg.dtype).min)[:, None, None, :]


def decode(
    model: Any, state: State, tokens: Int[Tensor, "batch new"], layers: int | None
) -> Float[Tensor, "batch new d_model"]:
    """The decoder's residual stream after its first ``layers`` blocks, before the final norm."""
    resid = model.embed(tokens)
    bias = _decoder_bias(model.decoder[0].attn, state.length, tokens.shape[1], tokens.device)
    if state.seen is not None:
        state.seen = torch.cat([state.seen, torch.ones_like(tokens, dtype=torch.bool, device="cpu")], dim=1)
        bias = bias.masked_fill(~state.seen[:, None, None].to(bias.device), -torch.inf)
    seen = Mask(added=bias)
    for layer, block in enumerate(model.decoder[:layers]):
        resid_mid = _self_attention(block, resid, seen, state.cache[layer])
        cross_out = block.hook_cross_attn_out(
            _cross_attention(block.cross_attn, normalised(block.ln2, resid_mid), state, layer)
        )
        resid_mid_cross = block.hook_resid_mid_cross(resid_mid + cross_out)
        mlp_out = block.hook_mlp_out(block.mlp(normalised(block.ln3, resid_mid_cross)))
        resid = block.hook_resid_post(resid_mid_cross + mlp_out)
    return resid


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
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], seen: Mask, entry: KeyValues | None
) -> Float[Tensor, "batch new d_model"]:
    """The stream after a block's self-attention; in the decoder, with cached keys and values."""
    resid_pre = block.hook_resid_pre(resid_pre)
    q, k, v = queries_keys_values(block, resid_pre)
    parts = [(k.transpose(1, 2), v.transpose(1, 2))] if entry is None else entry.extended(k, v)
    z = attend(block.attn, q.transpose(1, 2), parts, seen)
    attn_out = output(block.attn, block.attn.hook_z(z))
    return block.hook_resid_mid(resid_pre + block.hook_attn_out(attn_out))


def _cross_attention(
    attention: Any, x: Float[Tensor, "batch new d_model"], state: State, layer: int
) -> Float[Tensor, "batch new d_model"]:
    q = attention.hook_q(project(x, attention.W_Q, attention.b_Q))
    if layer == len(state.cross) and state.encoded is not None:
        k = attention.hook_k(project(state.encoded, attention.W_K, attention.b_K))
        v = attention.hook_v(project(state.encoded, attention.W_V, attention.b_V))
        state.cross.append(CrossEntry(k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()))
    entry = state.cross[layer]
    z = attend(attention, q.transpose(1, 2), [(entry.keys, entry.values)], Mask(added=state.cross_mask))
    return output(attention, attention.hook_z(z))
