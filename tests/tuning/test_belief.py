"""What is believed of candidates: the same as a Gaussian process over every single answer, and what follows from it."""

import numpy as np
import pytest

from mechsteer.tuning.belief import CHANCE, MEAN, PROMPT, TOGETHER, draws, gained, kernel, posterior

SIZES = (3, 4, 3)
PLACES = [(0.5, place / 4) for place in range(5)]


def answer_by_answer(seen: dict[tuple[int, int], float], prior: float) -> tuple[np.ndarray, np.ndarray]:
    """The same by conditioning all answers of all candidates on those that were seen, one by one."""
    k, n = kernel(PLACES), sum(SIZES)
    of_candidates = np.kron(k, np.ones((n, n)))
    same = np.kron(np.ones_like(k), np.eye(n))
    alike = np.kron(k, np.eye(n))
    full = MEAN * of_candidates + PROMPT * same + TOGETHER * alike + CHANCE * np.eye(len(same))
    ends = np.cumsum((0, *SIZES))
    rows = np.zeros((len(seen), len(full)))
    for row, (c, stretch) in enumerate(seen):
        rows[row, c * n + ends[stretch] : c * n + ends[stretch + 1]] = 1 / SIZES[stretch]
    means = np.kron(np.eye(len(k)), np.full((1, n), 1 / n))
    gain = means @ full @ rows.T @ np.linalg.inv(rows @ full @ rows.T + 1e-9 * np.eye(len(seen)))
    y = np.array(list(seen.values()))
    return prior + gain @ (y - prior), means @ full @ means.T - gain @ rows @ full @ means.T


def test_it_is_the_gaussian_process_over_single_answers() -> None:
    seen = {(0, 0): 0.2, (2, 0): 1.0, (2, 1): 0.5, (4, 2): 0.1}
    mean, covariance = posterior(kernel(PLACES), SIZES, seen, 0.3)
    expected = answer_by_answer(seen, 0.3)
    np.testing.assert_allclose(mean, expected[0], atol=1e-9)
    np.testing.assert_allclose(covariance, expected[1], atol=1e-9)


def test_what_has_answered_everything_is_known() -> None:
    seen = {(1, stretch): value for stretch, value in enumerate((0.1, 0.8, 0.4))}
    mean, covariance = posterior(kernel(PLACES), SIZES, seen, 0.3)
    true = sum(size * value for size, value in zip(SIZES, seen.values(), strict=True)) / sum(SIZES)
    assert mean[1] == pytest.approx(true, abs=1e-6) and abs(covariance[1, 1]) < 1e-6
    assert covariance[4, 4] > covariance[2, 2] > covariance[1, 1], "neighbours are known better than what is far"


def test_an_easy_stretch_is_no_merit() -> None:
    """Both have the same score so far, but one of them where the other candidates did well too."""
    seen = {(2, 0): 0.9, (2, 1): 0.3, (2, 2): 0.3, (0, 0): 0.6, (4, 1): 0.6}
    mean, _ = posterior(kernel(PLACES), SIZES, seen, 0.5)
    assert mean[4] > mean[0] + 0.05


def test_draws_have_the_mean_and_the_spread() -> None:
    mean, covariance = posterior(kernel(PLACES), SIZES, {(0, 0): 0.2, (3, 1): 0.7}, 0.4)
    found = draws(mean, covariance, 0)
    np.testing.assert_allclose(found.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(found.std(0), np.sqrt(np.diag(covariance)), rtol=0.15)
    assert (found == draws(mean, covariance, 0)).all() and (found != draws(mean, covariance, 1)).any()


def test_what_is_known_gains_nothing_and_what_is_not_by_its_spread() -> None:
    rng = np.random.default_rng(0)
    worth = rng.normal([0.5, 0.4, 0.4, -1.0], [0.0, 0.0, 0.2, 0.2], (4000, 4))
    found = gained(worth, 0)
    assert found[0] == 0 and found[1] == 0 and found[3] == 0, "the last is too far behind"
    normal = 0.2 * (np.exp(-0.125) / np.sqrt(2 * np.pi) - 0.5 * 0.3085375)  # of the mean above a limit half an sd away
    assert found[2] == pytest.approx(normal, rel=0.1)


def test_of_the_leader_it_may_be_learnt_that_it_does_not_lead() -> None:
    worth = np.random.default_rng(0).normal([0.5, 0.4], [0.2, 0.0], (4000, 2))
    assert gained(worth, 0)[0] > 0.02 and gained(worth, 0)[1] == 0
    assert gained(worth[:, :1], 0).tolist() == [0.0], "there is nobody else"
