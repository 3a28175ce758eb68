"""Settings on a real model are those that were chosen on other prompts. What the pages say: tests/test_golden.py."""

from benchmarks.sentences import committed


def test_settings_are_those_that_were_chosen_on_other_prompts() -> None:
    tables = committed("docs/results/ifeval")
    summary, tried = tables["summary"].set_index("name"), tables["validation"]
    chosen = tried.loc[tried["chosen"] & (tried["name"] == "GUIDE"), "setting"]
    assert set(chosen) == {float(summary.loc["GUIDE", "settings"])} and len(chosen) == 2 and (tried["n"] == 40).all()
