"""The affine map: planted ones are found, and no other of its rank fits better."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.directions import fit_affine
from tests.directions.test_contrast import pairs
from tests.typecheck import unchecked

SITE = "blocks.0.hook_resid_post"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(rank: int, n: int = 60, width: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States before, states after, the shift and the matrix."""
    before = drawn(n, width) + 3
    matrix = drawn(width, rank, seed=1) @ drawn(rank, width, seed=2)
    shift = 2 * drawn(width, seed=3)
    return before, before + shift + (before - before.mean(0)) @ matrix.T, shift, matrix


@pytest.mark.parametrize("rank", [1, 3])
def test_a_planted_map_is_found(rank: int) -> None:
    before, after, shift, matrix = planted(rank)
    found = fit_affine(after, before, site=SITE, rank=rank, ridge=1e-8)
    torch.testing.assert_close(found.shift.vector, shift, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.left.T @ found.right, matrix, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.left @ found.left.T, torch.eye(rank), atol=1e-5, rtol=0)
    new = drawn(5, 12, seed=9)
    expected = torch.stack([shift + matrix @ (row - before.mean(0)) for row in new])
    torch.testing.assert_close(found.change(new), expected, atol=1e-3, rtol=1e-3)
    one = found.change(new[2])  # a single state is no table
    torch.testing.assert_close(one, expected[2], atol=1e-3, rtol=1e-3)


def test_with_all_ranks_it_is_ridge_regression() -> None:
    before, after = drawn(30, 6), drawn(30, 6, seed=1)
    x, y = (t.double() - t.double().mean(0) for t in (before, after - before))
    weight = 0.7 * float(torch.linalg.svdvals(x).square().mean())
    dense = torch.linalg.solve(x.T @ x + weight * torch.eye(6), x.T @ y).T
    found = fit_affine(after, before, site=SITE, rank=6, ridge=0.7)
    torch.testing.assert_close((found.left.T @ found.right).double(), dense, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 2])
def test_no_other_map_of_its_rank_has_a_smaller_loss(rank: int) -> None:
    """Gradient descent from the fit and from chance ends no lower."""
    before, after = drawn(25, 7), drawn(25, 7, seed=1)
    x, y = (t - t.mean(0) for t in (before, after - before))
    weight = float(torch.linalg.svdvals(x).square().mean())

    def loss(left: Tensor, right: Tensor) -> Tensor:
        matrix = left.T @ right
        return (y - x @ matrix.T).square().sum() + weight * matrix.square().sum()

    found = fit_affine(after, before, site=SITE, rank=rank, ridge=1.0)
    best = float(loss(found.left, found.right))
    for start in ((found.left, found.right), (drawn(rank, 7, seed=4), 0.1 * drawn(rank, 7, seed=5))):
        parts = [part.clone().requires_grad_() for part in start]
        optimiser = torch.optim.LBFGS(parts, max_iter=200, line_search_fn="strong_wolfe")

        def closure(parts: list[Tensor] = parts, optimiser: Any = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = loss(*parts)
            value.backward()
            return value

        optimiser.step(closure)
        assert loss(*parts).item() >= best * (1 - 1e-4)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_of_a_model_it_is_the_fit_to_its_states(family: str, tiny: Callable) -> None:
    model = tiny(family)
    found = ms.affine_map(model, pairs(model), layer=1, rank=2, ridge=0.5, batch_size=3)
    prompts = {"with": [a for a, _ in pairs(model)], "without": [b for _, b in pairs(model)]}
    states = [ms.capture(model, some, sites=found.site)[found.site] for some in prompts.values()]
    same = fit_affine(*states, site=found.site, rank=2, ridge=0.5)
    new = states[0] + 1
    torch.testing.assert_close(found.change(new), same.change(new), atol=1e-4, rtol=1e-4)
    shift = ms.difference_in_means(model, pairs(model), layer=1)
    torch.testing.assert_close(found.shift.vector, shift.vector, atol=1e-4, rtol=1e-4)
    assert found.shift.mean_projection == pytest.approx(shift.mean_projection, rel=1e-4)
    assert found.shift.activation_norm == pytest.approx(shift.activation_norm, rel=1e-5)
    assert found.shift.fingerprint == ms.model_info(model).fingerprint and found.rank == 2
    captured = ms.affine_map(ms.capture(model, prompts, sites=found.site), layer=1, rank=2, ridge=0.5)
    torch.testing.assert_close(captured.change(new), found.change(new), atol=1e-4, rtol=1e-4)


def test_more_rank_than_there_is_is_what_there_is() -> None:
    found = fit_affine(drawn(3, 8), drawn(3, 8, seed=1), site=SITE, rank=16)
    assert found.rank == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank must be an integer of at least 1, got 0"),
        ({"ridge": 0.0}, "ridge must be above 0, got 0.0"),
        ({"ridge": float("nan")}, "ridge must be finite"),
    ],
)
def test_bad_arguments_are_refused(wrong: dict[str, Any], message: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.affine_map(tiny("llama-gqa"), pairs(tiny("llama-gqa")), layer=0, **wrong)


def test_states_that_allow_no_map_are_refused(tiny: Callable) -> None:
    with unchecked(), pytest.raises(ms.MechsteerError, match=r"one shape with at least two rows, got \[3, 4\] and \[2"):
        fit_affine(drawn(3, 4), drawn(2, 4), site=SITE)
    with pytest.raises(ms.MechsteerError, match="all the same; use difference_in_means"):
        fit_affine(drawn(3, 4), torch.ones(3, 4), site=SITE)
    with pytest.raises(ms.MechsteerError, match="same prompt"):
        prompts = [b for _, b in pairs(tiny("llama-gqa"))]
        ms.affine_map(tiny("llama-gqa"), list(zip(prompts, prompts, strict=True)), layer=0)


def test_parts_that_do_not_fit_are_refused() -> None:
    shift = ms.Direction(torch.ones(4), SITE, "x")
    with unchecked(), pytest.raises(ms.MechsteerError, match=r"of width 4 has .* got \[4\], \[2, 4\], \[1, 4\]"):
        ms.AffineMap(shift, torch.zeros(4), torch.ones(2, 4), torch.ones(1, 4))
    with pytest.raises(ms.MechsteerError, match="NaN or infinite"):
        ms.AffineMap(shift, torch.zeros(4), torch.ones(1, 4), torch.full((1, 4), float("nan")))


@pytest.mark.parametrize("kind", [np.array, torch.HalfTensor, torch.DoubleTensor, list])
def test_parts_of_any_kind_become_float32_tensors_of_their_own(kind: Callable, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    shift = ms.random_direction(model, seed=0, layer=1)
    given = [kind(part) for part in ([0.5] * 32, [[1.0] * 32], [[0.25] * 32])]
    with unchecked():
        made = ms.AffineMap(shift, *given)
    expected = ms.affine(ms.AffineMap(shift, torch.full((32,), 0.5), torch.ones(1, 32), torch.full((1, 32), 0.25)))
    kl = [steer.explain(model, "the cat")["kl"].item() for steer in (ms.affine(made), expected)]
    assert kl[0] == kl[1] > 0
    if kind is not list:
        given[0][:] = 9
    assert made.centre.dtype == torch.float32 and made.centre.tolist() == [0.5] * 32
    with unchecked(), pytest.raises(ms.MechsteerError, match=r"The left of an affine map must be .* got str"):
        ms.AffineMap(shift, given[0], "text", given[2])  # pyright: ignore[reportArgumentType]
