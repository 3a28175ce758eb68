"""Is the instruction decodable from the state at the answer? Linear probes by layer, and what cutting attention leaves.

:func:`mechsteer.separability` of prompts with against without their instruction: cross-validated, beside shuffled
labels. With and without differ in length and position too; so the same probe is asked again with attention to the
instruction cut in the prompts that have it. What it still finds did not come through attention to the instruction.
"""

from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

from mechsteer.analysis.separability import separability
from mechsteer.diagnosis.cutting import cut
from mechsteer.diagnosis.windows import SPANS
from mechsteer.prompts import Prompt
from mechsteer.stats import holm

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
FEWEST = 4
"""Queries that a probe needs at least."""


def decodability(model: Any, pairs: list[tuple[Prompt, Prompt]], batch_size: int) -> "pd.DataFrame":
    """How well a probe tells prompts with their instruction from the same without, by layer.

    Args:
        model: A loaded model.
        pairs: ``(with, without)``; those with have the spans :data:`SPANS`.
        batch_size: Prompts computed together.

    Returns:
        The columns of :func:`mechsteer.separability`, with p_value (exact binomial test against one half, one-sided),
        p_adjusted (Holm, over layers), accuracy_cut (attention to the instruction cut) and shuffled_cut. No rows where
        there are too few queries.
    """
    queries = len({without.text for _, without in pairs})
    if queries < FEWEST:
        import pandas as pd

        return pd.DataFrame()
    folds = min(FOLDS, queries)
    table = separability(model, pairs, folds=folds, batch_size=batch_size)
    steer = cut(SPANS[0], rows=range(len(pairs)))
    after = separability(model, pairs, folds=folds, steer=steer, batch_size=batch_size)
    right = (table["accuracy"] * table["n_test"]).round().astype(int)
    p_values = [
        float(binomtest(k, int(n), 0.5, alternative="greater").pvalue)
        for k, n in zip(right, table["n_test"], strict=True)
    ]
    return table.assign(
        p_value=p_values, p_adjusted=holm(p_values), accuracy_cut=after["accuracy"], shuffled_cut=after["shuffled"]
    )
