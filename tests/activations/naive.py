"""The straightforward way: one prompt, one run of the library with everything cached."""

from typing import Any

import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import is_encoder_decoder

TEXTS = [
    ("the cat sat on mat in house", "write one word ."),
    ("one two red blue", "answer the task : quote"),
    ("dog", "end"),
    ("house in the red mat . cat ends", "write two"),
    ("a cat sat on a dog", "answer"),
]


def prompts_of(model: Any) -> list[ms.Prompt]:
    return [ms.prompt(model, text, instruction=instruction) for text, instruction in TEXTS]


@torch.no_grad()
def cache(model: Any, prompt: ms.Prompt, steer: Any = None) -> Any:
    with model.hooks(fwd_hooks=steer.hooks(prompt) if steer is not None else []):
        if is_encoder_decoder(model):
            decoder = torch.tensor([[model.cfg.decoder_start_token_id]])
            return model.run_with_cache(prompt.tokens[None], decoder)[1]
        return model.run_with_cache(prompt.tokens[None], prepend_bos=False)[1]


def rows(cached: Any, prompt: ms.Prompt, site: str, positions: Any) -> Tensor:
    """The rows of one prompt at a site, of what was cached: ``[positions, width...]``."""
    whole = cached[site][0]
    if positions == "last":
        return whole[-1:]
    if positions == "all":
        return whole
    if isinstance(positions, str):
        return whole[prompt.positions(positions.removeprefix("span:"))]
    return whole[list(positions)]
