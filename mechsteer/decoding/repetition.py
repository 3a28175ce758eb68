"""The repetition penalty of CTRL (arXiv 1909.05858), as Hugging Face's generate applies it.

The score of every token that the predicting stack has read so far, the prompt of a decoder-only model and the start
token of a T5 decoder included, is divided by the penalty when it is above 0 and multiplied by it when it is not.
Padding is never penalised.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, finite
from mechsteer.models import is_encoder_decoder
from mechsteer.steering import Step


def checked_penalty(value: float) -> float:
    """Return the penalty if it is a number above 0; 1 is none.

    Raises:
        MechsteerError: otherwise.
    """
    if not finite("repetition_penalty", value) > 0:
        raise MechsteerError(f"repetition_penalty must be above 0 (1 is none), got {value}.")
    return float(value)


def read_so_far(model: Any, step: Step, written: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each row of a pass, the tokens that the predicting stack reads up to its last position.

    Args:
        model: A loaded model.
        step: The pass.
        written: For each of its rows, the tokens chosen so far.
    """
    start = [model.cfg.decoder_start_token_id] if is_encoder_decoder(model) else None
    rows = range(len(step.batch)) if step.alive is None else step.alive
    return [
        (step.batch.prompts[row].tokens.tolist() if start is None else start) + list(ids)
        for row, ids in zip(rows, written, strict=True)
    ]


def penalised(
    scores: Float[Tensor, "rows d_vocab"], seen: Sequence[Sequence[int]], penalty: float
) -> Float[Tensor, "rows d_vocab"]:
    """The scores with those of each row's seen tokens made worse.

    Raises:
        MechsteerError: for a penalty so far below 1 that it makes infinite ones.
    """
    made = scores.clone()
    for row, ids in enumerate(seen):
        chosen = torch.tensor(sorted(set(ids)), dtype=torch.long, device=scores.device)
        values = scores[row, chosen]
        made[row, chosen] = torch.where(values < 0, values * penalty, values / penalty)
        if made[row, chosen].isposinf().any():
            raise MechsteerError(f"repetition_penalty={penalty:g} makes infinite scores: take a larger one.")
    return made
