"""The blocks of a decoder-only model, run against cached keys and values.

As in the library's own forward, hook point by hook point, but: keys are cached after their rotary embedding, so that a
step rotates one position and not all; query heads share their key-value head without copies of it; the norm before
attention runs, and fires, once and not for queries, keys and values each; and a step without padding needs no mask.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.models.heads import against, output, project
from mechsteer.models.state import KeyValues, State

Heads = Float[Tensor, "batch pos n_heads d_head"]
KvHeads = Float[Tensor, "batch pos n_kv_heads d_head"]


@dataclass(frozen=True)
class Mask:
    """What attention leaves out.

    Attributes:
        hidden: The keys that a query does not see; None where all see all.
        blind: The queries that see none, which are padding; None where there are none.
    """

    hidden: Bool[Tensor, "batch 1 new total"] | None
    blind: Bool[Tensor, "batch 1 new 1"] | None


@dataclass(frozen=True)
class Positions:
    """Where the new positions of a pass stand; the same for all layers.

    Attributes:
        rotation: Cosines and sines of their rotary embedding; None without one.
        masks: For ``"global"`` and for ``"local"`` (sliding-window) attention.
    """

    rotation: tuple[Float[Tensor, "batch new 1 d_head"], Float[Tensor, "batch new 1 d_head"]] | None
    masks: dict[str, Mask]


def run_blocks(
    model: Any, state: State, tokens: Int[Tensor, "batch new"], mask: Bool[Tensor, "batch new"], layers: int | None
) -> Float[Tensor, "batch new d_model"]:
    """The residual stream after the first ``layers`` blocks, before the final norm; the state gets what is new."""
    past = state.length
    real = mask.cpu() if state.seen is None else torch.cat([state.seen, mask.cpu()], dim=1)
    state.seen = real
    resid = model.hook_embed(model.embed(tokens))
    if model.cfg.positional_embedding_type == "standard":
        resid = resid + model.hook_pos_embed(model.pos_embed(tokens, past, real.int().to(tokens.device)))
    positions = _positions(model, real, past)
    for block, entry in zip(model.blocks[:layers], state.cache, strict=layers is None):
        resid = _block(block, resid, entry, positions)
    return resid


def _positions(model: Any, real: Bool[Tensor, "batch total"], past: int) -> Positions:
    device = model.W_E.device
    total = real.shape[1]
    rotation = None
    if model.cfg.positional_embedding_type == "rotary":
        attention = model.blocks[0].attn
        if total > attention.rotary_cos.shape[0]:
            attention._extend_rotary_embeddings(min(model.cfg.n_ctx, 2 * total))
        place = (real.long().cumsum(1) - 1).clamp(min=0)[:, past:].to(device)
        rotation = (attention.rotary_cos[place, None], attention.rotary_sin[place, None])
    query, key = torch.arange(past, total)[:, None], torch.arange(total)[None]
    seen = (key <= query) & real[:, None]
    kinds = {"global": seen}
    if "local" in (model.cfg.attn_types or ()):
        kinds["local"] = seen & (key > query - model.cfg.window_size)
    return Positions(rotation, {kind: _mask(keys, device) for kind, keys in kinds.items()})


def _mask(seen: Bool[Tensor, "batch new total"], device: torch.device) -> Mask:
    if seen.all():
        return Mask(None, None)
    blind = ~seen.any(-1)
    return Mask(~seen[:, None].to(device), blind[:, None, :, None].to(device) if blind.any() else None)


def _block(
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], entry: KeyValues, positions: Positions
) -> Float[Tensor, "batch new d_model"]:
    resid_pre = block.hook_resid_pre(resid_pre)
    attn_out = _attention(block, resid_pre, entry, positions)
    if block.cfg.use_normalization_before_and_after:
        attn_out = block.ln1_post(attn_out)
    resid_mid = block.hook_resid_mid(resid_pre + block.hook_attn_out(attn_out))
    mlp_in = block.hook_mlp_in(resid_mid.clone()) if block.cfg.use_hook_mlp_in else resid_mid
    return block.hook_resid_post(resid_mid + block.apply_mlp(block.ln2(mlp_in)))


def _attention(
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], entry: KeyValues, positions: Positions
) -> Float[Tensor, "batch new d_model"]:
    attention = block.attn
    q, k, v = _queries_keys_values(block, resid_pre)
    if positions.rotation is not None:
        q, k = attention.hook_rot_q(_rotated(q, *positions.rotation)), _rotated(k, *positions.rotation)
    hooked_keys = positions.rotation is not None and attention.hook_rot_k.fwd_hooks
    q, values = q.transpose(1, 2), None
    if entry.times > 1 and not hooked_keys:
        entry.new = (k, v)
        raw = torch.cat([against(q, entry.keys.mT), against(q, k.permute(0, 2, 3, 1))], dim=-1)
    else:
        keys, values = entry.append(k, v)
        keys = attention.hook_rot_k(keys.clone()) if hooked_keys else keys  # a hook may write in place
        raw = against(q, keys.permute(0, 2, 3, 1))
    scores = raw / attention.attn_scale
    if attention.cfg.attn_scores_soft_cap > 0:
        scores = attention.cfg.attn_scores_soft_cap * torch.tanh(scores / attention.cfg.attn_scores_soft_cap)
    mask = positions.masks[attention.attn_type]
    scores = scores if mask.hidden is None else scores.masked_fill(mask.hidden, -torch.inf)
    pattern = attention.hook_attn_scores(scores).softmax(-1)
    pattern = pattern if mask.blind is None else pattern.masked_fill(mask.blind, 0.0)
    pattern = attention.hook_pattern(pattern).to(v.dtype)
    if values is None:
        z = against(pattern[..., :-1], entry.values) + against(pattern[..., -1:], v.transpose(1, 2))
    else:
        z = against(pattern, values.transpose(1, 2))
    return output(attention, attention.hook_z(z.transpose(1, 2)))


def _queries_keys_values(block: Any, resid_pre: Float[Tensor, "batch new d_model"]) -> tuple[Heads, KvHeads, KvHeads]:
    attention = block.attn
    grouped = "_" if hasattr(attention, "_W_K") else ""
    weights = [(attention.W_Q, attention.b_Q)] + [
        (getattr(attention, f"{grouped}W_{letter}"), getattr(attention, f"{grouped}b_{letter}")) for letter in "KV"
    ]
    inputs = _inputs(block, resid_pre, [weight.shape[0] for weight, _ in weights])
    hooks = (attention.hook_q, attention.hook_k, attention.hook_v)
    q, k, v = (hook(project(x, *pair)) for hook, x, pair in zip(hooks, inputs, weights, strict=True))
    if attention.cfg.use_qk_norm:
        q, k = attention._apply_qk_norm(q, attention.q_norm), attention._apply_qk_norm(k, attention.k_norm)
    return q, k, v


def _inputs(block: Any, resid_pre: Float[Tensor, "batch new d_model"], heads: list[int]) -> list[Tensor]:
    """What queries, keys and values are made from: the normalised stream, or where it is split, one for each head."""
    if block.cfg.use_split_qkv_input:
        hooks = (block.hook_q_input, block.hook_k_input, block.hook_v_input)
        return [block.ln1(hook(_each_head(resid_pre, n))) for hook, n in zip(hooks, heads, strict=True)]
    if block.cfg.use_attn_in:
        return [block.ln1(block.hook_attn_in(_each_head(resid_pre, heads[0])))] * 3
    return [block.ln1(resid_pre)] * 3


def _each_head(x: Float[Tensor, "batch new d_model"], heads: int) -> Float[Tensor, "batch new heads d_model"]:
    return x[:, :, None].repeat(1, 1, heads, 1)


def _rotated(
    x: Float[Tensor, "batch new heads d_head"],
    cos: Float[Tensor, "batch new 1 d_head"],
    sin: Float[Tensor, "batch new 1 d_head"],
) -> Float[Tensor, "batch new heads d_head"]:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
