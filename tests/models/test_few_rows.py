"""Products of a few rows, which are made transposed on a CPU: the same function in whatever form."""

import pytest
import torch
import torch.nn.functional as F

from mechsteer.models.heads import SEVERAL, linear


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, 9, 12, 31, SEVERAL[-1], SEVERAL[-1] + 1])
@pytest.mark.parametrize(("outer", "inner"), [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_every_number_of_rows_and_shape_of_weight(rows: int, outer: int, inner: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(outer, inner), torch.randn(outer) if with_bias else None
    columns = torch.randn(inner, outer).T  # GPT-2's weights lie in memory this way
    x = torch.randn(rows, 1, inner)
    for shape in ((rows, 1, inner), (1, rows, inner), (rows, inner)):
        for w in (weight, columns):
            made = linear(x.view(shape), w, bias)
            assert made.shape == (*shape[:-1], outer)
            torch.testing.assert_close(made, F.linear(x.view(shape), w, bias), rtol=1e-5, atol=1e-6)


def test_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(6, 4), torch.randn(3, 4)
    x[1] = torch.nan
    made = linear(x, weight)
    assert made[1].isnan().all() and made[[0, 2]].isfinite().all()


@pytest.mark.parametrize("rows", [1, 12])
def test_gradients_pass(rows: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(6, 4), torch.randn(rows, 4, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(rows, 4))


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias, x = torch.randn(6, 4), torch.randn(6), torch.randn(12, 4)
    made = linear(x, weight, bias)
    monkeypatch.setattr("mechsteer.models.heads._ONEDNN", None)
    torch.testing.assert_close(linear(x, weight, bias), made, rtol=1e-5, atol=1e-6)
