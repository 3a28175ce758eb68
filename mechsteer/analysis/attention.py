"""Attention patterns of one prompt, with the tokens to label them, for heat maps and interactive views."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, not_finite, one_of
from mechsteer.models import as_prompts, continuation_ids, is_encoder_decoder, residual, site, stacks
from mechsteer.models.hooking import Kept, reading
from mechsteer.prompts import Prompt, PromptLike
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

Labelled = tuple[Float[Tensor, "heads queries keys"], list[str], list[str]]
"""A pattern, and the tokens of its queries and of its keys."""


@torch.no_grad()
def attention(
    model: Any,
    prompt: PromptLike,
    layer: int,
    *,
    kind: str = "self",
    stack: str | None = None,
    steer: Intervention | None = None,
    continuation: str | None = None,
) -> Labelled:
    """The attention weights of one layer.

    Args:
        model: A loaded model.
        prompt: One prompt.
        layer: The layer, from 0; negative counts from the end.
        kind: ``"self"``, or ``"cross"`` for what an encoder-decoder's decoder reads of the encoder.
        stack: Encoder-decoders: ``"encoder"`` or ``"decoder"`` (default).
        steer: An intervention.
        continuation: Text after the prompt; of an encoder-decoder, after the decoder's start
            token.

    Returns:
        The weights, float32, each query's adding up to 1; the tokens of the queries, and those of the keys.

    Raises:
        MechsteerError: for several prompts, an unknown kind, stack or layer, cross-attention where there is none, a
            continuation without tokens, weights that are not finite, or an intervention that does not fit.
    """
    name = _site(model, layer, kind, stack)
    made = as_prompts(model, prompt)
    if len(made) != 1:
        raise MechsteerError(f"attention shows one prompt, got {len(made)}.")
    after = [] if continuation is None else continuation_ids(model, continuation, made[0])
    kept = Kept([name], lambda x, site: x[0].float().cpu())

    def check(x: Tensor, site: str) -> None:
        if not x.amax().isfinite():  # here: the library turns NaN into weights of 0
            raise not_finite(site, 0)

    def run(step: Step) -> None:
        state, tokens, mask = begin(model, step)
        residual(model, state, tokens, mask)
        if after:
            residual(model, state, torch.tensor([after]), torch.ones((1, len(after)), dtype=torch.bool))

    hooks = [*reading([name.replace("hook_pattern", "hook_attn_scores")], check), *kept.hooks]
    run_batches(model, made, run, steer=as_intervention(steer), batch_size=1, hooks=hooks)
    parts = kept.parts(name)
    keys = parts[-1].shape[-1]
    pattern = torch.cat([F.pad(part, (0, keys - part.shape[-1])) for part in parts], dim=1)
    if not pattern.isfinite().all():
        raise not_finite(name, 0)
    return pattern, *_labels(model, made[0], after, name)


def _site(model: Any, layer: int, kind: str, stack: str | None) -> str:
    one_of("kind", kind, ("self", "cross"))
    if stack is not None:
        one_of("stack", stack, stacks(model))
    if kind == "cross" and (stack == "encoder" or not is_encoder_decoder(model)):
        raise MechsteerError("Only the decoder of an encoder-decoder has cross-attention; use kind='self'.")
    return site(model, "cross_pattern" if kind == "cross" else "pattern", layer=layer, stack=stack)


def _labels(model: Any, prompt: Prompt, after: list[int], name: str) -> tuple[list[str], list[str]]:
    """The tokens of the queries and of the keys at a site."""

    def strings(ids: list[int]) -> list[str]:
        return token_pieces(model.tokenizer, ids)

    read = strings(prompt.tokens.tolist())
    if not is_encoder_decoder(model):
        return read + strings(after), read + strings(after)
    if name.startswith("encoder"):
        return read, read
    written = strings([model.cfg.decoder_start_token_id, *after])
    return written, read if "cross_attn" in name else written
