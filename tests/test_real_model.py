"""Settings on a real model are those that were chosen on other prompts. What the pages say: tests/test_golden.py."""

from benchmarks.sentences import committed


def test_settings_are_those_that_were_chosen_on_other_prompts() -> None:
    tables = committed("docs/results/ifeval")
    summary, tried = tables["summary"].set_index("name"), tables["validation"]
    chosen = tried[tried["chosen"]].groupby("name")["setting"].apply(lambda s: ", ".join(f"{x:g}" for x in s))
    assert summary.loc["GUIDE", "settings"] == chosen["GUIDE"] and (tried["n"] == 20).all()
