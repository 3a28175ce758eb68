"""What README and docs say are the numbers of the committed tables, which studies and benchmarks made.

``golden/sentences.toml`` is the list of sentences, see :mod:`benchmarks.sentences`. ``python -m benchmarks.golden``
compares the golden tables with what the code computes, ``python -m benchmarks.claims`` prints all that is claimed.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmarks import golden as golden_tables
from benchmarks.golden import FOLDER, TABLES, path_of
from benchmarks.sentences import committed, listed, pages, source_of, wrong

SENTENCES = listed()["sentence"]
PAGES = pages()


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence["text"][:40])
def test_pages_say_what_the_tables_say(sentence: dict[str, Any]) -> None:
    tables = committed(source_of(sentence)) if "cells" in sentence else {}
    assert wrong(sentence, tables, PAGES) == []


def test_every_study_of_bundled_models_has_its_tables_and_nothing_else_has() -> None:
    every = {path_of(study, name) for study, names in TABLES.items() for name in names}
    assert set(FOLDER.glob("*.csv")) == every


TABLE = pd.DataFrame({"row": ["a", "b", "b"], "percent": [12.344, 50.0, 51.0], "n": [3, 4, 4]})
SENTENCE = {"text": "It is # % (of #), or # on\naverage in # rows", "cells": ["t: row == 'a': percent, n"]}
SENTENCE["cells"] += ["t: row == 'b': percent, count"]


@pytest.mark.parametrize(
    ("page", "same"),
    [
        ("So: It is 12.3 % (of 3), or 50.5 on average in 2 rows.", True),
        ("It is 12 % (of 3), or 50.50 on average in 2 rows", True),
        ("It is 12.4 % (of 3), or 50.5 on average in 2 rows.", False),
        ("It is 12.3 % (of 3), or 50.6 on average in 2 rows.", False),
        ("It is 12.3 % (of 3), or −50.5 on average in 2 rows.", False),
        ("It was 12.3 % (of 3).", False),
    ],
)
def test_a_number_that_changes_on_a_page_is_seen(page: str, same: bool) -> None:
    assert (wrong(SENTENCE, {"t": TABLE}, {"page": page, "other": "nothing"}) == []) is same


def test_a_number_that_changes_in_a_table_is_seen() -> None:
    page = {"page": "It is 12.3 % (of 3), or 50.5 on average in 2 rows."}
    assert wrong(SENTENCE, {"t": TABLE.assign(percent=TABLE["percent"] + 0.1)}, page)


def test_the_command_writes_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = TABLE.assign(percent=[12.3441, 50.0, 51.0], model_revision="x", token_ms=0.5, percent_low=0.1)
    study = SimpleNamespace(run=lambda **options: SimpleNamespace(tables={"summary": made}))
    monkeypatch.setattr(golden_tables, "FOLDER", tmp_path)
    monkeypatch.setattr(golden_tables, "STUDIES", {"one": study})
    monkeypatch.setattr(golden_tables, "TABLES", {"one": ("summary",)})

    def said(**options: Any) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            golden_tables.main(golden_tables.Options(**options))
        return ended.value.code, capsys.readouterr().out

    assert said() == (1, "one, summary: there is no golden table\n1 studies, 1 differences.\n")
    assert said(write=True) == (0, "1 studies, written.\n")
    assert said() == (0, "1 studies, 0 differences.\n")
    assert list(pd.read_csv(tmp_path / "one.summary.csv")) == ["row", "percent", "n"]
    made["more"] = 1.0
    assert said() == (0, "1 studies, 0 differences.\n")
    made["percent"] += [0.0003, 0.0, 0.01]
    assert said() == (1, "one, summary: percent: 1 of 3 rows, first 51.0 became 51.01\n1 studies, 1 differences.\n")
    assert "no golden tables of tow; there are: one" in str(said(studies=("tow",))[0])
