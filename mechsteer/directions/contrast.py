"""Difference in means: the direction from states without an instruction to states with it.

Paper: "Improving Instruction-Following in Language Models through Activation Steering" (arXiv 2410.12877). For base
queries i, at one layer l, at the last token of the prompt (chat template included):

    d = (1/N) sum_i (x+_i - x_i),   u = d / ||d||,   zbar = (1/N) sum_i <x+_i, u>

x+ with the instruction, x without. The mean is taken first and normalised after it; there is no centring. ``u`` and
``zbar`` are what :func:`mechsteer.project` uses for format instructions, ``u`` what :func:`mechsteer.add` uses for
length and words. In encoder-decoders, which the paper does not have, the state is the one at the decoder's start token.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions.direction import Direction
from mechsteer.errors import MechsteerError, listed
from mechsteer.files import digest
from mechsteer.models import predicting_stack, site
from mechsteer.sources import GROUPS, Member, Pair, Paired, Recorded, Steering, paired


def difference_in_means(
    model: Any,
    pairs: Sequence[Pair] | Any = None,
    *,
    layer: int,
    site: str = "resid_post",
    groups: Sequence[str] = GROUPS,
    steer: Steering | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Direction:
    """Estimate the direction at one layer.

    Args:
        model: A loaded model, of either type; or captured activations: a store, what :func:`mechsteer.capture`
            returned, or the library's caches by group. Of these the last tokens' states are read, some pairs at a time.
        pairs: ``(with instruction, without instruction)``, texts or prompts; or prompts by group. Of captured
            activations None for all of the two groups.
        layer: The layer, from 0. Encoder-decoders: of the decoder.
        site: The kind of site in that layer, or its full name; one with a vector a position.
        groups: The names of the groups with and without.
        steer: An intervention to estimate under.
        batch_size: Prompts in one pass; does not change the result.
        progress: Show a bar.

    Returns:
        The direction. ``vector`` is d, ``mean_projection`` is zbar, ``activation_norm`` is the mean norm of the states
        with the instruction.

    Raises:
        MechsteerError: for no pairs, pairs that do not differ, an unknown site or layer, states that are not finite
            (with site and pair), an intervention that does not fit; for a group, layer or position that was not
            captured.

    Warns:
        UserWarning: if some of the pairs do not differ, with their number; they pull the vector towards zero.

    Example:
        >>> direction = ms.difference_in_means(model, pairs, layer=3)
        >>> ms.project(direction)
    """
    found = differences_in_means(
        model, pairs, layers=[layer], site=site, groups=groups, steer=steer, batch_size=batch_size, progress=progress
    )
    return found[layer]


@torch.no_grad()
def differences_in_means(
    model: Any,
    pairs: Sequence[Pair] | Any = None,
    *,
    layers: Sequence[int] | None = None,
    site: str = "resid_post",
    groups: Sequence[str] = GROUPS,
    steer: Steering | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[int, Direction]:
    """The directions of several layers (default: all) in one pass over the pairs; see :func:`difference_in_means`."""

    def sites(model: Any) -> dict[int, str]:
        chosen = range(predicting_stack(model)[1]) if layers is None else listed("layers", layers)
        return {layer: one_site(model, site, layer) for layer in chosen}

    def recorded_sites(source: Recorded) -> dict[int, str]:
        if isinstance(site, str) and "." in site and layers is not None:
            return {layer: source.site(site, layer) for layer in layers}
        return source.layers(site, layers)

    found = paired(
        model,
        pairs,
        sites=sites,
        recorded_sites=recorded_sites,
        groups=groups,
        steer=steer,
        batch_size=batch_size,
        in_order=True,  # as ever: directions made earlier stay the same to the bit
        progress=progress,
    )
    check_pairs(found.first, found.second)
    texts = [(a.text, b.text) for a, b in zip(found.first, found.second, strict=True)]
    meta = {**found.provenance, "examples": str(len(found)), "examples_hash": digest(texts)}
    return {layer: _direction(found, name, meta) for layer, name in found.sites.items()}


def check_pairs(first: Sequence[Member], second: Sequence[Member]) -> None:
    """Say how many pairs are the same prompt twice."""
    equal = [a.text for a, b in zip(first, second, strict=True) if a.text and a.text == b.text]
    if equal and len(equal) == len(first):
        raise MechsteerError(f"All {len(equal)} pairs have the same prompt with and without, e.g. {equal[0]!r}.")
    if equal:
        warnings.warn(
            f"{len(equal)} of {len(first)} pairs have the same prompt with and without, e.g. {equal[0]!r}; they pull "
            "the vector towards zero.",
            stacklevel=4,
        )


one_site = site  # the parameter of the same name hides the function


def _direction(found: Paired, site: str, meta: dict[str, str]) -> Direction:
    """Two passes over the states at a site: the mean difference first, then the projections on it."""
    count = len(found)
    vector: Float[Tensor, "width"] | int = 0
    for with_it, without in found.states(site):
        if with_it.ndim != 2:
            raise MechsteerError(f"{site!r} holds {tuple(with_it.shape)}; a direction needs one vector a position.")
        vector = vector + (with_it - without).sum(0)
    assert isinstance(vector, Tensor)
    vector = vector / count
    norm = vector.norm()
    projection, size = torch.zeros(()), torch.zeros(())
    for with_it in found.side(site, 0):
        projection = projection + (with_it @ (vector / norm)).sum()
        size = size + with_it.norm(dim=-1).sum()
    return Direction(
        vector=vector,
        site=site,
        method="difference_in_means",
        mean_projection=float(projection / count) if norm > 0 else 0.0,
        activation_norm=float(size / count),
        meta=meta,
    )
