"""The fit of cosines to c(n) = C n / (n + k)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 200
KS = np.concatenate([[0.0], np.logspace(-3, 3, 241)])
"""The values of k that are tried: to 3 %."""


def fitted(pairs: Sequence[float], cosines: Sequence[float]) -> tuple[float, float, float]:
    """C in [0, 1], k and the share of the cosines' variance that the curve explains; least squares.

    Of several k that fit as well, as where C is 0, it is the smallest.
    """
    n, c = np.asarray(pairs, dtype=float), np.asarray(cosines, dtype=float)
    curves = n / (n + KS[:, None])
    ceilings = np.clip((curves @ c) / (curves**2).sum(1), 0.0, 1.0)
    errors = ((c - ceilings[:, None] * curves) ** 2).sum(1)
    place = int(errors.argmin())
    spread = float(((c - c.mean()) ** 2).sum())
    return float(ceilings[place]), float(KS[place]), 1 - float(errors[place]) / spread if spread > 0 else float("nan")


def fit_of(table: "pd.DataFrame") -> dict[str, Any]:
    """The fit to the column ``repeat`` with 95 % intervals: kinds are resampled, and in each its draws.

    Args:
        table: kind, draw, pairs and repeat.
    """
    known = table.dropna(subset=["repeat"])
    groups = [
        [part[["pairs", "repeat"]].to_numpy(dtype=float) for _, part in of_kind.groupby("draw", sort=True)]
        for _, of_kind in known.groupby("kind", sort=False)
    ]
    ceiling, k, r2 = fitted(known["pairs"].tolist(), known["repeat"].tolist())
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = [groups[g] for g in rng.integers(len(groups), size=len(groups))]
        rows = np.concatenate([draws[d] for draws in chosen for d in rng.integers(len(draws), size=len(draws))])
        found.append(fitted(rows[:, 0].tolist(), rows[:, 1].tolist())[:2])
    low, high = np.quantile(np.array(found), [0.025, 0.975], axis=0)
    return {
        "ceiling": ceiling,
        "ceiling_low": float(low[0]),
        "ceiling_high": float(high[0]),
        "k": k,
        "k_low": float(low[1]),
        "k_high": float(high[1]),
        "r2": r2,
        "n": len(known),
    }
