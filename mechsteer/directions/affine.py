"""An affine map from states without an instruction to states with it: a shift, and a change that depends on the state.

With x_i and x+_i the last-token states of pair i without and with the instruction, mu the mean of the x_i, d the mean
of x+_i - x_i (the difference in means, :mod:`mechsteer.directions.contrast`), and X and Y the centred rows of the x_i
and of the x+_i - x_i,

    h' = h + d + M (h - mu),    M = argmin over rank(M) <= r of |Y - X M'|^2 + lambda |M|^2,

which is reduced-rank ridge regression (Mukherjee and Zhu, Statistical Analysis and Data Mining 4, 2011). With M = 0 it
is the difference in means. Of rank 1 it holds the projection on a unit vector u: M = -u u', d = (zbar - <mu, u>) u.

Affine maps as steering, chosen to match means and covariances instead: arXiv 2402.09631.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions.contrast import check_pairs, one_site
from mechsteer.directions.direction import Direction, own_numbers
from mechsteer.errors import MechsteerError, finite, positive_int
from mechsteer.files import digest
from mechsteer.sources import GROUPS, Pair, Recorded, Steering, paired


@dataclass(frozen=True, eq=False)
class AffineMap:
    """h' = h + d + L' R (h - mu).

    Attributes:
        shift: d, as it was estimated, with its site and where it came from.
        centre: mu, ``[width]``, float32 on the CPU like the others, and copied as a direction's vector is.
        left: L, ``[rank, width]``: the directions in which states change; of a fit, orthonormal rows.
        right: R, ``[rank, width]``: what of the state decides how far.

    Example:
        >>> fitted = ms.affine_map(model, pairs, layer=3, rank=2)
        >>> fitted.rank, ms.affine(fitted).save("map.safetensors")
    """

    shift: Direction
    centre: Float[Tensor, "width"]
    left: Float[Tensor, "rank width"]
    right: Float[Tensor, "rank width"]

    def __post_init__(self) -> None:
        for name in ("centre", "left", "right"):
            object.__setattr__(self, name, own_numbers(f"The {name} of an affine map", getattr(self, name)))
        width, shapes = self.shift.width, [list(t.shape) for t in (self.centre, self.left, self.right)]
        rank = self.left.shape[0] if self.left.ndim else 0
        if shapes != [[width], [rank, width], [rank, width]] or not rank:
            raise MechsteerError(
                f"An affine map of width {width} has a centre [{width}] and left and right [rank, {width}], of rank at "
                f"least 1, got {', '.join(map(str, shapes))}."
            )
        if not all(bool(torch.isfinite(t).all()) for t in (self.centre, self.left, self.right)):
            raise MechsteerError(f"The affine map at {self.site} has NaN or infinite entries.")

    @property
    def site(self) -> str:
        """The full name of the hook point that it belongs to."""
        return self.shift.site

    @property
    def rank(self) -> int:
        """The most dimensions in which changes of two states differ."""
        return int(self.left.shape[0])

    def change(self, states: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """D + M (h - mu), in float32, where the states are."""
        shift, centre, left, right = (t.to(states.device) for t in (self.shift.vector, *self._parts()))
        return shift + (states.float() - centre) @ right.T @ left

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.centre, self.left, self.right

    def __repr__(self) -> str:
        return f"AffineMap(rank {self.rank} at {self.site}, width {self.shift.width})"


def affine_map(
    model: Any,
    pairs: Sequence[Pair] | Any = None,
    *,
    layer: int,
    rank: int = 4,
    ridge: float = 1.0,
    site: str = "resid_post",
    groups: Sequence[str] = GROUPS,
    steer: Steering | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> AffineMap:
    """Fit the map at one layer.

    Args:
        model: A loaded model, of either type, or captured activations; as for :func:`mechsteer.difference_in_means`,
            like the arguments that are not explained here.
        pairs: ``(with instruction, without instruction)``, texts or prompts.
        layer: The layer, from 0. Encoder-decoders: of the decoder.
        rank: r. More than the pairs or the width allow is no error: M has the rank that there is.
        ridge: lambda, in mean squared singular values of X. With few pairs it decides how much M does; choose it on
            pairs that the fit has not seen.
        site: The kind of site in that layer; one with a vector a position.
        groups: The names of the groups with and without.
        steer: An intervention to fit under.
        batch_size: Prompts in one pass; does not change the result.
        progress: Show a bar.

    Raises:
        MechsteerError: as :func:`mechsteer.difference_in_means`; for fewer than two pairs, a rank below 1, or a ridge
            that is not above 0.

    Example:
        >>> steer = ms.affine(ms.affine_map(model, pairs, layer=3, rank=4), scope="last_prompt")
    """
    _checked(rank, ridge)

    def recorded(source: Recorded) -> dict[int, str]:
        return source.layers(site, [layer])

    found = paired(
        model,
        pairs,
        sites=lambda model: {layer: one_site(model, site, layer)},
        recorded_sites=recorded,
        groups=groups,
        at_least=2,
        steer=steer,
        batch_size=batch_size,
        progress=progress,
    )
    check_pairs(found.first, found.second)
    name = found.sites[layer]
    with_it, without = (torch.cat(list(found.side(name, side))) for side in (0, 1))
    texts = [(a.text, b.text) for a, b in zip(found.first, found.second, strict=True)]
    meta = {**found.provenance, "examples": str(len(found)), "examples_hash": digest(texts), "ridge": repr(ridge)}
    return fit_affine(with_it, without, site=name, rank=rank, ridge=ridge, meta=meta)


def fit_affine(
    with_it: Float[Tensor, "pairs width"],
    without: Float[Tensor, "pairs width"],
    *,
    site: str,
    rank: int = 4,
    ridge: float = 1.0,
    meta: dict[str, str] | None = None,
) -> AffineMap:
    """The map of states that are there: row i of both is pair i. See :func:`affine_map`.

    The best M of a rank is the ridge regression's B, cut to the directions in which what it predicts (of X, and of the
    rows that stand for the penalty) is largest: with X = U S V', those are the first left singular vectors of
    Y' U S (S^2 + lambda)^(-1/2).
    """
    _checked(rank, ridge)
    if with_it.ndim != 2 or with_it.shape != without.shape or len(with_it) < 2:
        raise MechsteerError(
            f"States are two tables [pairs, width] of one shape with at least two rows, got {list(with_it.shape)} and "
            f"{list(without.shape)}."
        )
    before, change = without.double(), (with_it - without).double()
    centre, shift = before.mean(0), change.mean(0)
    u, s, vt = torch.linalg.svd(before - centre, full_matrices=False)
    kept = s > s[0] * 1e-9
    u, s, vt = u[:, kept], s[kept], vt[kept]
    if not len(s):
        raise MechsteerError(f"The states without the instruction at {site} are all the same; use difference_in_means.")
    penalised = s.square() + ridge * s.square().mean()
    seen = (change - shift).T @ u  # Y' U
    left = torch.linalg.svd(seen * (s / penalised.sqrt()), full_matrices=False)[0][:, :rank].T
    right = left @ (seen * (s / penalised)) @ vt
    unit = shift / shift.norm() if shift.norm() > 0 else shift
    direction = Direction(
        shift.float(),
        site,
        "affine_map",
        mean_projection=float((with_it.double() @ unit).mean()),
        activation_norm=float(with_it.norm(dim=-1).mean()),
        meta=dict(meta or {}),
    )
    return AffineMap(direction, centre.float(), left.float(), right.float())


def _checked(rank: int, ridge: float) -> None:
    positive_int("rank", rank)
    if not finite("ridge", ridge) > 0:
        raise MechsteerError(f"ridge must be above 0, got {ridge}.")
