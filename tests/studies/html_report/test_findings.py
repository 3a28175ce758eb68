"""Sentences about a summary: what is compared with what."""

import pandas as pd

from mechsteer.studies.html_report.findings import findings


def test_where_several_rows_are_unsteered_each_is_compared_with_its_own() -> None:
    table = pd.DataFrame(
        {
            "method": ["unsteered", "unsteered", "guide", "pasta", "unsteered"],
            "setting": ["near", "far", "far", "far", "none"],
            "n": [9, 8, 7, 6, 5],
            "adherence_percent": [100.0, 30.0, 90.0, 20.0, 0.0],
            "published_percent": 50.0,
        }
    )
    said = "far: adherence is highest with guide: 90.0 %, where unsteered has 30.0 %; lowest with pasta: 20.0 %."
    assert findings(table) == [said], "not the prompts that need no steering, nor counts, nor what others printed"


def test_a_row_that_says_nothing_is_unsteered_and_flags_are_words() -> None:
    table = pd.DataFrame({"first": ["", "guide"], "second": ["", "pasta"], "adherence_percent": [10.0, 40.0]})
    assert findings(table) == ["Adherence is highest with guide, pasta: 40.0 %, where unsteered has 10.0 %."]
    table = pd.DataFrame({"steered": [False, True], "adherence_percent": [10.0, 40.0]})
    assert findings(table) == ["Adherence is highest with steered: 40.0 %, where not steered has 10.0 %."]
    two = pd.concat([table.assign(setting="with"), table.assign(setting="without")])
    said = "adherence is highest with steered: 40.0 %, where not steered has 10.0 %."
    assert findings(two[["setting", *table]]) == [f"with: {said}", f"without: {said}"]


def test_no_bias_is_where_a_bias_starts() -> None:
    table = pd.DataFrame({"delta": [0.0, 2.0], "score_percent": [10.0, 40.0]})
    assert findings(table) == ["Score is highest with delta 2: 40.0 %, where delta 0 has 10.0 %."]


def test_equal_rows_have_no_highest() -> None:
    table = pd.DataFrame({"delta": [0.0, 2.0], "score_percent": [10.0, 10.0]})
    assert findings(table) == ["Score is the same in all rows: 10.0 %."]


def test_names_that_begin_with_a_preposition_are_quoted() -> None:
    table = pd.DataFrame({"setting": ["with notes", "near"], "score_percent": [10.0, 20.0]})
    assert findings(table) == ["Score is highest with near: 20.0 %; lowest in “with notes”: 10.0 %."]
