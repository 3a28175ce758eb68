"""Ridge maps between models: a planted one is found, the weight is what leaving rows out chooses."""

import pytest
import torch
from torch import Tensor

from mechsteer.studies.questions.ridge import WEIGHTS, explained, orthogonal, ridge_map


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_planted_map_is_found_with_its_means() -> None:
    matrix, x = drawn(5, 8, seed=1), drawn(60, 8) + 2
    found = ridge_map(x, x @ matrix.T + 7)
    torch.testing.assert_close(found.matrix.float(), matrix, atol=1e-2, rtol=1e-2)
    new = drawn(20, 8, seed=2)
    torch.testing.assert_close(found.states(new).float(), new @ matrix.T + 7, atol=0.1, rtol=1e-2)
    torch.testing.assert_close(found.vector(new[0]), new[0] @ matrix.T, atol=5e-2, rtol=1e-2)
    errors, spread = explained(new @ matrix.T + 7, found.states(new), found.target)
    assert 1 - float(errors.sum() / spread.sum()) > 0.999 and found.edge and found.weight == WEIGHTS[0]


def test_the_weight_has_the_smallest_error_on_rows_left_out_one_by_one() -> None:
    x, noise = drawn(15, 10), drawn(15, 4, seed=1)
    y = x[:, :4] + noise
    scale = float(torch.linalg.svdvals((x - x.mean(0)).double()).square()[:10].mean())

    def left_out(weight: float) -> float:
        total = 0.0
        for row in range(len(x)):
            kept = [i for i in range(len(x)) if i != row]
            a, b = x[kept].double().mean(0), y[kept].double().mean(0)
            xc, yc = x[kept].double() - a, y[kept].double() - b
            w = torch.linalg.solve(xc.T @ xc + weight * scale * torch.eye(10).double(), xc.T @ yc)
            total += float((y[row].double() - b - (x[row].double() - a) @ w).square().sum())
        return total

    best = min(WEIGHTS, key=left_out)
    found = ridge_map(x, y)
    assert found.weight == best and not found.edge
    xc, yc = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    dense = torch.linalg.solve(xc.T @ xc + best * scale * torch.eye(10).double(), xc.T @ yc).T
    torch.testing.assert_close(found.matrix, dense, atol=1e-8, rtol=1e-6)


def test_nothing_is_predicted_of_rows_in_another_order() -> None:
    x = drawn(80, 6)
    found = ridge_map(x, x[torch.randperm(80, generator=torch.Generator().manual_seed(3))])
    errors, spread = explained(drawn(40, 6, seed=5), found.states(drawn(40, 6, seed=5)), found.target)
    assert 1 - float(errors.sum() / spread.sum()) < 0.1


@pytest.mark.parametrize(("out", "into"), [(4, 4), (6, 3), (3, 6)])
def test_a_random_orthogonal_map_keeps_lengths_where_it_can(out: int, into: int) -> None:
    matrix = orthogonal(out, into, seed=1)
    assert matrix.shape == (out, into)
    small = matrix.T @ matrix if out >= into else matrix @ matrix.T
    torch.testing.assert_close(small, torch.eye(min(out, into)).double())
    assert not orthogonal(out, into, seed=2).equal(matrix)
