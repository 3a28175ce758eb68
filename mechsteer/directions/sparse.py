"""Sparse learned interventions: a vector for a task at one layer, sparse across and within heads.

Paper: "Task-driven Layerwise Additive Activation Intervention" (arXiv 2502.06115). It learns a vector that is added to
the activations of the last token at one layer, with a lasso and a group lasso over attention heads. Its text and code
could not be obtained in full, so what follows is a template that agrees with what is known:

    min_D  (1/n) sum_i -log p(y_i | x_i; z <- z + D) + l1 |D|_1 + group_l2 sum_h |D_h|_2,   D in R^(heads x d_head)

Unknown: which activation (``hook_z`` is inferred from D's size and its groups), whether generated tokens are edited as
well (``generated="all"``), the weights, the optimiser, its steps, the number of examples and how the layer is chosen.
The optimiser here is ours (:mod:`mechsteer.directions.proximal`). The loss is the mean over examples of the sum over
the target's tokens. The opinion task's loss is KL(target || model) at the first token over the whole vocabulary.

Ours, too: several layers at once, whose groups are the heads of all of them, and sites of the residual stream, which
are one group a layer.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.directions.direction import Direction
from mechsteer.directions.proximal import largest_weight
from mechsteer.directions.sparse_examples import Target
from mechsteer.directions.sparse_fit import SparseFit, fit
from mechsteer.directions.sparse_problem import Problem
from mechsteer.errors import MechsteerError, finite, listed, positive_int, shown
from mechsteer.models import parse
from mechsteer.prompts import PromptLike
from mechsteer.sources import Steering

if TYPE_CHECKING:
    import pandas as pd


@torch.inference_mode(False)
def sparse_direction(
    model: Any,
    examples: Sequence[tuple[PromptLike, Target]],
    *,
    layer: int,
    l1: float = 0.0,
    group_l2: float = 0.0,
    site: str = "z",
    generated: str = "none",
    n: int | None = None,
    validation: float = 0.2,
    patience: int = 10,
    max_steps: int = 100,
    seed: int = 0,
    steer: Steering | None = None,
    batch_size: int = 64,
) -> Direction:
    """Learn the vector of a task at one layer.

    Args:
        model: A loaded model, of either type.
        examples: ``(prompt, target)``. A target is a continuation as it follows the prompt, its leading space included
            (``" le chat"``), or, for the KL loss, a mapping from first words to probabilities that add up to 1. All
            targets are of one kind.
        layer: The layer, from 0. Encoder-decoders: of the decoder.
        l1: Weight of the sum of absolute values, nats.
        group_l2: Weight of the sum of the heads' norms, nats.
        site: ``"z"`` (for :func:`mechsteer.heads`), ``"cross_z"``, or a site of the residual stream such as
            ``"resid_post"``, which is one group (for ``mechsteer.add(d, d.norm, scope="last_prompt")``).
        generated: ``"none"``: D acts at the last token of the prompt; ``"all"``: at generated tokens as well
            (``mechsteer.heads(d) + mechsteer.heads(d, scope="generated")``).
        n: How many of the examples to use, drawn by ``seed``; default: all.
        validation: The part of them that early stopping is judged by; 0 for none.
        patience: Steps without a better validation loss before it stops.
        max_steps: The most steps.
        seed: Of the draw and the split.
        steer: An intervention to learn under.
        batch_size: Examples in one pass; does not change the result.

    Returns:
        The direction; ``vector`` is D, head after head, zeros exact.

    Raises:
        MechsteerError: for fewer examples than asked, targets without tokens or of two kinds, weights below 0, a wrong
            layer or site, a loss that is not finite, or weights at which D is zero.

    Example:
        >>> gpt2 = ms.load("organism:rules-gpt2")
        >>> words = ms.tasks.rules("singular-plural", n=2, split="train").examples(gpt2)
        >>> ms.heads(ms.sparse_direction(gpt2, words, layer=0, l1=0.003, max_steps=20))
    """
    options: dict[str, Any] = {"generated": generated, "n": n, "validation": validation, "seed": seed}
    options |= {"steer": steer, "batch_size": batch_size}
    problem = Problem.of(model, examples, layers=[layer], site=site, **options)
    return fit(problem, l1, group_l2, patience=patience, max_steps=max_steps).direction


@torch.inference_mode(False)
def sparse_directions(
    model: Any,
    examples: Sequence[tuple[PromptLike, Target]],
    *,
    layers: Sequence[int] | None = None,
    l1: float = 0.0,
    group_l2: float = 0.0,
    site: str = "z",
    generated: str = "none",
    n: int | None = None,
    validation: float = 0.2,
    patience: int = 10,
    max_steps: int = 100,
    seed: int = 0,
    steer: Steering | None = None,
    batch_size: int = 64,
) -> dict[int, Direction]:
    """Learn vectors at several layers (default: all) at once; their groups are the heads of all these layers.

    Args:
        model: A loaded model.
        examples: As for :func:`sparse_direction`, like the other arguments.
        layers: The layers.
        l1: Weight of the sum of absolute values.
        group_l2: Weight of the sum of the groups' norms.
        site: The kind of site.
        generated: Whether generated tokens are edited too.
        n: How many examples.
        validation: The part that is held out.
        patience: For early stopping.
        max_steps: The most steps.
        seed: Of the draw and the split.
        steer: An intervention to learn under.
        batch_size: Examples in one pass.

    Returns:
        By layer the directions that are not zero; all of them are to be added at once.

    Raises:
        MechsteerError: as :func:`sparse_direction` does, and for weights at which all are zero.
    """
    options: dict[str, Any] = {"generated": generated, "n": n, "validation": validation, "seed": seed}
    options |= {"steer": steer, "batch_size": batch_size}
    problem = Problem.of(model, examples, layers=layers, site=site, **options)
    found = fit(problem, l1, group_l2, patience=patience, max_steps=max_steps).directions
    if not found:
        raise MechsteerError(
            f"With l1={l1:g} and group_l2={group_l2:g} the learned vectors at {len(problem.sites)} layers are all "
            "zero; use smaller weights."
        )
    return {parsed[1]: d for name, d in found.items() if (parsed := parse(name))}


@torch.inference_mode(False)
def sparse_path(
    model: Any,
    examples: Sequence[tuple[PromptLike, Target]],
    *,
    layer: int | Sequence[int],
    weights: Sequence[tuple[float, float]] | None = None,
    points: int = 8,
    smallest: float = 0.02,
    l1_share: float = 0.5,
    site: str = "z",
    generated: str = "none",
    n: int | None = None,
    validation: float = 0.2,
    patience: int = 10,
    max_steps: int = 100,
    seed: int = 0,
    steer: Steering | None = None,
    batch_size: int = 64,
) -> list[SparseFit]:
    """Learn the vector with several weights, each fit beginning where the one before ended.

    Args:
        model: A loaded model.
        examples: As for :func:`sparse_direction`, like the other arguments.
        layer: The layer, or several.
        weights: Pairs of (l1, group_l2), in this order; default: ``points`` of them, from the largest that matter
            (where D is zero) down to ``smallest`` of that, evenly in their logarithm.
        points: How many.
        smallest: The last weight as a part of the first.
        l1_share: The part of the weight that is l1's; the rest is group_l2's.
        site: Where.
        generated: Whether generated tokens are edited too.
        n: How many examples.
        validation: The part that is held out.
        patience: For early stopping.
        max_steps: The most steps of each fit.
        seed: Of the draw and the split.
        steer: An intervention to learn under.
        batch_size: Examples in one pass.

    Returns:
        One fit for each pair of weights. :func:`path_table` makes a table of them.

    Raises:
        MechsteerError: as :func:`sparse_direction` does, but a D of zero is no error.

    Example:
        >>> gpt2 = ms.load("organism:rules-gpt2")
        >>> words = ms.tasks.rules("singular-plural", n=4, split="train").examples(gpt2)
        >>> ms.sparse_path(gpt2, words, layer=0, points=2, max_steps=5)
    """
    options: dict[str, Any] = {"generated": generated, "n": n, "validation": validation, "seed": seed}
    options |= {"steer": steer, "batch_size": batch_size}
    layers = layer if isinstance(layer, Iterable) else [layer]
    problem = Problem.of(model, examples, layers=layers, site=site, **options)
    pairs = default_weights(problem, points, smallest, l1_share) if weights is None else listed("weights", weights)
    fits: list[SparseFit] = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise MechsteerError(f"Weights are pairs (l1, group_l2), got {shown(pair)}.")
        before = fits[-1].delta if fits else None
        fits.append(fit(problem, *pair, start=before, patience=patience, max_steps=max_steps))
    return fits


def default_weights(problem: Problem, points: int, smallest: float, l1_share: float) -> list[tuple[float, float]]:
    """Weights evenly in their logarithm, from the smallest at which D is zero down to ``smallest`` of that.

    Raises:
        MechsteerError: for no points, or parts that are none.
    """
    positive_int("points", points)
    if not 0 < finite("smallest", smallest) <= 1:
        raise MechsteerError(f"smallest must be above 0 and at most 1, got {smallest}.")
    if not 0 <= finite("l1_share", l1_share) <= 1:
        raise MechsteerError(f"l1_share must be from 0 to 1, got {l1_share}.")
    most = largest_weight(problem.smooth(problem.zero())[1], l1_share)
    scales = [most * smallest ** (i / max(points - 1, 1)) for i in range(points)]
    return [(l1_share * w, (1 - l1_share) * w) for w in scales]


def path_table(fits: Sequence[SparseFit]) -> "pd.DataFrame":
    """Fits as a table: l1, group_l2, groups and entries (non-zero), norm, the losses, steps, stopped."""
    import pandas as pd

    return pd.DataFrame(
        {
            "l1": fit.l1,
            "group_l2": fit.group_l2,
            "groups": len(fit.groups),
            "entries": int(fit.delta.count_nonzero()),
            "norm": float(fit.delta.norm()),
            "loss": fit.loss,
            "validation_loss": fit.validation_loss,
            "unsteered_loss": fit.unsteered_loss,
            "steps": fit.steps,
            "stopped": fit.stopped,
        }
        for fit in fits
    )
