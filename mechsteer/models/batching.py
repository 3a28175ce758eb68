"""Prompts in, batches out: what everything that runs a model over prompts shares."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, shown
from mechsteer.models.info import check_model, is_encoder_decoder
from mechsteer.models.sites import position_stack
from mechsteer.prompts import Batch, Prompt, Prompts, batch, prompt
from mechsteer.prompts.batches import check_tokens

PADDING = 512
"""Padded positions that cost no more than one pass more would."""


def alike(rows: int, longest: int, tokens: int) -> bool:
    """Whether prompts are padded to one length: not where that makes much more of what is computed.

    Padding may be half as much as there are tokens, or :data:`PADDING`.

    Args:
        rows: How many prompts.
        longest: How many tokens the longest has.
        tokens: How many all have.
    """
    return rows * longest - tokens <= max(PADDING, tokens // 2)


def as_prompts(model: Any, prompts: Prompts) -> list[Prompt]:
    """Make a list of prompts from one or many: texts, prompts, or messages (a list of mappings is one conversation).

    Raises:
        MechsteerError: if there are none, one is neither or has no tokens, or one was made for a model with a larger
            vocabulary.
    """
    check_model(model)
    many = [prompts] if isinstance(prompts, str | Prompt) or _are_messages(prompts) else listed("prompts", prompts)
    if not many:
        raise MechsteerError("No prompts were given.")
    for p in many:
        if not isinstance(p, str | Prompt) and not _are_messages(p):
            raise MechsteerError(f"A prompt is a text or what mechsteer.prompt makes, got {shown(p)}.")
    made: list[Prompt] = [p if isinstance(p, Prompt) else prompt(model, p) for p in many]  # pyright: ignore[reportArgumentType]
    check_tokens(made)
    for p in made:
        if int(p.tokens.max()) >= model.cfg.d_vocab:
            raise MechsteerError(
                f"{p!r} was made for another model, or its tokenizer knows more tokens than the model: it has token "
                f"{int(p.tokens.max())}, this vocabulary {model.cfg.d_vocab}."
            )
    return made


def _are_messages(value: Any) -> bool:
    """Whether a value is the turns of one conversation."""
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(turn, Mapping) for turn in value)


def pad(model: Any, prompts: Sequence[Prompt]) -> Batch:
    """Pad prompts to one length on the side that the model wants: left for decoder-only models, right for encoders."""
    side = "right" if is_encoder_decoder(model) else "left"
    pad_id = model.tokenizer.pad_token_id
    if pad_id is None or pad_id >= model.cfg.d_vocab:  # added to the tokenizer and not to the embeddings
        pad_id = 0
    return batch(prompts, side=side, pad_id=pad_id)


def at_last(
    model: Any, x: Float[Tensor, "batch pos *width"], site: str, prompts: Batch
) -> Float[Tensor, "batch *width"]:
    """What is at each prompt's last position: of an encoder at its last token, of a decoder at its last position.

    Args:
        model: A loaded model.
        x: The activations of a batch.
        site: The full name of where they are.
        prompts: The batch.
    """
    if position_stack(site, two_stacks=is_encoder_decoder(model)) != "encoder":
        return x[:, -1]
    ends = torch.tensor([len(p) - 1 for p in prompts.prompts], device=x.device)
    return x[torch.arange(len(x), device=x.device), ends]


def first_tokens(model: Any, prompts: Batch) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """What the predicting stack is fed first, and its mask: the prompts, or the decoder's start token."""
    if not is_encoder_decoder(model):
        return prompts.tokens, prompts.mask
    start = torch.full((len(prompts), 1), model.cfg.decoder_start_token_id, dtype=torch.long)
    return start, torch.ones_like(start, dtype=torch.bool)
