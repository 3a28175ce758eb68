"""What a study's page says of its figures."""

import pytest

from mechsteer.studies.html_report.report import caption
from mechsteer.studies.registry import STUDIES


@pytest.mark.parametrize(
    ("study", "name", "starts", "ends"),
    [
        ("compose", "gains", "What a pair adds to the better of its two", "intervals."),
        ("t5-dola", "heatmap_relative", "Improvement over the unsteered model", "(relative)."),
        ("t5-dola", "controls", "Accuracy of the mined vector", "every random direction."),
        ("dola-decoding", "bars_trap-t5", "Baseline and DoLa", "(trap-t5)."),
        ("questions", "numbers", "Cosine between two sides' vectors", "number of pairs."),
        ("ifeval", "prompts", "Prompts whose instructions were all followed", "collapsed."),
    ],
)
def test_a_figure_says_what_it_shows(study: str, name: str, starts: str, ends: str) -> None:
    said = caption(STUDIES[study], name)
    assert said.startswith(starts) and said.endswith(ends)


def test_a_figure_that_nothing_describes_keeps_its_name() -> None:
    assert caption(STUDIES["compose"], "of_my_own") == "of my own"
