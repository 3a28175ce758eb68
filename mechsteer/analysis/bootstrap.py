"""Bootstrap intervals of means: 95 %, percentile, seeded."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, positive_int, shown

LEVEL = 0.95
SAMPLES = 1000
BLOCK = 64
"""Resamples drawn at once."""

MOST = 10**9
"""The most numbers of all resamples; two bytes each."""


def seeded(seed: int) -> torch.Generator:
    """A generator of random numbers.

    Raises:
        MechsteerError: if the seed is no integer.
    """
    try:
        return torch.Generator().manual_seed(seed)
    except (TypeError, ValueError, RuntimeError):
        raise MechsteerError(f"seed must be an integer, got {shown(seed)}.") from None


def resamples(n: int, *, samples: int = SAMPLES, seed: int = 0) -> Int[Tensor, "samples n"]:
    """How often each of n units is drawn in each resample of n draws; in 16 bits, as there are many.

    Raises:
        MechsteerError: for more than :data:`MOST` numbers, or no number of resamples.
    """
    if positive_int("n_boot", samples) * n > MOST:
        raise MechsteerError(
            f"n_boot={samples:,} resamples of {n:,} are {samples * n:,} numbers; at most {MOST:,} are drawn. For an "
            f"interval, {SAMPLES:,} resamples are enough."
        )
    generator, counts = seeded(seed), torch.zeros(samples, n, dtype=torch.int16)
    for some in counts.split(BLOCK):  # draws are 64 bits each
        drawn = torch.randint(n, some.shape, generator=generator)
        some.scatter_add_(1, drawn, torch.ones_like(some))
    return counts


def interval(estimates: Float[Tensor, "samples *rest"]) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """The ends of the interval that holds the middle 95 % of the resampled estimates; NaN ones are left out."""
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return estimates.nanquantile(low, dim=0), estimates.nanquantile(high, dim=0)


def mean_interval(
    values: Float[Tensor, "n *rest"], *, samples: int = SAMPLES, seed: int = 0
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """The mean over the first dimension, and the ends of its interval; NaN ends of a single value, which has none."""
    if len(values) == 1:  # every resample is that value: that is no certainty
        mean = values[0].double()
        none = torch.full_like(mean, torch.nan)
        return mean, none, none
    counts = resamples(len(values), samples=samples, seed=seed)
    estimates = torch.einsum("bn,n...->b...", counts.double(), values.double()) / len(values)
    return values.double().mean(0), *interval(estimates)


def interval_columns(names: Sequence[str], found: Iterable[Any], *, factor: float = 1.0) -> dict[str, float]:
    """A row's columns of means with intervals: ``name``, ``name_low`` and ``name_high`` for each name.

    Args:
        names: One for each mean.
        found: Means, lower ends and upper ends, as :func:`mean_interval` gives them.
        factor: 100 for percentages of shares.
    """
    made: dict[str, float] = {}
    three = (torch.atleast_1d(torch.as_tensor(part, dtype=torch.float64)).tolist() for part in found)
    for name, *values in zip(names, *three, strict=True):
        made |= {f"{name}{end}": factor * value for end, value in zip(("", "_low", "_high"), values, strict=True)}
    return made
