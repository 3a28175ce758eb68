"""What a study's page says of its figures."""

from pathlib import Path

import pandas as pd
import pytest

from mechsteer.html_report import page, provenance_of
from mechsteer.studies.html_report.report import _asked, caption, report_of
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


def test_a_study_with_claims_says_them_by_question(tmp_path: Path) -> None:
    claim = {"claim": "it <gains>", "estimate": 3.25, "low": 1.0, "high": 5.0, "unit": "points", "note": ""}
    summary = pd.DataFrame(
        [{"question": "numbers", **claim, "shown": True}, {"question": "linear", **claim, "shown": False}]
    )
    found = report_of(STUDIES["questions"], tmp_path, {}, {"summary": summary}, {}).found
    assert found == {
        "How many pairs, how diverse?": ["Shown: it <gains>: 3.2 [1.0, 5.0] points."],
        "Linear?": ["Not shown: it <gains>: 3.2 [1.0, 5.0] points."],
    }


def test_answers_to_one_prompt_stand_side_by_side_in_another_wording_too(tmp_path: Path) -> None:
    ways = {"unsteered": "ifeval:x", "*-marked": "ifeval:x*", "GUIDE": "ifeval:x"}
    rows = pd.DataFrame(
        [
            {
                "name": name,
                "task": task,
                "sample": place,
                "key": key,
                "prompt": key,
                "output": f"{key} {name}",
                "strict": 1,
            }
            for name, task in ways.items()
            for place, key in enumerate(("b", "a") if name == "GUIDE" else ("a", "b"))
        ]
    )
    samples = report_of(
        STUDIES["ifeval"], tmp_path, {}, {"summary": pd.DataFrame({"n": [2]}), "rows": rows}, {}
    ).samples
    assert samples is not None and samples.names == tuple(ways)
    assert [[text for text, *_ in answers] for answers in samples.answers] == [
        [f"{key} {name}" for name in ways] for key in samples.prompts
    ]
    assert len(samples.prompts) == 2


def test_a_steered_way_is_marked_against_its_own_unsteered_one(tmp_path: Path) -> None:
    ways = ("without instruction", "without instruction, steered", "with instruction", "with instruction, steered")
    rows = pd.DataFrame(
        [{"name": name, "sample": 0, "prompt": "?", "output": f"so {name}", "strict": 1} for name in ways]
    )
    report = report_of(STUDIES["ifeval"], tmp_path, {}, {"summary": pd.DataFrame({"n": [1]}), "rows": rows}, {})
    assert report.samples is not None and report.samples.against == (0, 0, 0, 2)
    text = page(report)
    assert "so with instruction<ins>, steered</ins>" in text and "so without instruction<ins>, steered</ins>" in text


@pytest.mark.parametrize("study", STUDIES)
def test_what_was_asked_is_whole_sentences(study: str) -> None:
    asked = _asked(STUDIES[study])
    assert asked and all(one.endswith((".", "?")) and "`" not in one for one in asked)
    assert study != "questions" or "“followed” is the strict checker" in asked[1]


def test_the_command_has_the_settings_that_are_not_the_usual_ones(tmp_path: Path) -> None:
    summary = pd.DataFrame({"model_name": ["m"], "n": [2]})

    def command(**record: object) -> str:
        return report_of(STUDIES["ifeval-vectors"], tmp_path, record, {"summary": summary}, {}).command

    start, end = "mechsteer reproduce ifeval-vectors --model m --data FILE", f"--out {tmp_path}"
    assert command(max_new_tokens=256, n_pairs=9) == f"{start} {end}"
    assert command(max_new_tokens=128, kinds=["a", "b c"]) == f"{start} --kinds a 'b c' --max-new-tokens 128 {end}"
    assert command(max_new_tokens=128, command="as typed") == "as typed"


def test_of_many_sources_the_first_ones_are_named() -> None:
    table = pd.DataFrame({"data_hash": [f"h{place}" for place in range(9)], "model_name": "m"})
    assert provenance_of([table, table]) == {"model": "m", "data": "h0, h1, h2, h3, h4, h5 and 3 more"}
