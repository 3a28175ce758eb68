"""Prompts in, batches out: shared by everything that runs a model over many prompts."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, positive_int
from mechsteer.models import is_encoder_decoder
from mechsteer.prompts import Batch, Prompt, batch, prompt
from mechsteer.steering import Step


def as_prompts(model: Any, prompts: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    """Make a list of prompts from one or many, texts or prompts.

    Raises:
        MechsteerError: if there are none.
    """
    many = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    if not many:
        raise MechsteerError("No prompts were given.")
    return [p if isinstance(p, Prompt) else prompt(model, p) for p in many]


def steps(model: Any, prompts: Sequence[Prompt], batch_size: int) -> Iterator[Step]:
    """Batches of prompts of like length, padded as the model wants them; ``index`` gives their places in the list."""
    positive_int("batch_size", batch_size)
    two_stacks = is_encoder_decoder(model)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), batch_size):
        index = order[first : first + batch_size]
        padded = batch(
            [prompts[i] for i in index],
            side="right" if two_stacks else "left",
            pad_id=model.tokenizer.pad_token_id or 0,
        )
        yield Step(padded, decoder_prefix=int(two_stacks), index=index)


def first_tokens(model: Any, prompts: Batch) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """What the predicting stack is fed first: the prompts, or the decoder's start token."""
    if not is_encoder_decoder(model):
        return prompts.tokens, prompts.mask
    start = torch.full((len(prompts), 1), model.cfg.decoder_start_token_id, dtype=torch.long)
    return start, torch.ones_like(start, dtype=torch.bool)
