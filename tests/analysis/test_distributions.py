"""Divergence, entropy and ranks against sums that anyone can read."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechsteer.analysis.bootstrap import interval, mean_interval, resamples
from mechsteer.analysis.distributions import entropy, jsd, most_likely, ranks
from mechsteer.analysis.exits import Exits
from mechsteer.analysis.volatility import rank_biased_overlap
from tests.analysis.naive import plain_jsd

DISTRIBUTIONS = st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any).map(lambda v: [x / sum(v) for x in v])


@settings(max_examples=60)
@given(p=DISTRIBUTIONS, q=DISTRIBUTIONS)
def test_jsd_and_entropy_equal_the_plain_sums(p: list[float], q: list[float]) -> None:
    log_p, log_q = torch.tensor(p).log(), torch.tensor(q).log()
    found = float(jsd(log_p, log_q))
    assert found == pytest.approx(plain_jsd(p, q), abs=1e-6) and 0 <= found <= math.log(2) + 1e-6
    assert found == pytest.approx(float(jsd(log_q, log_p)), abs=1e-7)
    assert float(entropy(log_p)) == pytest.approx(-sum(x * math.log(x) for x in p if x), abs=1e-6)


def test_jsd_of_disjoint_distributions_is_ln_2() -> None:
    assert float(jsd(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log())) == pytest.approx(math.log(2))


def test_ranks_count_from_one_and_equals_share_the_better() -> None:
    values = torch.tensor([[3.0, 5.0, 3.0, 1.0]])
    assert ranks(values, torch.tensor([[1, 0, 2, 3]])).tolist() == [[1, 2, 2, 4]]


def test_of_equals_the_lower_token_is_the_likelier() -> None:
    assert most_likely(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0]), 4).tolist() == [1, 3, 2, 4]
    assert most_likely(torch.tensor([1.0, 1.0, 1.0]), 9).tolist() == [0, 1, 2]


def test_the_order_of_equals_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    said = [(3 * torch.randn(500, generator=generator)).round()]  # logits in half precision have many equals, too
    rest = (said[0] < said[0].topk(20).values[-1]).nonzero()[:, 0]
    for _ in range(20):  # what is far below the first 20 moves, and they stay
        after = said[0].clone()
        after[rest] = said[0][rest[torch.randperm(len(rest), generator=generator)]]
        said.append(after)
    measured = importlib.import_module("mechsteer.analysis.volatility")  # a function has the same name
    exits = Exits(0, [0], torch.zeros(len(said), 1, 4))
    left = iter(said)
    monkeypatch.setattr(measured, "exit_logits", lambda *a, **k: next(left))
    changes = measured._changes(None, exits, True, 0.9, 20)
    assert changes[:, 0].eq(0).all() and changes[:, 1].sub(1).abs().max() < 1e-6


def test_rank_biased_overlap_by_hand() -> None:
    # Shared among the first 1, 2, 3: 0, 2, 2. RBO = .5^3 2/3 + (.5/.5) (.5 * 0/1 + .25 * 2/2 + .125 * 2/3).
    first, second = torch.tensor([7, 8, 1]), torch.tensor([8, 7, 2])
    assert rank_biased_overlap(first, second, p=0.5) == pytest.approx(1 / 12 + 0.25 + 1 / 12)
    assert rank_biased_overlap(first, first, p=0.9) == pytest.approx(1.0)
    assert rank_biased_overlap(first, torch.tensor([4, 5, 6])) == 0.0


def test_intervals_hold_the_mean_about_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for seed in range(200):
        _, low, high = mean_interval(torch.randn(40, generator=generator), samples=300, seed=seed)
        held += bool(low <= 0 <= high)
    assert 176 <= held <= 200  # 95 % of 200 is 190; three standard deviations, and the percentile's known shortfall


def test_intervals_shrink_with_n_and_keep_the_shape() -> None:
    values = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    (_, few_low, few_high), (mean, low, high) = mean_interval(values[:20]), mean_interval(values)
    assert mean.shape == low.shape == high.shape == (3,) and torch.allclose(mean, values.double().mean(0))
    assert ((high - low) < 0.5 * (few_high - few_low)).all()
    assert resamples(7).sum(1).eq(7).all()
    assert float(interval(torch.tensor([[0.0], [torch.nan], [1.0]], dtype=torch.float64))[1]) == pytest.approx(0.975)
