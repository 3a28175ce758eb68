"""Mean and covariance of activations, without keeping the rows.

Batches are merged by the pairwise update of Chan, Golub and LeVeque (Algorithms for Computing the Sample Variance, The
American Statistician 37, 1983): for two sets with counts n, m, means a, b and centred products A, B,

    n + m,   a + (b - a) m/(n + m),   A + B + (b - a)(b - a)^T n m/(n + m)

All sums are in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.activations.streaming import Chunk, make_plan, stream
from mechsteer.errors import MechsteerError
from mechsteer.models import as_prompts
from mechsteer.prompts import Prompts
from mechsteer.steering import Intervention, as_intervention


@dataclass
class Moments:
    """Running moments of the rows at one site; heads and their dimensions count as one dimension.

    Attributes:
        count: The number of rows.
        mean: ``[width]`` their mean.
        products: ``[width, width]`` the sum of outer products of the centred rows; ``[width]``, its diagonal, where
            only variances are wanted.
    """

    count: int
    mean: Float[Tensor, "width"]
    products: Float[Tensor, "width width"] | Float[Tensor, "width"]

    @property
    def covariance(self) -> Float[Tensor, "width width"]:
        """The unbiased covariance (division by count - 1).

        Raises:
            MechsteerError: for fewer than two rows, or where only variances were kept.
        """
        if self.products.ndim == 1:
            raise MechsteerError("Only variances were kept: use covariance=True.")
        return self.products / self._freedom()

    @property
    def variance(self) -> Float[Tensor, "width"]:
        """The unbiased variance of each dimension."""
        return (self.products.diagonal() if self.products.ndim == 2 else self.products) / self._freedom()

    @property
    def std(self) -> Float[Tensor, "width"]:
        """The standard deviation of each dimension: the root of :attr:`variance`."""
        return self.variance.sqrt()

    def _freedom(self) -> int:
        if self.count < 2:
            raise MechsteerError(f"A variance needs at least two rows, there is {self.count}.")
        return self.count - 1

    def add(self, rows: Float[Tensor, "rows width"]) -> None:
        """Merge the moments of more rows."""
        rows = rows.double()
        m, n = rows.shape[0], self.count
        mean = rows.mean(0)
        centred, apart = rows - mean, mean - self.mean
        if self.products.ndim == 2:
            self.products += centred.T @ centred + torch.outer(apart, apart) * (n * m / (n + m))
        else:
            self.products += centred.square().sum(0) + apart.square() * (n * m / (n + m))
        self.mean = self.mean + apart * (m / (n + m))
        self.count = n + m


@torch.no_grad()
def moments(
    model: Any,
    prompts: Prompts,
    *,
    sites: str | Sequence[str],
    positions: str | Sequence[int] = "all",
    covariance: bool = True,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Moments]:
    """Mean and covariance of activations over prompts and positions; memory does not grow with the number of rows.

    Args:
        model: A loaded model.
        prompts: Texts or prompts.
        sites: Full names, glob patterns or kinds; see :func:`mechsteer.activations.capture`.
        positions: ``"last"``, ``"all"``, ``"span:NAME"`` or integers.
        covariance: Keep the whole covariance; without it only the variances, for wide sites.
        steer: An intervention.
        batch_size: Prompts in one pass; changes the result by rounding only.
        progress: Show a bar.

    Returns:
        For each site its :class:`Moments`: ``count``, ``mean``, ``covariance``, ``variance``, ``std``; float64.

    Raises:
        MechsteerError: as :func:`mechsteer.activations.capture` does.
    """
    made = as_prompts(model, prompts)
    plan = make_plan(model, sites, positions, as_intervention(steer))
    found = {}
    for name, width in plan.widths.items():
        size = torch.Size(width).numel()
        products = torch.zeros((size, size) if covariance else (size,), dtype=torch.float64)
        found[name] = Moments(0, torch.zeros(size, dtype=torch.float64), products)

    def take(chunk: Chunk) -> None:
        for name, values in chunk.values.items():
            found[name].add(values.flatten(1))

    stream(model, made, plan, take, batch_size=batch_size, progress="moments" if progress else "")
    return found
