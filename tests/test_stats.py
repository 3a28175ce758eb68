"""Intervals hold the truth as often as they say, by simulation and by adding up the binomial."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mechsteer.errors import MechsteerError
from mechsteer.stats import holm, mean_interval, share_interval


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
