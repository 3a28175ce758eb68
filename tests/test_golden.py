"""What README and docs say about the bundled models are the numbers of the golden tables, which the studies made.

``golden/sentences.toml`` lists sentences with ``#`` for their numbers, and for each number the cell that it is. A
sentence may stand in any page, but must stand in one, and every page that has it must have the tables' numbers, rounded
to the digits that it writes. ``python -m benchmarks.golden`` compares the tables with what the code computes.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmarks import golden as golden_tables
from benchmarks.golden import FOLDER, TABLES, path_of, read

ROOT = Path(__file__).parents[1]
SENTENCES = tomllib.loads((FOLDER / "sentences.toml").read_text(encoding="utf-8"))["sentence"]
NUMBER = r"([+−-]?\d+(?:\.\d+)?)"


def pages() -> dict[str, str]:
    """Each page as one line."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): " ".join(path.read_text(encoding="utf-8").split()) for path in found}


def said(text: str, page: str) -> Iterator[list[str]]:
    """The numbers that a page has in a sentence, each time that it has the sentence."""
    parts = [re.escape(part) for part in " ".join(text.split()).split("#")]
    yield from (list(match.groups()) for match in re.finditer(NUMBER.join(parts), page))


def cells(spec: str, tables: dict[str, pd.DataFrame]) -> list[float]:
    """The numbers of ``TABLE: ROWS: VALUE, VALUE``; of several rows the mean, and ``count`` is their number."""
    table, rows, values = spec.split(": ")
    part = tables[table].query(rows)
    assert len(part), f"{table} has no row where {rows}"
    part = part.assign(count=float(len(part)))
    return [float(part.eval(value).mean()) for value in values.split(", ")]


def agree(written: str, value: float) -> bool:
    """Whether the number is the value, rounded to the digits that are written."""
    digits = len(written.partition(".")[2])
    return abs(float(written.replace("−", "-")) - value) <= 0.5 * 10**-digits + 1e-9


def wrong(sentence: dict[str, Any], tables: dict[str, pd.DataFrame], texts: dict[str, str]) -> list[str]:
    """What is wrong with a sentence of the list."""
    values = [value for spec in sentence["cells"] for value in cells(spec, tables)]
    found = [(name, numbers) for name, page in texts.items() for numbers in said(sentence["text"], page)]
    if not found:
        return [f"no page says: {sentence['text']}"]
    return [
        f"{name} says {' '.join(numbers)}, the tables {values}"
        for name, numbers in found
        if len(numbers) != len(values) or not all(map(agree, numbers, values))
    ]


def golden(study: str) -> dict[str, pd.DataFrame]:
    return {name: read(path_of(study, name).read_text(encoding="utf-8")) for name in TABLES[study]}


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence["text"][:40])
def test_pages_say_what_the_tables_say(sentence: dict[str, Any]) -> None:
    assert wrong(sentence, golden(sentence["study"]), pages()) == []


def test_every_study_of_bundled_models_has_its_tables_and_nothing_else_has() -> None:
    wanted = {path_of(study, name) for study, names in TABLES.items() for name in names}
    assert set(FOLDER.glob("*.csv")) == wanted


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
