"""Forward passes with a key-value cache, one interface for both families.

``start`` makes the state of a padded batch of prompts (for encoder-decoders it runs the encoder, once). ``advance``
runs new tokens through the stack that predicts, against the state, and returns the logits of the last of them. All hook
points fire with the names and shapes they have in the library's own forward, with two exceptions that follow from the
caching: the keys and values of T5's cross-attention are computed, and fire, in the first pass only; and ``unembed``
sees the positions whose logits are asked for.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models.causal import run_blocks
from mechsteer.models.folding import refuse_folded
from mechsteer.models.heads import linear, normalised
from mechsteer.models.info import context_of, is_encoder_decoder
from mechsteer.models.state import State, empty
from mechsteer.models.t5 import additive_mask, decode, encode


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
        return State([empty(model, rows, device) for _ in model.blocks])
    entries = [empty(model, rows, device) for _ in model.decoder]
    tokens, mask = tokens.to(device), mask.to(device)
    encoded = normalised(model.encoder_final_ln, encode(model, tokens, mask))
    return State(entries, encoded=encoded, cross_mask=additive_mask(model, mask))


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
    resid = residual(model, state, tokens, mask)
    return unembed(model, resid[:, -1:] if logits_at == "last" else resid)


def residual(
    model: Any,
    state: State,
    tokens: Int[Tensor, "batch new"],
    mask: Bool[Tensor, "batch new"],
    *,
    layers: int | None = None,
) -> Float[Tensor, "batch new d_model"]:
    """Run new tokens, as :func:`advance` does, but return the residual stream.

    Args:
        model: A loaded model.
        state: From :func:`start`; changed in place. After fewer than all layers it must not be used again.
        tokens: The new tokens.
        mask: True at real tokens.
        layers: How many blocks to run; default: all. 0 gives the embeddings.

    Raises:
        MechsteerError: if the tokens do not fit the context.
    """
    state.announce(state.length + tokens.shape[1], tokens.shape[1])
    return _run(model, [state], tokens, mask, layers)


def advance_together(
    model: Any, states: Sequence[State], tokens: Sequence[Int[Tensor, "_ 1"]]
) -> list[Float[Tensor, "_ d_vocab"]]:
    """Run one new token for every row of several states in one pass, which reads the model's weights once.

    The pass is announced as the first state's, for which alone the hook points inside attention fire; elsewhere its
    rows are the first of the tensors. So nothing but what is meant for those rows may be on the model.

    Args:
        model: A loaded model.
        states: Of rows that may stand at different positions; changed in place.
        tokens: One token for each row of each state.

    Returns:
        For each state, the logits.
    """
    states[0].announce(states[0].length + 1, 1)
    joined = torch.cat([x.to(model_device(model)) for x in tokens])
    resid = _run(model, states, joined, torch.ones_like(joined, dtype=torch.bool), None)
    return list(unembed(model, resid)[:, -1].split([len(x) for x in tokens]))


def _run(
    model: Any, states: Sequence[State], tokens: Tensor, mask: Tensor, layers: int | None
) -> Float[Tensor, "batch new d_model"]:
    device, new = model_device(model), tokens.shape[1]
    tokens, mask = tokens.to(device), mask.to(device)
    if is_encoder_decoder(model):
        resid = decode(model, states, tokens, layers)
    else:
        _check_context(model, max(state.length for state in states) + new)
        resid = run_blocks(model, states, tokens, mask, layers)
    for state in states:
        state.length += new
    return resid


def _check_context(model: Any, length: int) -> None:
    if length > model.cfg.n_ctx:
        raise MechsteerError(f"{length} positions do not fit: this model's context has {context_of(model)}.")


def unembed(
    model: Any, resid: Float[Tensor, "*batch d_model"], *, normalise: bool = True
) -> Float[Tensor, "*batch d_vocab"]:
    """The model's own read-out of its residual stream: final norm, unembedding, and the family's scale or cap.

    Args:
        model: A loaded model.
        resid: The residual stream after any block; of T5, of its decoder.
        normalise: Apply the final norm, as the logit lens does; without it the raw stream is read out.

    Raises:
        MechsteerError: without ``normalise`` where the norm is folded into the unembedding.
    """
    if not normalise:
        refuse_folded(model, "The stream cannot be read out without the final norm (normalise=False)")
    if is_encoder_decoder(model):
        resid = normalised(model.decoder_final_ln, resid) if normalise else resid
        if model.cfg.tie_word_embeddings:  # the library's name for scale_decoder_outputs
            resid = resid * model.cfg.d_model**-0.5
        return _head(model, resid)
    logits = _head(model, normalised(model.ln_final, resid) if normalise else resid)
    cap = model.cfg.output_logits_soft_cap
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def _head(model: Any, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """The unembedding, hook points included."""
    head = model.unembed
    x = x.to(head.W_U.dtype)  # the stream of a T5 in float16 is float32
    return head.hook_out(linear(head.hook_in(x), head.W_U.T, head.b_U))
