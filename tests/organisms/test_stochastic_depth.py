"""Skipping blocks at random in training."""

import pytest
import torch
from torch import nn

from mechsteer.organisms.stochastic_depth import skipped_at_random


class AddOne(nn.Module):
    """A block in T5's form: the residual stream comes first, in and out."""

    def forward(self, residual: torch.Tensor) -> tuple[torch.Tensor, str]:
        return residual + 1, "position bias"


def run(blocks: nn.ModuleList) -> torch.Tensor:
    residual = torch.zeros(1000, 3, 2)
    for block in blocks:
        residual, note = block(residual)
        assert note == "position bias"
    return residual


def test_each_example_skips_each_block_as_often_as_said() -> None:
    blocks = nn.ModuleList([AddOne(), AddOne()]).train()
    with skipped_at_random(blocks, (0.75, 0.0), seed=0):
        counts = run(blocks)
    assert (counts == counts[:, :1, :1]).all(), "an example skips a block as a whole"
    assert counts[:, 0, 0].mean() == pytest.approx(1.25, abs=0.05)
    assert set(counts.unique().tolist()) == {1.0, 2.0}


def test_nothing_is_skipped_in_evaluation_or_afterwards() -> None:
    blocks = nn.ModuleList([AddOne(), AddOne()])
    with skipped_at_random(blocks, (0.5, 0.5), seed=0):
        assert (run(blocks.eval()) == 2).all()
    assert (run(blocks.train()) == 2).all()


def test_skips_are_a_function_of_the_seed() -> None:
    blocks = nn.ModuleList([AddOne()]).train()
    results = []
    for seed in (1, 1, 2):
        with skipped_at_random(blocks, (0.5,), seed):
            results.append(run(blocks))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_one_probability_per_block() -> None:
    with pytest.raises(ValueError, match="shorter"), skipped_at_random([AddOne(), AddOne()], (0.5,), seed=0):
        pass
