"""How well a linear probe tells prompts with an instruction from those without, layer by layer. Ours.

A ridge classifier on standardised last-token states, in closed form: with K the Gram matrix of the training states and
y = +1 (with) or -1 (without), a = (K / d + ridge I)^-1 y, and a new state x counts as "with" where
sum_i a_i <x_i, x> / d > 0. Accuracy is on held-out queries: the queries are dealt into folds, and a query's two states
are never in both parts. Beside it the accuracy of the same probe trained on shuffled labels, which is what telling
apart by chance looks like with so many dimensions.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.bootstrap import seeded
from mechsteer.analysis.states import last_states, pair_sites
from mechsteer.directions.contrast import Pair, pair_prompts
from mechsteer.errors import MechsteerError, finite, positive_int
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

Z = 1.959963984540054  # of a 95 % interval


@torch.no_grad()
def separability(
    model: Any,
    pairs: Sequence[Pair],
    *,
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
        model: A loaded model.
        pairs: ``(with instruction, without instruction)``; at least as many different queries as folds.
        site: The kind of site; one with a vector a position.
        layers: Default: all.
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
            not finite, or an intervention that does not fit.
    """
    import pandas as pd

    positive_int("folds", folds)
    if not finite("ridge", ridge) > 0:
        raise MechsteerError(f"ridge must be above 0, got {ridge}.")
    first, second = pair_prompts(model, pairs, at_least=2)
    queries = {text: place for place, text in enumerate(dict.fromkeys(p.text for p in second))}
    if not 2 <= folds <= len(queries):
        raise MechsteerError(f"folds must be from 2 to the number of different queries, {len(queries)}; got {folds}.")
    generator = seeded(seed)
    dealt = torch.arange(len(queries)) % folds
    dealt = dealt[torch.randperm(len(queries), generator=generator)]
    fold = torch.tensor([int(dealt[queries[p.text]]) for p in second]).repeat(2)
    labels = torch.tensor([1.0] * len(first) + [-1.0] * len(second), dtype=torch.float64)
    shuffled = labels[torch.randperm(len(labels), generator=generator)]
    names = pair_sites(model, site, layers, stack)
    states = last_states(
        model, [*first, *second], list(names.values()), steer=steer, batch_size=batch_size, progress=progress
    )
    rows = []
    for layer, name in names.items():
        x = states[name].double().flatten(1)
        right = held_out(x, labels, labels, fold, ridge)
        low, high = wilson(right, len(labels))
        control = held_out(x, shuffled, labels, fold, ridge)
        smallest = min(int((fold != f).sum()) for f in range(folds))
        rows.append((layer, right / len(labels), low, high, control / len(labels), smallest, len(labels)))
    return pd.DataFrame(rows, columns=["layer", "accuracy", "low", "high", "shuffled", "n_train", "n_test"])


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
        mean, spread = x[train].mean(0), x[train].std(0).clamp(min=1e-12)
        known, new = (x[train] - mean) / spread, (x[test] - mean) / spread
        gram = known @ known.T / x.shape[1]
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), taught[train])
        right += int((((new @ known.T) @ weights > 0) == (asked[test] > 0)).sum())
    return right


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z2 = right / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)
