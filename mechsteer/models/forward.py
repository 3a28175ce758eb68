"""Forward passes with a key-value cache, one interface for both families.

``start`` makes the state of a padded batch of prompts (for encoder-decoders it runs the encoder, once). ``advance``
runs new tokens through the stack that predicts, against the state, and returns the logits of the last of them. All hook
points fire with the names and shapes they have in the library's own forward, with two exceptions that follow from the
caching: the keys and values of T5's cross-attention are computed, and fire, in the first pass only; and ``unembed``
sees the positions whose logits are asked for.
"""

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models.info import is_encoder_decoder


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
        """Add the new positions and return all. Nothing is written in place, so a shallow copy is a fork."""
        self.past_keys = _joined(self.past_keys, new_keys)
        self.past_values = _joined(self.past_values, new_values)
        return self.past_keys, self.past_values


def _joined(
    past: Float[Tensor, "batch pos heads d_head"], new: Float[Tensor, "batch new heads d_head"]
) -> Float[Tensor, "batch total heads d_head"]:
    return torch.cat([past.transpose(1, 2), new.transpose(1, 2)], dim=2).transpose(1, 2)


def _empty(model: Any, rows: int, device: torch.device) -> KeyValues:
    cfg = model.cfg
    nothing = torch.empty((rows, 0, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head), device=device, dtype=cfg.dtype)
    return KeyValues(nothing, nothing)


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


def model_device(model: Any) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device


def start(model: Any, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> State:
    """The state before anything was predicted. Runs T5's encoder; for decoder-only models it only makes an empty cache.

    Args:
        model: A loaded model.
        tokens: The padded prompts.
        mask: True at real tokens.
    """
    device = model_device(model)
    rows = tokens.shape[0]
    if not is_encoder_decoder(model):
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        entries: Any = [_empty(model, rows, device) for _ in model.blocks]
        seen = torch.empty((rows, 0), dtype=torch.int, device=device)
        return State(TransformerLensKeyValueCache(entries, previous_attention_mask=seen))
    entries = [_empty(model, rows, device) for _ in model.decoder]
    encoded, cross_mask = _encode(model, tokens.to(device), mask.to(device))
    return State(entries, encoded=encoded, cross_mask=cross_mask)


def advance(
    model: Any,
    state: State,
    tokens: Int[Tensor, "batch new"],
    mask: Bool[Tensor, "batch new"],
    *,
    logits_at: str = "last",
) -> Float[Tensor, "batch positions d_vocab"]:
    """Run new tokens and update the state.

    Args:
        model: A loaded model.
        state: From :func:`start`; changed in place.
        tokens: Decoder-only: first the padded prompts, later one token a row. T5: decoder tokens.
        mask: True at real tokens.
        logits_at: ``"last"`` for the logits at the last of the new positions, ``"all"`` for every new position.

    Returns:
        The logits at those positions.
    """
    device = model_device(model)
    tokens, mask = tokens.to(device), mask.to(device)
    if is_encoder_decoder(model):
        return _advance_t5(model, state, tokens, logits_at)
    if state.length + tokens.shape[1] > model.cfg.n_ctx:
        raise MechsteerError(
            f"{state.length + tokens.shape[1]} positions do not fit: this model's context has {model.cfg.n_ctx}."
        )
    resid = model(
        tokens,
        attention_mask=mask.int(),
        past_kv_cache=state.cache,
        stop_at_layer=model.cfg.n_layers,
        prepend_bos=False,
    )
    state.length += tokens.shape[1]
    return unembed(model, resid[:, -1:] if logits_at == "last" else resid)


def unembed(model: Any, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
    """The model's own read-out of its last residual stream: final norm, unembedding, and the family's scale or cap."""
    if is_encoder_decoder(model):
        resid = model.decoder_final_ln(resid)
        if model.cfg.tie_word_embeddings:  # the library's name for scale_decoder_outputs
            resid = resid * model.cfg.d_model**-0.5
        return model.unembed(resid)
    logits = model.unembed(model.ln_final(resid))
    cap = model.cfg.output_logits_soft_cap
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


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


def _encode(
    model: Any, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch 1 1 pos"]]:
    dtype = model.cfg.dtype
    additive = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    additive = additive.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
    resid = model.hook_embed(model.embed(tokens))
    length = tokens.shape[1]
    bias = model.encoder[0].attn.compute_relative_attention_bias(length, length, device=tokens.device)
    for block in model.encoder:
        resid = block(resid, additive_attention_mask=additive, position_bias=bias)
    return model.encoder_final_ln(resid), additive


def _advance_t5(
    model: Any, state: State, tokens: Int[Tensor, "batch new"], logits_at: str
) -> Float[Tensor, "batch positions d_vocab"]:
    resid = model.embed(tokens)
    bias = _decoder_bias(model.decoder[0].attn, state.length, tokens.shape[1], tokens.device)
    for layer, block in enumerate(model.decoder):
        resid = _decoder_block(block, resid, state, layer, bias)
    state.length += tokens.shape[1]
    return unembed(model, resid[:, -1:] if logits_at == "last" else resid)


def _decoder_bias(attention: Any, past: int, new: int, device: torch.device) -> Float[Tensor, "1 heads new total"]:
    """T5's relative position bias of the new queries on all keys so far."""
    queries = torch.arange(past, past + new, device=device)[:, None]
    keys = torch.arange(past + new, device=device)[None, :]
    buckets = attention._relative_position_bucket(
        keys - queries,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.rel_pos_bias(buckets).permute(2, 0, 1)[None]


def _decoder_block(
    block: Any, resid_pre: Float[Tensor, "batch new d_model"], state: State, layer: int, bias: Tensor
) -> Float[Tensor, "batch new d_model"]:
    """One T5 decoder block, as in the library, with the cross-attention's keys and values kept."""
    resid_pre = block.hook_resid_pre(resid_pre)
    normalised = block.ln1(resid_pre)
    attn_out = block.attn(
        normalised, normalised, normalised, past_kv_cache_entry=state.cache[layer], position_bias=bias
    )
    resid_mid = block.hook_resid_mid(resid_pre + block.hook_attn_out(attn_out))
    cross_out = block.hook_cross_attn_out(_cross_attention(block.cross_attn, block.ln2(resid_mid), state, layer))
    resid_mid_cross = block.hook_resid_mid_cross(resid_mid + cross_out)
    mlp_out = block.hook_mlp_out(block.mlp(block.ln3(resid_mid_cross)))
    return block.hook_resid_post(resid_mid_cross + mlp_out)


def _cross_attention(
    attention: Any, x: Float[Tensor, "batch new d_model"], state: State, layer: int
) -> Float[Tensor, "batch new d_model"]:
    q = attention.hook_q(_project(x, attention.W_Q, attention.b_Q))
    if layer == len(state.cross) and state.encoded is not None:
        k = attention.hook_k(_project(state.encoded, attention.W_K, attention.b_K))
        v = attention.hook_v(_project(state.encoded, attention.W_V, attention.b_V))
        state.cross.append(CrossEntry(k.permute(0, 2, 3, 1).contiguous(), v.transpose(1, 2).contiguous()))
    entry = state.cross[layer]
    scores = attention.hook_attn_scores(q.transpose(1, 2) @ entry.keys + state.cross_mask)
    pattern = attention.hook_pattern(torch.softmax(scores, dim=-1))
    z = attention.hook_z((pattern.to(entry.values.dtype) @ entry.values).transpose(1, 2))
    if attention.cfg.use_attn_result:
        result = attention.hook_result(torch.einsum("bphd,hdm->bphm", z, attention.W_O))
        return result.sum(2) + attention.b_O
    return F.linear(z.flatten(2), attention.W_O.permute(2, 0, 1).flatten(1), attention.b_O)


def _project(
    x: Float[Tensor, "batch pos d_model"],
    weight: Float[Tensor, "heads d_model d_head"],
    bias: Float[Tensor, "heads d_head"],
) -> Float[Tensor, "batch pos heads d_head"]:
    flat = F.linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
    return flat.unflatten(-1, tuple(bias.shape))
