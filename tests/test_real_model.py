"""What the pages say about a real model is what the committed tables say."""

from typing import Any

import pandas as pd
import pytest

from tests.test_golden import ROOT, pages, wrong

TABLES = {
    name: pd.read_csv(ROOT / "docs" / "results" / "ifeval" / f"{name}.csv")
    for name in ("summary", "validation", "by_instruction")
}
ENDS = "prompt_{0}_percent, prompt_{0}_low, prompt_{0}_high"
COST = "collapsed, empty"
STEERED = "| # % [#, #] | # % [#, #] | # % | #, #: p = #, adjusted # | # % | # % |"


def of(name: str, *columns: str) -> str:
    return f"summary: name == '{name}': {', '.join(columns)}"


BOTH = (ENDS.format("strict"), ENDS.format("loose"), "uncollapsed_loose_percent")
TESTED = ("repaired", "broken", "p_value", "p_adjusted")
SENTENCES: list[dict[str, Any]] = [
    {"text": "| unsteered | # % [#, #] | # % [#, #] | # % | | # % | # % |", "cells": [of("unsteered", *BOTH, COST)]},
    {
        "text": f"| instruction between asterisks {STEERED}",
        "cells": [of("*-marked", *BOTH, *TESTED, COST)],
    },
    {
        "text": f"| GUIDE, Δ = 1.5 and 2 {STEERED}",
        "cells": [of("GUIDE", *BOTH, *TESTED, COST)],
    },
    {
        "text": "Of # prompts of IFEval it follows # % [#, #]; asterisks around the instruction (# %) and GUIDE with "
        "a strength chosen on other prompts (# %) did not help, and # % of its answers collapse",
        "cells": [
            of("unsteered", "n", ENDS.format("strict")),
            of("*-marked", "prompt_strict_percent"),
            of("GUIDE", "prompt_strict_percent"),
            of("unsteered", "collapsed"),
        ],
    },
]


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence["text"][:30])
def test_pages_say_what_the_tables_say(sentence: dict[str, Any]) -> None:
    assert wrong(sentence, TABLES, pages()) == []


def test_settings_are_those_that_were_chosen_on_other_prompts() -> None:
    summary, tried = TABLES["summary"].set_index("name"), TABLES["validation"]
    chosen = tried[tried["chosen"]].groupby("name")["setting"].apply(lambda s: ", ".join(f"{x:g}" for x in s))
    assert summary.loc["GUIDE", "settings"] == chosen["GUIDE"] and (tried["n"] == 20).all()
