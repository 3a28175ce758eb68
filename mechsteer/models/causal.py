"""The blocks of a decoder-only model, run against cached keys and values.

As in the library's own forward, hook point by hook point, but: keys are cached after their rotary embedding, so that a
step rotates one position and not all; query heads share their key-value head without copies of it; the norm before
attention runs, and fires, once and not for queries, keys and values each; and a step without padding needs no mask.

Where a family's blocks differ: the norms may stand after attention and MLP instead of before them (OLMo 2 and 3), or on
both sides (Gemma 2 and 3); attention and MLP may read the same stream side by side (GPT-J, GPT-NeoX, Phi-2), and then
there is no ``resid_mid``; and layers may have rotary embeddings of their own.
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
Rotation = tuple[Float[Tensor, "batch new 1 rotary"], Float[Tensor, "batch new 1 rotary"]]


POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""The architectures whose norms stand after attention and MLP, as the library's own block has it."""


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
        rotations: Cosines and sines of their rotary embedding, by the ``id`` of the table that they are from, since
            layers may have different ones; empty without rotary embeddings.
        masks: For ``"global"`` and for ``"local"`` (sliding-window) attention.
    """

    rotations: dict[int, Rotation]
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
    query, key = torch.arange(past, total)[:, None], torch.arange(total)[None]
    seen = (key <= query) & real[:, None]
    kinds = {"global": seen}
    if "local" in (model.cfg.attn_types or ()):
        kinds["local"] = seen & (key > query - model.cfg.window_size)
    rotations = _rotations(model, real, past) if model.cfg.positional_embedding_type == "rotary" else {}
    return Positions(rotations, {kind: _mask(keys, device) for kind, keys in kinds.items()})


def _rotations(model: Any, real: Bool[Tensor, "batch total"], past: int) -> dict[int, Rotation]:
    place = (real.long().cumsum(1) - 1).clamp(min=0)[:, past:].to(model.W_E.device)
    rotations: dict[int, Rotation] = {}
    for block in model.blocks:
        attention = block.attn
        if real.shape[1] > attention.rotary_cos.shape[0]:
            attention._extend_rotary_embeddings(min(model.cfg.n_ctx, 2 * real.shape[1]))
        table = id(attention.rotary_cos)
        if table not in rotations:
            rotations[table] = (attention.rotary_cos[place, None], attention.rotary_sin[place, None])
    return rotations


def _mask(seen: Bool[Tensor, "batch new total"], device: torch.device) -> Mask:
    if seen.all():
        return Mask(None, None)
    blind = ~seen.any(-1)
    return Mask(~seen[:, None].to(device), blind[:, None, :, None].to(device) if blind.any() else None)


def _block(
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], entry: KeyValues, positions: Positions
) -> Float[Tensor, "batch new d_model"]:
    cfg = block.cfg
    resid_pre = block.hook_resid_pre(resid_pre)
    attn_out = _attention(block, resid_pre, entry, positions)
    if cfg.use_normalization_before_and_after:
        attn_out = block.ln1_post(attn_out)
    if _post_norm(cfg):
        attn_out = block.ln1(attn_out)
    added = resid_pre + block.hook_attn_out(attn_out)
    mlp_in = resid_pre if cfg.parallel_attn_mlp else block.hook_resid_mid(added)
    resid_mid = added if cfg.parallel_attn_mlp else mlp_in
    mlp_in = block.hook_mlp_in(mlp_in.clone()) if cfg.use_hook_mlp_in else mlp_in
    mlp_out = block.apply_mlp(mlp_in if _post_norm(cfg) else block.ln2(mlp_in))
    return block.hook_resid_post(resid_mid + mlp_out)


def _post_norm(cfg: Any) -> bool:
    return cfg.original_architecture in POST_NORM


def _attention(
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], entry: KeyValues, positions: Positions
) -> Float[Tensor, "batch new d_model"]:
    attention = block.attn
    q, k, v = _queries_keys_values(block, resid_pre)
    hooked_keys = positions.rotations and attention.hook_rot_k.fwd_hooks
    if positions.rotations:
        rotation, adjacent = positions.rotations[id(attention.rotary_cos)], attention.cfg.rotary_adjacent_pairs
        q, k = attention.hook_rot_q(_rotated(q, *rotation, adjacent)), _rotated(k, *rotation, adjacent)
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
    elif attention.q_norm is not None:  # OLMo 2 and 3: one norm over all heads together
        q = attention.q_norm(q.flatten(2)).view_as(q)
        k = attention.k_norm(k.flatten(2)).view_as(k)
    if attention.cfg.clip_qkv is not None:
        q, k, v = (x.clamp(-attention.cfg.clip_qkv, attention.cfg.clip_qkv) for x in (q, k, v))
    return q, k, v


def _inputs(block: Any, resid_pre: Float[Tensor, "batch new d_model"], heads: list[int]) -> list[Tensor]:
    """What queries, keys and values are made from: the normalised stream, or where it is split, one for each head."""
    norm = _unchanged if _post_norm(block.cfg) else block.ln1
    if block.cfg.use_split_qkv_input:
        hooks = (block.hook_q_input, block.hook_k_input, block.hook_v_input)
        return [norm(hook(_each_head(resid_pre, n))) for hook, n in zip(hooks, heads, strict=True)]
    if block.cfg.use_attn_in:
        return [norm(block.hook_attn_in(_each_head(resid_pre, heads[0])))] * 3
    return [norm(resid_pre)] * 3


def _each_head(x: Float[Tensor, "batch new d_model"], heads: int) -> Float[Tensor, "batch new heads d_model"]:
    return x[:, :, None].repeat(1, 1, heads, 1)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _rotated(
    x: Float[Tensor, "batch new heads d_head"],
    cos: Float[Tensor, "batch new 1 rotary"],
    sin: Float[Tensor, "batch new 1 rotary"],
    adjacent: bool,
) -> Float[Tensor, "batch new heads d_head"]:
    """The first ``rotary`` dimensions turned: pairs of neighbours (GPT-J), or of the first half with the second."""
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    if adjacent:
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        across = torch.cat([-second, first], dim=-1)
    turned = (turned * cos + across * sin).to(x.dtype)  # OLMo's tables are in float32 always
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned
