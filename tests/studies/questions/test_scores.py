"""Scores: what is counted, and that paired intervals have a width and cover."""

import pandas as pd
import pytest

from mechsteer.studies.questions.report import sentence
from mechsteer.studies.questions.scores import averaged, differences, finding, scored, shares

ROWS = pd.DataFrame(
    {
        "kind": "upper",
        "topic": ["a", "b", "c", "d"],
        "output": "x",
        "sound": [True, True, False, False],
        "fidelity": [1.0, 0.5, 1.0, 0.0],
        "collapsed": [False, True, False, False],
    }
)


@pytest.mark.parametrize(("knows", "quality"), [(True, [1.0, 0.5, 1.0, 0.0]), (False, [1.0, 0.0, 1.0, 1.0])])
def test_quality_is_fidelity_where_the_world_is_known(knows: bool, quality: list[float]) -> None:
    table = scored(ROWS, knows)
    assert table["quality"].tolist() == quality and table["followed"].tolist() == [1, 1, 0, 0]
    assert table["value"].tolist() == [quality[0], quality[1], 0, 0]


def test_several_answers_to_a_prompt_are_one_sample() -> None:
    one, other = scored(ROWS, True), scored(ROWS.assign(sound=[False, True, False, False]), True)
    mean = averaged([one, other])
    assert mean["followed"].tolist() == [0.5, 1.0, 0, 0] and shares(mean)["n"] == 4
    found = shares(mean)
    assert found["followed_percent"] == 37.5 and found["followed_low"] < 37.5 < found["followed_high"]


def test_differences_are_of_the_same_prompts() -> None:
    found = differences(scored(ROWS, True), scored(ROWS.assign(sound=False), True), "gain")
    assert found["followed_gain"] == 50.0 and found["quality_gain"] == 0.0
    assert found["quality_gain_low"] < 0 < found["quality_gain_high"]  # a width where nothing differs


def test_the_prompts_of_a_topic_are_one_sample() -> None:
    many = pd.concat([ROWS] * 6)
    apart = many.assign(topic=[f"{place}" for place in range(len(many))])
    of_four, of_all = (shares(scored(rows, True)) for rows in (many, apart))
    assert of_four["followed_percent"] == of_all["followed_percent"] == 50.0
    assert of_four["followed_low"] < of_all["followed_low"] - 10


@pytest.mark.parametrize(
    ("found", "reference", "beginning"),
    [
        ((5.0, 1.0, 9.0), 0.0, "Shown: it gains: 5.0 [1.0, 9.0] points (n)."),
        ((-5.0, -9.0, -1.0), 0.0, "Shown: it gains: -5.0 [-9.0, -1.0] points (n)."),
        ((5.0, -1.0, 9.0), 0.0, "Not shown: it gains: 5.0 [-1.0, 9.0] points (n)."),
        ((0.9, 0.8, 0.99), 1.0, "Shown: it gains: 0.9 [0.8, 1.0] points (n)."),
        ((float("nan"),) * 3, 0.0, "Not shown: it gains: not defined (n)."),
    ],
)
def test_a_sentence_says_whether_it_is_shown(found: tuple[float, ...], reference: float, beginning: str) -> None:
    assert sentence(finding("q", "it gains", found, "points", "n", reference=reference)) == beginning
