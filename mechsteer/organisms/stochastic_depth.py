"""Stochastic depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382), but with the early blocks skipped most.

For each example of a batch, block l is skipped with probability p_l in training: x_{l+1} = x_l instead of block_l(x_l).
The original lets p_l grow with depth. Here it falls, so that a model cannot settle everything in its first block, and
what it decides it decides in the middle. Nothing is skipped in evaluation, and nothing is rescaled.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def skipped_at_random(blocks: Iterable[nn.Module], probabilities: Sequence[float], seed: int) -> Iterator[None]:
    """Inside, skip each block for a random part of every training batch; `probabilities` has one entry per block."""
    generator = torch.Generator().manual_seed(seed)
    handles = [
        block.register_forward_hook(skip_hook(probability, generator))
        for block, probability in zip(blocks, probabilities, strict=True)
        if probability > 0
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def skip_hook(probability: float, generator: torch.Generator) -> Any:
    """Make a forward hook for a block whose first argument and first output are the residual stream."""

    def hook(block: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not block.training:
            return None
        before: Float[Tensor, "batch pos d_model"] = args[0]
        skip = torch.rand(len(before), 1, 1, generator=generator) < probability
        return (torch.where(skip, before, output[0]), *output[1:])

    return hook
