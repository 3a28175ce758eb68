"""What the answers that were seen say of those that were not: every candidate's mean over all prompts.

The answer of candidate c to prompt i has the score

    y(c, i) = m(c) + b(i) + h(c, i) + e(c, i),

Gaussian and independent: the candidate's own mean m, with covariance ``MEAN`` k(c, c'); how easy the prompt is, b, with
variance ``PROMPT``; how it takes to candidates of a kind, h, with covariance ``TOGETHER`` k(c, c') and none between
prompts; and chance, e, with variance ``CHANCE``. The kernel is

    k(c, c') = exp(-((s - s') / LENGTH)^2 / 2 - ((d - d') / DEPTH)^2 / 2)

of the places s (rank by divergence) and d (depth), both from 0 to 1. So a candidate is judged on the prompts that it
shares with others, and neighbours on the ladder vouch for each other (Rasmussen and Williams 2006, equations 2.23 and
2.24). What is asked for is a mean over finitely many prompts: one that is known, once all are answered.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

LENGTH, DEPTH = 0.2, 0.35
MEAN, PROMPT, TOGETHER, CHANCE = 0.09, 0.04, 0.08, 0.06
"""Variances of scores from 0 to 1: those of a prompt's answer add up to that of a coin, about."""

DRAWS = 512

Seen = Mapping[tuple[int, int], float]
"""Mean scores by candidate and stretch of prompts."""

Array = np.ndarray


def kernel(places: Sequence[tuple[float, float]]) -> Float[Array, "points points"]:
    """Of candidates' places, depth and strength."""
    at = np.array(places, dtype=float) / (DEPTH, LENGTH)
    return np.exp(-((at[:, None] - at[None]) ** 2).sum(-1) / 2)


def posterior(
    k: Float[Array, "points points"], sizes: Sequence[int], seen: Seen, prior: float
) -> tuple[Float[Array, "points"], Float[Array, "points points"]]:
    """Mean and covariance of every candidate's mean over all prompts.

    Args:
        k: The kernel.
        sizes: How many prompts each stretch has.
        seen: The mean scores of what was answered, at least of one stretch.
        prior: The mean of all candidates' means.
    """
    c, stretch = (np.array(part) for part in zip(*seen, strict=True))
    y = np.array(list(seen.values()), dtype=float)
    answer = PROMPT + TOGETHER * k + CHANCE * np.eye(len(k))
    mean, n = MEAN * k, sum(sizes)
    shared = (stretch[:, None] == stretch[None]) / np.array(sizes, dtype=float)[stretch]
    seen_seen = mean[np.ix_(c, c)] + shared * answer[np.ix_(c, c)] + 1e-9 * np.eye(len(c))
    all_seen = mean[:, c] + answer[:, c] / n
    weights = np.linalg.solve(seen_seen, all_seen.T).T
    return prior + weights @ (y - prior), mean + answer / n - weights @ all_seen.T


def draws(
    mean: Float[Array, "points"], covariance: Float[Array, "points points"], seed: int
) -> Float[Array, "draws points"]:
    """Draws of a posterior, the same for the same seed."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0))
    return mean + np.random.default_rng(seed).standard_normal((DRAWS, len(mean))) @ root.T


def gained(worth: Float[Array, "draws points"], leader: int) -> Float[Array, "points"]:
    """How much better the best would be, on average, if a point's worth were known before the best is chosen.

    Of others than the leader (who has the largest mean) that is by how much they may be above its mean; of the leader,
    by how much it may be below the next one's.

    Args:
        worth: Draws of what each point is worth.
        leader: Who would be chosen now.
    """
    means = worth.mean(0)
    found = (worth - means[leader]).clip(0).mean(0)
    found[leader] = (np.delete(means, leader).max(initial=-np.inf) - worth[:, leader]).clip(0).mean()
    return found
