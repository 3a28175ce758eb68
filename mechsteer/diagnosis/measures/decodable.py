"""Is the instruction decodable from the state at the answer? Linear probes by layer, and what cutting attention leaves.

The probe of :func:`mechsteer.separability` tells prompts with from the same without their instruction, cross-validated:
a query's two states are never in both parts. Its control are shuffled labels: which of a query's two states counts as
"with" is drawn by a coin, many times, and the best layer of each draw is what the best layer has to beat. With and
without differ in length and position too; so the probe is asked again with attention to the instruction cut in the
prompts that have it. What it still finds did not come through attention to the instruction.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.bootstrap import seeded
from mechsteer.analysis.separability import held_out
from mechsteer.diagnosis.measures.cutting import cut
from mechsteer.diagnosis.measures.windows import SPANS
from mechsteer.models import predicting_stack, site
from mechsteer.prompts import Prompt
from mechsteer.sources import last_states
from mechsteer.stats import share_interval

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
FEWEST = 4
"""Queries that a probe needs at least."""

RIDGE = 0.1
SHUFFLES = 49
COLUMNS = ["layer", "accuracy", "low", "high", "accuracy_cut", "shuffled", "shuffled_most", "p_value", "n_test"]


def best_layer(table: "pd.DataFrame", layers: int) -> int | None:
    """The layer that tells the instruction best; of several, the one nearest to the middle of the stack."""
    if table.empty:
        return None
    best = [int(layer) for layer in table.loc[table["accuracy"] == table["accuracy"].max(), "layer"]]
    return min(best, key=lambda layer: (abs(layer - (layers - 1) / 2), layer))


@torch.no_grad()
def decodability(model: Any, pairs: list[tuple[Prompt, Prompt]], batch_size: int) -> "pd.DataFrame":
    """How well a probe tells prompts with their instruction from the same without, by layer.

    Args:
        model: A loaded model.
        pairs: ``(with, without)``; those with have the spans :data:`SPANS`.
        batch_size: Prompts computed together.

    Returns:
        One row a layer: layer, accuracy with low and high (95 %, held-out states), accuracy_cut (attention to the
        instruction cut), shuffled (mean over shuffles), shuffled_most (the best layer of the best shuffle), p_value
        (the part of the shuffles whose best layer is as good as this one; at least 1 of 50), n_test (states). No rows
        where there are too few different queries.
    """
    import pandas as pd

    queries = {text: place for place, text in enumerate(dict.fromkeys(without.text for _, without in pairs))}
    if len(queries) < FEWEST:
        return pd.DataFrame(columns=COLUMNS)
    generator = seeded(0)
    dealt = (torch.arange(len(queries)) % min(FOLDS, len(queries)))[torch.randperm(len(queries), generator=generator)]
    fold = torch.tensor([int(dealt[queries[without.text]]) for _, without in pairs]).repeat(2)
    coins = torch.randint(0, 2, (SHUFFLES, len(pairs)), generator=generator).double() * 2 - 1
    sites = {layer: site(model, "resid_post", layer) for layer in range(predicting_stack(model)[1])}
    prompts = [*(one for one, _ in pairs), *(other for _, other in pairs)]
    states = last_states(model, prompts, list(sites.values()), batch_size=batch_size)
    steer = cut(SPANS[0], rows=range(len(pairs)))
    after = last_states(model, prompts, list(sites.values()), steer=steer, batch_size=batch_size)
    labels = torch.cat([torch.ones(len(pairs)), -torch.ones(len(pairs))]).double()
    right = {layer: _right(states[name], labels, fold) for layer, name in sites.items()}
    shuffled = torch.tensor(
        [[_right(states[name], labels * coin.repeat(2), fold) for name in sites.values()] for coin in coins]
    )
    best, n = shuffled.amax(1), len(labels)
    rows = [
        (
            layer,
            right[layer] / n,
            *share_interval(right[layer], n),
            _right(after[name], labels, fold) / n,
            float(shuffled[:, column].double().mean()) / n,
            int(best.max()) / n,
            (1 + int((best >= right[layer]).sum())) / (1 + SHUFFLES),
            n,
        )
        for column, (layer, name) in enumerate(sites.items())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _right(states: Float[Tensor, "states *width"], labels: Float[Tensor, "states"], fold: Int[Tensor, "states"]) -> int:
    return held_out(states.double().flatten(1), labels, labels, fold, RIDGE)
