"""The curve of cosines: planted parameters are found, and it is the mean of real cosines of noisy vectors."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechsteer.studies.questions.fits import fit_of, fitted
from mechsteer.studies.questions.numbers import coin, cosine, noise_in_pairs, vectors

SIZES = [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(("ceiling", "k"), [(1.0, 0.05), (0.8, 3.0), (0.6, 40.0)])
def test_a_planted_curve_is_found(ceiling: float, k: float) -> None:
    found = fitted(SIZES, [ceiling * n / (n + k) for n in SIZES])
    assert found == pytest.approx((ceiling, k, 1.0), rel=0.03)


def test_cosines_around_zero_have_no_ceiling() -> None:
    ceiling, _, _ = fitted(SIZES, [0.02, -0.05, 0.01, -0.02, 0.03, -0.01, -0.04])
    assert ceiling < 0.02
    assert fitted(SIZES, [-0.5] * 7)[0] == 0.0


def noisy(k: float, n: int, rng: np.random.Generator, width: int = 400) -> torch.Tensor:
    """Changes of pairs: a unit vector and noise whose squared length is k on average."""
    noise = rng.normal(size=(n, width)) * (k / width) ** 0.5
    return torch.tensor(np.eye(width)[0] + noise)


def test_vectors_of_noisy_pairs_follow_the_curve_that_their_spread_lets_expect() -> None:
    rng, rows = np.random.default_rng(0), []
    for draw in range(6):
        one, other = (noisy(2.0, 64, rng) for _ in range(2))
        zero = torch.zeros_like(one)
        for n in SIZES:
            value = cosine(vectors(one, zero, n), vectors(other, zero, n))
            rows.append({"kind": "upper", "draw": draw, "pairs": n, "repeat": value})
    found = fit_of(pd.DataFrame(rows))
    assert found["k_low"] <= 2.0 <= found["k_high"] and found["k"] == pytest.approx(2.0, rel=0.25)
    assert found["ceiling"] == pytest.approx(1.0, abs=0.03) and found["r2"] > 0.97 and found["n"] == 42
    assert noise_in_pairs(noisy(2.0, 500, rng)) == pytest.approx(2.0, rel=0.15)
    assert noise_in_pairs(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == float("inf")


def test_a_kind_that_differs_widens_the_interval() -> None:
    same = [{"kind": k, "draw": d, "pairs": n, "repeat": n / (n + 1)} for k in "ab" for d in (0, 1) for n in SIZES]
    other = [row | {"repeat": row["repeat"] * (0.5 if row["kind"] == "b" else 1.0)} for row in same]
    narrow, wide = (fit_of(pd.DataFrame(rows)) for rows in (same, other))
    assert narrow["ceiling_high"] - narrow["ceiling_low"] < 0.02 < 0.3 < wide["ceiling_high"] - wide["ceiling_low"]


def test_shuffled_pairs_have_their_sides_exchanged() -> None:
    with_it, without = torch.tensor([[3.0, 1.0], [5.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    assert vectors(with_it, without, 2).tolist() == [3.0, -0.5]
    assert vectors(with_it, without, 2, torch.tensor([1.0, -1.0])).tolist() == [-1.0, 0.5]
    assert vectors(with_it, without, 1).tolist() == [2.0, 0.0]
    tossed = coin("upper", 0, 64)
    assert set(tossed.tolist()) == {1.0, -1.0} and not tossed.unflatten(0, (32, 2)).sum(1).any()
    assert coin("upper", 0, 8).equal(tossed[:8]) and not coin("upper", 1, 64).equal(tossed)
