"""Prompts padded to one length."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, one_of, shown
from mechsteer.prompts.record import Prompt


@dataclass(frozen=True)
class Batch:
    """Prompts padded to one length.

    Attributes:
        prompts: The prompts, in order.
        tokens: ``[batch, pos]`` token ids.
        mask: ``[batch, pos]``, True where a token is real.
        starts: For each row, the index of its first real token (0 when padded on the right).

    Example:
        >>> padded = ms.batch(prompts, side="left")
        >>> model(padded.tokens, attention_mask=padded.mask.int(), prepend_bos=False)
    """

    prompts: tuple[Prompt, ...]
    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def length(self) -> int:
        """The padded length."""
        return int(self.tokens.shape[1])


def check_tokens(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts without tokens.

    Raises:
        MechsteerError: with the place of the first one.
    """
    for place, p in enumerate(prompts):
        if not len(p):
            raise MechsteerError(f"Prompt {place} of {len(prompts)} has no tokens.")


def batch(prompts: Sequence[Prompt], *, side: str, pad_id: int = 0) -> Batch:
    """Pad prompts to the longest one.

    Args:
        prompts: At least one.
        side: ``"left"`` for decoder-only models, so that the last position is the last token of every row; ``"right"``
            for the encoder of encoder-decoders.
        pad_id: The id at padded positions. It is never seen: the mask goes with it everywhere.

    Raises:
        MechsteerError: if there are no prompts, or one has no tokens, or is a text that no model's tokenizer has read.

    Example:
        >>> ms.batch(prompts, side="left").starts
    """
    prompts = listed("prompts", prompts)
    if not prompts:
        raise MechsteerError("No prompts were given.")
    for p in prompts:
        if not isinstance(p, Prompt):
            raise MechsteerError(f"A batch is of prompts that ms.prompt has made, got {shown(p)}.")
    one_of("padding side", side, ("left", "right"))
    check_tokens(prompts)
    length = max(len(p) for p in prompts)
    tokens = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    starts = []
    for row, p in enumerate(prompts):
        start = length - len(p) if side == "left" else 0
        tokens[row, start : start + len(p)] = p.tokens
        mask[row, start : start + len(p)] = True
        starts.append(start)
    return Batch(tuple(prompts), tokens, mask, tuple(starts))
