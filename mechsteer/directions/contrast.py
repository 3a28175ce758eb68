"""Difference in means: the direction from states without an instruction to states with it.

Paper: "Improving Instruction-Following in Language Models through Activation Steering" (arXiv 2410.12877). For base
queries i, at one layer l, at the last token of the prompt (chat template included):

    d = (1/N) sum_i (x+_i - x_i),   u = d / ||d||,   zbar = (1/N) sum_i <x+_i, u>

x+ with the instruction, x without. The mean is taken first and normalised after it; there is no centring. ``u`` and
``zbar`` are what :func:`mechsteer.project` uses for format instructions, ``u`` what :func:`mechsteer.add` uses for
length and words. In encoder-decoders, which the paper does not have, the state is the one at the decoder's start token.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.directions.direction import Direction
from mechsteer.errors import MechsteerError, listed, not_finite, positive_int, shown
from mechsteer.files import digest
from mechsteer.models import (
    advance,
    as_prompts,
    at_last,
    check_model,
    first_tokens,
    hooked,
    pad,
    predicting_stack,
    provenance,
    site,
    start,
)
from mechsteer.prompts import Batch, Prompt, PromptLike

Pair = tuple[PromptLike, PromptLike]


def difference_in_means(
    model: Any,
    pairs: Sequence[Pair],
    *,
    layer: int,
    site: str = "resid_post",
    batch_size: int = 32,
    progress: bool = False,
) -> Direction:
    """Estimate the direction at one layer.

    Args:
        model: A loaded model, of either type.
        pairs: ``(with instruction, without instruction)``, texts or prompts.
        layer: The layer, from 0. Encoder-decoders: of the decoder.
        site: The kind of site in that layer; one with a vector a position.
        batch_size: Prompts in one pass; does not change the result.
        progress: Show a bar.

    Returns:
        The direction. ``vector`` is d, ``mean_projection`` is zbar, ``activation_norm`` is the mean norm of the states
        with the instruction.

    Raises:
        MechsteerError: for no pairs, pairs that do not differ, an unknown site or layer, states that are not finite
            (with site and pair).

    Warns:
        UserWarning: if some of the pairs do not differ, with their number; they pull the vector towards zero.
    """
    return differences_in_means(model, pairs, layers=[layer], site=site, batch_size=batch_size, progress=progress)[
        layer
    ]


def differences_in_means(
    model: Any,
    pairs: Sequence[Pair],
    *,
    layers: Sequence[int] | None = None,
    site: str = "resid_post",
    batch_size: int = 32,
    progress: bool = False,
) -> dict[int, Direction]:
    """The directions of several layers (default: all) in one pass over the pairs; see :func:`difference_in_means`."""
    positive_int("batch_size", batch_size)
    first, second = pair_prompts(model, pairs)
    _check_pairs(first, second)
    chosen = range(predicting_stack(model)[1]) if layers is None else listed("layers", layers)
    sites = {layer: _site(model, site, layer) for layer in chosen}
    with_it = _states(model, first, list(sites.values()), batch_size, progress)
    without = _states(model, second, list(sites.values()), batch_size, progress)
    meta = provenance(model) | {
        "examples": str(len(first)),
        "examples_hash": digest([(a.text, b.text) for a, b in zip(first, second, strict=True)]),
    }
    return {layer: _direction(name, with_it[name], without[name], meta) for layer, name in sites.items()}


def pair_prompts(model: Any, pairs: Sequence[Pair], *, at_least: int = 1) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts with and those without the instruction.

    Raises:
        MechsteerError: for fewer pairs than are needed, or what is no pair.
    """
    check_model(model)
    given = listed("pairs", pairs)
    wrong = [
        pair
        for pair in given
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2 or isinstance(pair[0], Mapping)
    ]
    if wrong:
        raise MechsteerError(f"A pair is (with instruction, without instruction), got {shown(wrong[0])}.")
    if not given:
        raise MechsteerError("No pairs of prompts were given.")
    if len(given) < at_least:
        raise MechsteerError(f"At least {at_least} pairs of prompts are needed, got {len(given)}.")
    return as_prompts(model, [pair[0] for pair in given]), as_prompts(model, [pair[1] for pair in given])


def _check_pairs(first: Sequence[Prompt], second: Sequence[Prompt]) -> None:
    """Say how many pairs are the same prompt twice."""
    equal = [a.text for a, b in zip(first, second, strict=True) if torch.equal(a.tokens, b.tokens)]
    if len(equal) == len(first):
        raise MechsteerError(f"All {len(equal)} pairs have the same prompt with and without, e.g. {equal[0]!r}.")
    if equal:
        warnings.warn(
            f"{len(equal)} of {len(first)} pairs have the same prompt with and without, e.g. {equal[0]!r}; they pull "
            "the vector towards zero.",
            stacklevel=3,
        )


_site = site  # the parameter of the same name hides the function


def _direction(
    name: str, with_it: Float[Tensor, "n width"], without: Float[Tensor, "n width"], meta: dict[str, str]
) -> Direction:
    vector = (with_it - without).mean(0)
    norm = vector.norm()
    projection = float((with_it @ (vector / norm)).mean()) if norm > 0 else 0.0
    return Direction(
        vector=vector,
        site=name,
        method="difference_in_means",
        mean_projection=projection,
        activation_norm=float(with_it.norm(dim=-1).mean()),
        meta=meta,
    )


@torch.no_grad()
def _states(
    model: Any, prompts: Sequence[Prompt], sites: Sequence[str], batch_size: int, progress: bool
) -> dict[str, Float[Tensor, "n width"]]:
    """The state at the last position (of T5's decoder its start token), for every prompt and site."""
    rows: dict[str, list[Tensor]] = {name: [] for name in sites}
    for first in tqdm(range(0, len(prompts), batch_size), desc="states", unit="batch", disable=not progress):
        for name, x in _last(model, pad(model, prompts[first : first + batch_size]), sites).items():
            bad = ~x.isfinite().all(1)
            if bad.any():
                raise not_finite(name, first + int(bad.nonzero()[0]))
            rows[name].append(x)
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _last(model: Any, chunk: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "batch width"]]:
    """The states of one batch."""
    found: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        if x.ndim != 3:
            raise MechsteerError(f"{hook.name!r} holds {tuple(x.shape)}; a direction needs one vector a position.")
        found[hook.name] = at_last(model, x, hook.name, chunk).float().cpu()

    with hooked(model, [(name, keep) for name in sites]):
        advance(model, start(model, chunk.tokens, chunk.mask), *first_tokens(model, chunk))
    return found
