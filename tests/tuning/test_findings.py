"""The sentences: what they call an improvement, the ceiling, the gap, and what they refuse to say."""

from typing import Any

import pandas as pd
import pytest

from mechsteer.comparison.summary import summarise
from mechsteer.tuning.findings import findings
from mechsteer.tuning.tables import COLUMNS

N = 20


def arm(name: str, followed: int, *, start: int = 0) -> pd.DataFrame:
    """So many prompts follow, from a place on."""
    values = [float(start <= place < start + followed) for place in range(N)]
    return pd.DataFrame({"name": name, "adherence": values, "quality": 1.0, "collapsed": False, "n_tokens": 5})


def best(adherence: float, **more: Any) -> pd.DataFrame:
    row = dict.fromkeys(COLUMNS, 0.0) | {"method": "guide", "adherence": adherence, "above_floor": True}
    row |= {"edge": False, "side_same": 0.75, "side_kept": 1.0, "chosen": True}
    return pd.DataFrame([row | more])


def said(tables: list[pd.DataFrame], chosen: pd.DataFrame, right: float = 0.9) -> str:
    rows = pd.concat(tables, ignore_index=True)
    summary = summarise(rows, "adherence", {}).assign(quality=1.0)
    return "\n".join(findings(chosen, summary, rows, 0.2, right))


def test_a_large_difference_is_an_improvement_with_its_gap() -> None:
    text = said([arm("unsteered", 4), arm("tuned: guide 1", 14)], best(0.9))
    assert "14 of 20 (70 %, 95 % interval" in text and ": an improvement (10 repaired, 0 broken" in text
    assert "promised 90 %, the held-out prompts gave 70 %: a gap of +20 points" in text
    assert "Made worse: 0 of 20 prompts (0 %)" in text and "Edge" not in text


def test_the_gap_is_that_of_the_numbers_beside_it() -> None:
    text = said([arm("unsteered", 0).head(3), arm("tuned: guide 1", 1).head(3)], best(2 / 3))
    assert "promised 67 %, the held-out prompts gave 33 %: a gap of +34 points" in text


@pytest.mark.parametrize("followed", [5, 9])
def test_what_chance_explains_is_no_improvement(followed: int) -> None:
    text = said([arm("unsteered", 4), arm("tuned: guide 1", followed)], best(0.9))
    assert "no difference that these prompts can tell from chance" in text and "an improvement (" not in text


def test_graded_scores_are_no_count_of_prompts_and_signs_are_no_mean() -> None:
    start, tuned = (arm(name, 0).head(14) for name in ("unsteered", "tuned: guide 1"))
    text = said([start.assign(adherence=0.5), tuned.assign(adherence=[0.45] * 12 + [1.0] * 2)], best(0.9))
    assert "unsteered model follows 50 % (95 % interval" in text and "7 of 14" not in text
    assert ": fewer prompts gain than lose, but the mean rises: neither better nor worse (2 repaired, 12 broken" in text
    assert "exact sign test, p =" in text


def test_prompts_made_worse_are_counted() -> None:
    text = said([arm("unsteered", 12), arm("tuned: guide 1", 3, start=10)], best(0.9))
    assert "Made worse: 10 of 20 prompts (50 %)" in text and ": a loss (" in text


def test_the_ceiling_is_the_best_way_to_ask() -> None:
    tables = [arm("unsteered", 4), arm("tuned: guide 1", 8), arm("in capitals", 3), arm("instruction last", 18)]
    text = said([*tables, arm("without instruction", 1)], best(0.5))
    assert "Its ceiling when told otherwise is 18 of 20" in text and "(instruction last)" in text
    assert "1 of 20 (5 %, 95 % interval 0 to 27 %) when the instruction is left out" in text
    assert "Steering does worse than the best other way to ask (instruction last" in text


def test_a_ceiling_that_asking_does_not_raise() -> None:
    text = said([arm("unsteered", 4), arm("tuned: guide 1", 8), arm("in capitals", 2)], best(0.5))
    assert "No other way to ask does better" in text
    assert "ceiling is not known" in said([arm("unsteered", 4), arm("tuned: guide 1", 8)], best(0.5))


def test_an_edge_is_said() -> None:
    text = said([arm("unsteered", 4), arm("tuned: guide 1", 8)], best(0.5, edge=True))
    assert "Edge: nothing stronger" in text


def test_no_setting_is_recommended_where_none_helps() -> None:
    none = best(0.1, chosen=False)
    assert "none is recommended" in said([arm("unsteered", 4)], none)
    assert "below the floor" in said([arm("unsteered", 4)], none.assign(above_floor=False))
    assert "all were dropped" in said([arm("unsteered", 4)], none.iloc[:0])


def test_prompts_that_are_there_before_are_said() -> None:
    tables = [arm(name, 4).assign(prompt="p", output="x") for name in ("unsteered", "tuned: guide 1")]
    assert "19 of the 20 prompts repeat another one and its answer" in said(tables, best(0.5))
    each = [table.assign(prompt=[f"p{place}" for place in range(N)]) for table in tables]
    assert "repeat" not in said(each, best(0.5))


def test_few_prompts_say_what_they_can_show() -> None:
    text = said([arm("unsteered", 4), arm("tuned: guide 1", 8)], best(0.5))
    assert "at least 6 must be repaired" in text


def test_side_effects_are_said_and_what_they_ruled_out() -> None:
    tables = [arm("unsteered", 4), arm("tuned: guide 1", 14)]
    harmful = best(0.95, method="vector", side_kept=0.5, chosen=False)
    text = said(tables, pd.concat([harmful, best(0.9)], ignore_index=True), right=0.2)
    assert "Not chosen: vector 0 makes 50 % of the answers to unrelated questions worse" in text
    assert "75 % of the answers to unrelated questions stay the same text, and 100 % are no worse" in text
    assert "answers only 20 % of the unrelated questions well" in text
    assert "answers only" not in said(tables, best(0.9)) and "Not chosen" not in said(tables, best(0.9))
    assert "harms the answers to unrelated questions" in said([arm("unsteered", 4)], harmful)
