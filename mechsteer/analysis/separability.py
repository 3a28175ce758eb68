"""How well a linear probe tells prompts with an instruction from those without, layer by layer. Ours.

A ridge classifier on standardised last-token states, in closed form: with K the Gram matrix of the training states and
y = +1 (with) or -1 (without), a = (K / d + ridge I)^-1 y, and a new state x counts as "with" where
sum_i a_i <x_i, x> / d > 0. Accuracy is on held-out queries: the queries are dealt into folds, and a query's two states
are never in both parts. Beside it the accuracy of the same probe trained on shuffled labels, which is what telling
apart by chance looks like with so many dimensions.

With more states than dimensions the same weights w = sum_i a_i x_i come from w = (X^T X / d + ridge I)^-1 X^T y, whose
matrix is as wide as a state, so that memory does not grow with the states.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.analysis.bootstrap import seeded
from mechsteer.analysis.moments import Moments
from mechsteer.errors import MechsteerError, finite, positive_int
from mechsteer.sources import GROUPS, Pair, Paired, pairs_at_layers
from mechsteer.stats import wilson
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd


@torch.no_grad()
def separability(
    model: Any,
    pairs: Sequence[Pair] | Any = None,
    *,
    groups: Sequence[str] = GROUPS,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    stack: str | None = None,
    folds: int = 5,
    ridge: float = 0.1,
    steer: Intervention | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> "pd.DataFrame":
    """Held-out accuracy of a linear probe for the instruction, by layer.

    Args:
        model: A loaded model; or captured activations: a store, what :func:`mechsteer.capture` returned, or the
            library's caches by group. Of these the last tokens' states are read, some pairs at a time.
        pairs: ``(with instruction, without instruction)``, or prompts by group; at least as many different queries as
            folds. Of captured activations None for all of the two groups.
        groups: The names of the groups with and without.
        site: The kind of site; one with a vector a position.
        layers: Default: all; negative ones count from the end.
        stack: ``"encoder"`` for the last token of an encoder-decoder's input; default: the position that predicts.
        folds: How many parts the queries are dealt into; each is held out once.
        ridge: Added to the diagonal, in units of the mean squared standardised feature; above 0.
        steer: An intervention.
        batch_size: Prompts in one pass; does not change the result.
        seed: Of the folds and the shuffled labels.
        progress: Show a bar.

    Returns:
        One row a layer. Columns: layer, accuracy (0 to 1), low, high (Wilson's 95 % interval over the held-out
        states), shuffled (the control), n_train (states in a fold's training part, the smallest), n_test (all).

    Raises:
        MechsteerError: for too few queries, a ridge that is not above 0, an unknown site or layer, activations that are
            not finite, or an intervention that does not fit; for a group, layer or position that was not captured.

    Example:
        >>> ms.separability(model, pairs, folds=2)
    """
    import pandas as pd

    positive_int("folds", folds)
    if not finite("ridge", ridge) > 0:
        raise MechsteerError(f"ridge must be above 0, got {ridge}.")
    found = pairs_at_layers(
        model,
        pairs,
        kind=site,
        layers=layers,
        stack=stack,
        groups=groups,
        at_least=2,
        steer=steer,
        batch_size=batch_size,
        progress=progress,
    )
    fold, labels, shuffled = _dealt([p.text for p in found.second], folds, seed)
    smallest = min(int((fold != f).sum()) for f in range(folds))
    rows = []
    for layer, name in found.by_layer():
        right, control = _right(found, name, labels, shuffled, fold, ridge)
        low, high = wilson(right / len(labels), len(labels))
        rows.append((layer, right / len(labels), low, high, control / len(labels), smallest, len(labels)))
    return pd.DataFrame(rows, columns=["layer", "accuracy", "low", "high", "shuffled", "n_train", "n_test"])


def _dealt(
    texts: Sequence[str], folds: int, seed: int
) -> tuple[Int[Tensor, "states"], Float[Tensor, "states"], Float[Tensor, "states"]]:
    """The fold of each state, those with before those without, its label, and the labels shuffled."""
    queries = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    if not 2 <= folds <= len(queries):
        raise MechsteerError(f"folds must be from 2 to the number of different queries, {len(queries)}; got {folds}.")
    generator = seeded(seed)
    dealt = torch.arange(len(queries)) % folds
    dealt = dealt[torch.randperm(len(queries), generator=generator)]
    fold = torch.tensor([int(dealt[queries[text]]) for text in texts]).repeat(2)
    labels = torch.tensor([1.0] * len(texts) + [-1.0] * len(texts), dtype=torch.float64)
    return fold, labels, labels[torch.randperm(len(labels), generator=generator)]


def _right(
    found: Paired,
    site: str,
    labels: Float[Tensor, "states"],
    shuffled: Float[Tensor, "states"],
    fold: Int[Tensor, "states"],
    ridge: float,
) -> tuple[int, int]:
    """How many held-out states get their label, from probes that were taught labels and shuffled ones."""
    width = found.read(site, 0, 0, 1).flatten(1).shape[1]
    taught = torch.stack([labels, shuffled], dim=1)
    if len(labels) > width:
        return _right_by_sums(found, site, taught, fold, ridge)
    x = torch.cat([part for _, part in _states(found, site)])
    return held_out(x, labels, labels, fold, ridge), held_out(x, shuffled, labels, fold, ridge)


def _states(found: Paired, site: str) -> Iterator[tuple[Int[Tensor, "rows"], Float[Tensor, "rows width"]]]:
    """All states at a site with their places, a block at a time."""
    for side in (0, 1):
        for first, end in found.blocks():
            places = torch.arange(first, end) + side * len(found)
            yield places, found.read(site, side, first, end).double().flatten(1)


def _right_by_sums(
    found: Paired, site: str, taught: Float[Tensor, "states probes"], fold: Int[Tensor, "states"], ridge: float
) -> tuple[int, int]:
    """The same as :func:`held_out` of all states; for each fold one pass over the others and one over its own."""
    right = torch.zeros(2, dtype=torch.long)
    for held in range(int(fold.max()) + 1):
        mean, spread, weights = _probes(found, site, taught, fold != held, ridge)
        for places, x in _states(found, site):
            mine = fold[places] == held
            said = ((x[mine] - mean) / spread) @ weights > 0
            right += (said == (taught[places[mine], :1] > 0)).sum(0)
    return int(right[0]), int(right[1])


def _probes(
    found: Paired, site: str, taught: Float[Tensor, "states probes"], known: Bool[Tensor, "states"], ridge: float
) -> tuple[Float[Tensor, "width"], Float[Tensor, "width"], Float[Tensor, "width probes"]]:
    """Mean and spread of the known states, and the weights of a probe for each column of labels."""
    width = found.read(site, 0, 0, 1).flatten(1).shape[1]
    moments, sums = Moments.none(width), torch.zeros(width, taught.shape[1], dtype=torch.float64)
    for places, x in _states(found, site):
        mine = known[places]
        if mine.any():
            moments.add(x[mine])
            sums += x[mine].T @ taught[places[mine]]
    spread = moments.std.clamp(min=1e-12)
    by_label = (sums - torch.outer(moments.mean, taught[known].sum(0))) / spread[:, None] / width
    matrix = moments.products.div_(spread[:, None]).div_(spread * width)
    matrix.diagonal().add_(ridge)
    return moments.mean, spread, torch.linalg.solve(matrix, by_label)


def held_out(
    x: Float[Tensor, "states width"],
    taught: Float[Tensor, "states"],
    asked: Float[Tensor, "states"],
    fold: Int[Tensor, "states"],
    ridge: float,
) -> int:
    """How many held-out states get the label that is asked for, from probes that were taught other folds' labels."""
    right = 0
    for held in range(int(fold.max()) + 1):
        train, test = fold != held, fold == held
        known, new = x[train], x[test]  # copies
        mean, spread = known.mean(0), known.std(0).clamp(min=1e-12)
        for some in (known, new):
            some.sub_(mean).div_(spread)
        gram = known @ known.T / x.shape[1]
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), taught[train])
        right += int((((new @ known.T) @ weights > 0) == (asked[test] > 0)).sum())
    return right
