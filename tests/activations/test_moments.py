"""Running moments are those of the rows kept together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.activations import Moments, capture, moments
from mechsteer.directions import random_direction
from tests.activations.naive import prompts_of


def test_a_worked_case() -> None:
    found = Moments(0, torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
    found.add(torch.tensor([[1.0, 0.0]]))
    found.add(torch.tensor([[3.0, 0.0], [2.0, 3.0]]))
    assert found.count == 3
    assert found.mean.tolist() == [2.0, 1.0]
    assert found.covariance.tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert found.variance.tolist() == [1.0, 3.0]
    assert found.std.tolist() == [1.0, 3.0**0.5]


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 100), far=st.sampled_from([0, 1e6])
)
def test_merged_batches_equal_numpy(sizes: list[int], seed: int, far: float) -> None:
    rows = (
        np.random.default_rng(seed).normal(size=(sum(sizes) + 1, 4)) + far
    )  # far from zero, where sums of squares fail
    full = Moments(0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64))
    diagonal = Moments(0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    for part in np.split(rows, np.cumsum(sizes)):
        full.add(torch.tensor(part))
        diagonal.add(torch.tensor(part))
    np.testing.assert_allclose(full.mean, rows.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(full.covariance, np.cov(rows.T), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(diagonal.std, rows.std(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_moments_of_captured_rows(family: str, positions: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    options: dict[str, Any] = {
        "sites": ["resid_post", "z"] + ["encoder.resid_post"] * (family == "t5"),
        "positions": positions,
        "steer": ms.add(random_direction(model, seed=0, layer=0), 5.0),
    }
    rows = capture(model, prompts, **options)
    found = moments(model, prompts, batch_size=2, **options)
    variances = moments(model, prompts, batch_size=3, covariance=False, **options)
    assert list(found) == list(rows)
    for site, kept in rows.items():
        flat = kept.flatten(1).double().numpy()
        assert found[site].count == len(flat)
        scale = abs(flat).max() ** 2
        np.testing.assert_allclose(found[site].mean, flat.mean(0), atol=1e-4 * scale**0.5)
        np.testing.assert_allclose(found[site].covariance, np.cov(flat.T), atol=1e-4 * scale)
        np.testing.assert_allclose(variances[site].variance, flat.var(0, ddof=1), atol=1e-4 * scale)
        with pytest.raises(ms.MechsteerError, match="use covariance=True"):
            _ = variances[site].covariance


def test_one_row_has_no_variance(tiny: Callable) -> None:
    found = moments(tiny("gpt2"), "the cat", sites="resid_post", positions="last")
    with pytest.raises(ms.MechsteerError, match="at least two rows, there is 1"):
        _ = found["blocks.0.hook_resid_post"].std
