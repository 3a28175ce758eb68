"""Intervals hold the truth as often as they say, by simulation and by adding up the binomial."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.errors import MechsteerError
from mechsteer.stats import cluster_interval, holm, mean_interval, paired_interval, paired_p, share_interval, wilson


@pytest.mark.parametrize("n", [10, 20, 50])
def test_a_share_is_covered_whatever_it_is(n: int) -> None:
    ends = [share_interval(k, n) for k in range(n + 1)]
    for true in [i / 100 + 0.003 for i in range(100)]:
        covered = sum(
            p for p, (low, high) in zip(binom.pmf(range(n + 1), n, true), ends, strict=True) if low <= true <= high
        )
        assert covered >= 0.94, (n, true, covered)


def test_simulated_coverage_of_twenty_prompts() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(4000):
        true = rng.random()
        found = mean_interval([rng.random() < true for _ in range(20)])
        held += found.low <= true <= found.high
    assert held / 4000 >= 0.94


DRAWS: dict[str, tuple[Callable[[random.Random], float], float]] = {
    "uniform": (lambda rng: rng.random(), 0.5),
    "steps": (lambda rng: rng.choice([0.0, 0.25, 1.0]), 5 / 12),
    "normal": (lambda rng: rng.gauss(3, 2), 3.0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_simulated_coverage_of_scores(name: str) -> None:
    rng, (draw, true) = random.Random(1), DRAWS[name]
    found = [mean_interval([draw(rng) for _ in range(20)]) for _ in range(4000)]
    assert sum(one.low <= true <= one.high for one in found) / 4000 >= 0.94


def test_the_ends_have_width_at_nothing_and_all() -> None:
    low, high = share_interval(0, 20)
    assert low == 0 and 0.1 < high < 0.25
    assert share_interval(20, 20) == pytest.approx((1 - high, 1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_mean_is_inside_its_interval_and_nan_is_left_out(values: list[float]) -> None:
    found = mean_interval(values)
    assert 0 <= found.low <= found.mean + 1e-12 and found.mean - 1e-12 <= found.high <= 1
    assert mean_interval([*values, math.nan]) == found


def test_numbers_beyond_one_and_no_numbers() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(mean_interval([5.0]).low) and mean_interval([math.nan]).n == 0
    with pytest.raises(MechsteerError, match="got 3 of 2"):
        share_interval(3, 2)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1, never falling
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[0] == 1 and math.isnan(holm([0.5, math.nan, 0.9])[1])


CLUSTERS = {"a topic's kinds": (14, 7), "more topics": (28, 7), "a proverb's two traps": (195, 2), "few": (20, 3)}
"""Number and size of the clusters that occur in the studies' tables, and twenty."""


def drawn(rng: np.random.Generator, alike: float, clusters: int, size: int) -> np.ndarray:
    """Numbers from 0 to 1; this part of a cluster's samples is one and the same draw, the rest are their own."""
    own, common = (rng.random((clusters, k)) for k in (size, 1))
    return np.where(rng.random((clusters, size)) < alike, common, own).ravel()


@pytest.mark.parametrize(("true", "alike"), [(0.05, 0.8), (0.5, 0.3)])
@pytest.mark.parametrize("name", CLUSTERS)
def test_simulated_coverage_of_clusters(name: str, true: float, alike: float) -> None:
    rng, (clusters, size) = np.random.default_rng(2), CLUSTERS[name]
    names, held = np.repeat(range(clusters), size).tolist(), []
    for _ in range(500):
        found = cluster_interval((drawn(rng, alike, clusters, size) < true).astype(float).tolist(), names)
        held.append(found.low <= true <= found.high)
    assert np.mean(held) >= 0.94


CHANGES = {"none": (0.0, 0.0), "few": (0.1, 0.0), "gains": (0.3, 0.05), "both": (0.3, 0.3), "all": (0.95, 0.0)}
"""How often a sample is gained and lost."""


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(("clusters", "size", "alike"), [(20, 1, 0.0), (98, 1, 0.0), (14, 7, 0.4), (28, 7, 0.6)])
def test_simulated_coverage_of_paired_differences(name: str, clusters: int, size: int, alike: float) -> None:
    rng, (gained, lost) = np.random.default_rng(4), CHANGES[name]
    names, held = np.repeat(range(clusters), size).tolist(), []
    for _ in range(400):
        chance = drawn(rng, alike, clusters, size)
        change = (chance < gained).astype(float) - (chance > 1 - lost)
        found = paired_interval(change.tolist(), None if size == 1 else names)
        held.append(found.low <= gained - lost <= found.high)
    assert np.mean(held) >= 0.94


def test_clusters_by_hand() -> None:
    one_each = [1.0, 0.0, 1.0, 1.0]
    assert cluster_interval(one_each, range(4)) == mean_interval(one_each)  # nothing is clustered
    values = [1.0] * 10 + [0.0] * 10
    alike = cluster_interval(values, [k // 5 for k in range(20)])  # four samples in truth
    mixed = cluster_interval(values, [k % 4 for k in range(20)])  # five of each in every cluster: all count
    assert alike.mean == mixed.mean == 0.5 and alike.high - alike.low > 0.9 > 0.65 > mixed.high - mixed.low
    low, high = cluster_interval([1.0] * 20, [k // 5 for k in range(20)])[1:3]
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 4))  # all of four
    with_gap = cluster_interval([*values, math.nan], [*(k // 5 for k in range(20)), 9])
    assert with_gap == alike
    with pytest.raises(MechsteerError, match="2 values and 1 clusters"):
        cluster_interval([0.0, 1.0], ["a"])
    with pytest.raises(MechsteerError, match="from 0 to 1, got 0 to 3"):
        cluster_interval([0.0, 3.0, 1.0], ["a", "a", "b"])


def test_paired_by_hand() -> None:
    # Bonett and Price: 3 gained, 1 lost of 20; with one more of each 4 and 2 of 22
    found = paired_interval([1.0] * 3 + [-1.0] + [0.0] * 16)
    error = math.sqrt((6 - 4 / 22) / 22**2)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((2 / 22 - 2.0930 * error, 2 / 22 + 2.0930 * error), abs=1e-4)
    nothing = paired_interval([0.0] * 20)
    assert nothing.mean == 0 and -0.15 < nothing.low < -0.1 and nothing.high == -nothing.low
    assert math.isnan(paired_interval([]).mean)
    doubled = paired_interval([0.2, -0.1, 0.0, 0.3] * 2, [0, 1, 2, 3] * 2)
    assert doubled[:3] == pytest.approx(paired_interval([0.2, -0.1, 0.0, 0.3])[:3])  # a copy is no evidence


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (6, 0), (5, 2), (4, 4)])
def test_the_paired_test_of_whole_scores_is_mcnemars(gained: int, lost: int) -> None:
    assert paired_p([1.0] * gained + [-1.0] * lost + [0.0] * 9) == pytest.approx(exact_p(gained, lost))


def test_the_paired_test_flips_clusters_together() -> None:
    changes, names = [1.0] * 12, [k // 4 for k in range(12)]
    assert paired_p(changes) == pytest.approx(2 / 2**12)
    assert paired_p(changes, names) == pytest.approx(2 / 2**3)
    assert paired_p([0.1] * 40) == paired_p([0.1] * 40) < 1e-3  # drawn, the same every time


def test_wilsons_interval_by_hand() -> None:
    """8 of 10: centre (0.8 + 0.19207) / 1.38415, half width 0.27350 / 1.38415; the textbook's 49.0 to 94.3 %."""
    assert wilson(0.8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    assert wilson(0.0, 28) == pytest.approx((0.0, 0.12064), abs=1e-5)
    assert wilson(1.0, 28) == pytest.approx((0.87936, 1.0), abs=1e-5)
