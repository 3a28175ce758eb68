"""McNemar's exact test against hand-worked cases and the coin it stands for."""

from itertools import product

import pandas as pd
import pytest

from mechsteer.analysis.mcnemar import mcnemar
from mechsteer.errors import MechsteerError


def test_a_hand_worked_case() -> None:
    # 6 gained, 1 lost, 3 unchanged: p = 2 (C(7, 0) + C(7, 1)) / 2^7 = 16 / 128
    before = [False] * 6 + [True] + [True, True, False]
    after = [True] * 6 + [False] + [True, True, False]
    assert mcnemar(before, after) == (6, 1, 0.125)
    assert mcnemar(after, before) == (1, 6, 0.125)


def test_nothing_changed_or_changed_evenly_is_no_evidence() -> None:
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)
    assert mcnemar([], []).p_value == 1
    assert mcnemar([True, False], [False, True]) == (1, 1, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(5, 0), (3, 2), (4, 1), (2, 2), (0, 6)])
def test_p_is_the_share_of_coin_throws_at_least_as_uneven(gained: int, lost: int) -> None:
    count = gained + lost
    uneven = [abs(2 * sum(throws) - count) >= abs(gained - lost) for throws in product((0, 1), repeat=count)]
    before, after = [0] * gained + [1] * lost, [1] * gained + [0] * lost
    assert mcnemar(map(bool, before), map(bool, after)).p_value == pytest.approx(sum(uneven) / len(uneven))


def test_many_samples_do_not_overflow() -> None:
    assert mcnemar([False] * 3000, [True] * 3000).p_value < 1e-300


def test_what_is_no_pair_of_answers_is_refused() -> None:
    with pytest.raises(MechsteerError, match="2 before and 1 after"):
        mcnemar([True, True], [True])
    with pytest.raises(MechsteerError, match=r"got 0\.5"):
        mcnemar([0.5], [True])
    for missing in (None, float("nan"), pd.NA):
        with pytest.raises(MechsteerError, match=r"right and wrong \(True and False\), got"):
            mcnemar([True, missing], [True, False])
