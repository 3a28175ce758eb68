"""Proximal gradient: the prox against a numerical minimiser, and paths of a convex toy."""

import math

import pytest
import torch
from torch import Tensor

from mechsteer.directions.proximal import largest_weight, minimise, penalty, prox, soft_threshold, zero_is_stationary
from mechsteer.errors import MechsteerError


def numerical(x: Tensor, l1: float, group_l2: float) -> Tensor:
    """The minimiser by coordinate-wise golden search and many rounds; nothing of the closed form is used."""
    from scipy.optimize import minimize

    rows = []
    for row in x:
        # entries never change sign and never grow, so minimise over sizes >= 0, where the objective is smooth off 0
        size = row.abs().numpy()

        def objective(z, size=size):
            return 0.5 * ((z - size) ** 2).sum() + l1 * z.sum() + group_l2 * math.sqrt((z**2).sum() + 1e-18)

        found = minimize(objective, size, bounds=[(0, None)] * len(size), method="L-BFGS-B",
                         options={"ftol": 1e-18, "gtol": 1e-12, "maxiter": 5000})  # fmt: skip
        rows.append(torch.tensor(found.x) * row.sign())
    return torch.stack(rows)


@pytest.mark.parametrize(("l1", "group_l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.2, 0.5), (0.5, 2.0)])
def test_the_prox_is_the_minimiser(l1: float, group_l2: float) -> None:
    x = torch.randn((6, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert (prox(x, l1, group_l2) - numerical(x, l1, group_l2)).abs().max() < 1e-6


def test_the_prox_by_hand() -> None:
    x = torch.tensor([[4.0, -5.0, 0.5], [0.9, -1.1, 0.0]], dtype=torch.float64)
    # soft by 1: (3, -4, 0), of norm 5, shrunk by 1 to 4/5 of itself; (0, -0.1, 0), of norm 0.1: to zero
    expected = torch.tensor([[2.4, -3.2, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(prox(x, 1.0, 1.0), expected, atol=1e-12)
    assert (prox(x, 1.0, 1.0)[1] == 0).all()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_largest_weight_is_where_zero_stops_being_best(share: float) -> None:
    gradient = torch.randn((4, 6), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight = largest_weight(gradient, share)
    assert zero_is_stationary(gradient, share * weight, (1 - share) * weight)
    less = 0.999 * weight
    assert not zero_is_stationary(gradient, share * less, (1 - share) * less)
    assert largest_weight(torch.zeros(2, 3), share) == 0
    if share == 0:
        assert weight == pytest.approx(float(gradient.norm(dim=1).max()))
    if share == 1:
        assert weight == pytest.approx(float(gradient.abs().max()))


class Toy:
    """Least squares with an orthogonal design, whose minimiser is the prox."""

    def __init__(self) -> None:
        self.target = torch.randn((5, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss(self, x: Tensor) -> float:
        return float((x - self.target).square().sum() / 2)

    def smooth(self, x: Tensor) -> tuple[float, Tensor]:
        return self.loss(x), x - self.target


def test_it_finds_the_minimum_and_the_support_grows_along_the_path() -> None:
    toy = Toy()
    zero = torch.zeros(5, 4, dtype=torch.float64)
    most = largest_weight(toy.smooth(zero)[1], 0.5)
    before: set[tuple[int, ...]] = set()
    point = zero
    sizes = []
    for part in (1.0, 0.8, 0.6, 0.4, 0.2, 0.05):
        weight = 0.5 * part * most
        found = minimise(toy.smooth, toy.loss, point, l1=weight, group_l2=weight, tolerance=1e-14, max_steps=500)
        point = found.delta
        assert (point - prox(toy.target, weight, weight)).abs().max() < 1e-5
        support = {tuple(place) for place in point.nonzero().tolist()}
        assert before <= support
        before = support
        sizes.append(len(support))
    assert sizes[0] == 0 and sizes[-1] > 10 and sizes == sorted(sizes)


def test_an_ill_conditioned_problem_reaches_stationarity() -> None:
    scales = torch.logspace(0, 2, 20, dtype=torch.float64).reshape(5, 4)
    target = Toy().target

    def smooth(x: Tensor) -> tuple[float, Tensor]:
        return float((scales * (x - target).square()).sum() / 2), scales * (x - target)

    weight = 0.3
    found = minimise(
        smooth,
        lambda x: smooth(x)[0],
        torch.zeros_like(target),
        l1=weight,
        group_l2=weight,
        tolerance=1e-13,
        rounding=1e-14,
        max_steps=3000,
    )
    x, gradient = found.delta, smooth(found.delta)[1]
    assert (prox(x - 0.01 * gradient, 0.01 * weight, 0.01 * weight) - x).abs().max() < 1e-5
    assert found.stopped == "converged"
    assert penalty(x, 1.0, 0.0) == pytest.approx(float(x.abs().sum()))


def test_it_stops_by_the_validation_loss_and_keeps_the_best_point() -> None:
    toy = Toy()
    half = toy.target / 2
    found = minimise(
        toy.smooth,
        toy.loss,
        torch.zeros_like(half),
        l1=0.0,
        group_l2=0.0,
        validation=lambda x: float((x - half).square().sum()),
        patience=3,
        step=0.02,
    )
    assert found.stopped == "validation"
    assert found.validation < 0.1 * float(half.square().sum())
    assert found.validation == pytest.approx(float((found.delta - half).square().sum()))


def test_what_cannot_be_minimised_is_said() -> None:
    zero = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(MechsteerError, match="NaN or infinite at step 0"):
        minimise(lambda x: (math.nan, x), lambda x: math.nan, zero, l1=0.0, group_l2=0.0)
    with pytest.raises(MechsteerError, match="diverges: at step 1, from 1"):
        minimise(lambda x: (1.0, x + 1), lambda x: math.nan, zero, l1=0.0, group_l2=0.0)


def test_thresholds() -> None:
    assert soft_threshold(torch.tensor([-2.0, 0.5, 3.0]), 1.0).tolist() == [-1.0, 0.0, 2.0]
