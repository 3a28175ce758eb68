"""Ridge maps between the states of two models."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

States = Float[Tensor, "prompts width"]

WEIGHTS = tuple(10.0**power for power in range(-4, 4))
"""Ridge weights that are tried, in mean squared singular values of the centred states."""


@dataclass(frozen=True)
class RidgeMap:
    """y = b + W (x - a), a and b the means of the states that it was fitted to.

    Attributes:
        source: a.
        target: b.
        matrix: W, ``[target width, source width]``.
        weight: The ridge weight, chosen by leaving one prompt out.
        edge: Whether it is the first or the last of :data:`WEIGHTS`.
    """

    source: Float[Tensor, "width"]
    target: Float[Tensor, "other"]
    matrix: Float[Tensor, "other width"]
    weight: float
    edge: bool

    def states(self, x: States) -> Float[Tensor, "prompts other"]:
        """What the map makes of states."""
        return self.target + (x.double() - self.source) @ self.matrix.T

    def vector(self, v: Float[Tensor, "width"]) -> Float[Tensor, "other"]:
        """What it makes of a difference of states."""
        return (self.matrix @ v.double()).float()


def ridge_map(x: States, y: Float[Tensor, "prompts other"]) -> RidgeMap:
    """Fit the map from x to y, row i of both being prompt i.

    W minimises |Y - X W'|^2 + lambda |W|^2 of the centred rows. lambda is the one whose predictions of each row by all
    others are best: with hat matrix H = U s^2 / (s^2 + lambda) U' + 1 / n these errors are e_i / (1 - H_ii).
    """
    x, y = x.double(), y.double()
    a, b = x.mean(0), y.mean(0)
    u, s, vt = torch.linalg.svd(x - a, full_matrices=False)
    kept = s > s[0] * 1e-9
    u, s, vt = u[:, kept], s[kept], vt[kept]
    seen = u.T @ (y - b)
    errors = []
    for weight in WEIGHTS:
        shrunk = s.square() / (s.square() + weight * s.square().mean())
        leverage = (u.square() * shrunk).sum(1) + 1 / len(x)
        left = (y - b - u @ (shrunk[:, None] * seen)) / (1 - leverage).clamp(min=1e-9)[:, None]
        errors.append(float(left.square().sum()))
    place = min(range(len(WEIGHTS)), key=errors.__getitem__)
    weight = WEIGHTS[place]
    scale = s / (s.square() + weight * s.square().mean())
    return RidgeMap(a, b, seen.T @ (scale[:, None] * vt), weight, place in (0, len(WEIGHTS) - 1))


def explained(
    goal: States, predicted: States, mean: Float[Tensor, "width"]
) -> tuple[Float[Tensor, "prompts"], Float[Tensor, "prompts"]]:
    """The squared errors of predictions, and those of the mean, by row: R^2 is 1 - the ratio of their sums."""
    goal = goal.double()
    return (goal - predicted).square().sum(1), (goal - mean).square().sum(1)


def orthogonal(out: int, into: int, seed: int) -> Float[Tensor, "other width"]:
    """A random matrix with orthonormal rows or columns, whichever are fewer."""
    drawn = torch.randn(max(out, into), min(out, into), generator=torch.Generator().manual_seed(seed))
    q = torch.linalg.qr(drawn.double())[0]
    return q if out >= into else q.T
