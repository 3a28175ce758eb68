"""Mean and covariance of rows, without keeping them.

Batches are merged by the pairwise update of Chan, Golub and LeVeque (Algorithms for Computing the Sample Variance, The
American Statistician 37, 1983): for two sets with counts n, m, means a, b and centred products A, B,

    n + m,   a + (b - a) m/(n + m),   A + B + (b - a)(b - a)^T n m/(n + m)

All sums are in float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError


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

    @classmethod
    def none(cls, width: int, *, covariance: bool = True) -> "Moments":
        """Those of no rows.

        Args:
            width: The size of a row.
            covariance: Keep the whole covariance; without it only the variances.
        """
        shape = (width, width) if covariance else (width,)
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def _freedom(self) -> int:
        if self.count < 2:
            raise MechsteerError(f"A variance needs at least two rows, there is {self.count}.")
        return self.count - 1

    def add(self, rows: Float[Tensor, "rows width"]) -> None:
        """Merge the moments of more rows."""
        rows = rows.double()
        mean = rows.mean(0)
        centred = rows - mean
        products = centred.T @ centred if self.products.ndim == 2 else centred.square().sum(0)
        self.merge(Moments(len(rows), mean, products))

    def merge(self, other: "Moments") -> None:
        """Merge the moments of other rows."""
        m, n = other.count, self.count
        if not m:
            return
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) if self.products.ndim == 2 else apart.square()
        self.products += other.products + between * (n * m / (n + m))
        self.mean = self.mean + apart * (m / (n + m))
        self.count = n + m
