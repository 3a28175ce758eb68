"""No number of the README goes unmeasured, and ``make claims`` says what falls short."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import claims
from benchmarks.claims import COMMANDS, QUICK, Options, Source, judged, source
from benchmarks.golden import TABLES
from benchmarks.measures import MEASURES, compared_tools, size
from benchmarks.sentences import ROOT, agree, listed, said, source_of, unlisted
from mechsteer.studies.registry import STUDIES


def test_every_number_of_the_readme_is_a_claim_with_a_source_or_listed_as_none() -> None:
    texts = [entry["text"] for kind in ("sentence", "no_claim") for entry in listed()[kind]]
    left, count = unlisted((ROOT / "README.md").read_text(encoding="utf-8"), texts)
    assert not left, "In README.md and not in tests/golden/sentences.toml (a [[sentence]], or a [[no_claim]])"
    assert count > 15


def test_numbers_that_claim_nothing_are_still_there() -> None:
    page = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert [entry["text"] for entry in listed()["no_claim"] if entry["text"] not in page] == []


PAGE = """# Two things
It is 12.5 % of 1,024 in T5 and SmolLM2-135M ([2410.12877](https://arxiv.org/abs/2410.12877), `x = 3`), half
of them −2 or +3.
```sh
run 17  # 18 minutes
```
Version 3.11.2 [x](docs/6.md)
"""


def test_which_numbers_a_page_has() -> None:
    left, count = unlisted(PAGE, [])
    found = [text.partition("[")[2].partition("]")[0] for text in left]
    assert found == ["Two", "12.5", "1,024", "half", "−2", "+3", "18"] and count == 7
    left, _ = unlisted(PAGE, ["It is # % of #", "# of them # or +3.", "Two things"])
    assert [text.partition("[")[2].partition("]")[0] for text in left] == ["18"]


def test_numbers_as_they_are_written() -> None:
    assert list(said("# of # or #", "half of 1,024 or −2.5")) == [["half", "1,024", "−2.5"]]
    assert agree("1,024", 1024.4) and not agree("1,024", 1024.6) and agree("−2.5", -2.52)
    assert agree("half", 0.5) and not agree("half", 0.49) and agree("half", 0.49, 0.05) and agree("Two", 2.0)


def test_every_claim_has_a_source_that_can_be_run() -> None:
    for sentence in listed()["sentence"]:
        name = source_of(sentence)
        assert name in TABLES or name in MEASURES or (ROOT / name).is_dir()
        assert source(name, Options(full=True)).command
    assert set(QUICK) <= set(TABLES) <= set(STUDIES)
    assert source("t5-dola", Options()).measure and not source("guide", Options()).measure
    assert source("guide", Options(full=True)).measure and not source("ten_words", Options()).measure
    assert source("docs/results/compose", Options(full=True)).command == "mechsteer reproduce compose"
    assert source("docs/results/compose", Options(full=True)).measure
    assert not source("docs/results/compose", Options()).measure
    assert not source("docs/results/ifeval", Options(full=True)).measure  # needs a checkpoint and a file
    assert source("docs/results/ifeval", Options(full=True, model="x", data=Path("y"))).measure
    assert source("docs/results/seeds", Options(full=True, model="x", data=Path("y"))).measure is None
    assert {name.removeprefix("docs/results/") for name in map(source_of, listed()["sentence"])} >= set(COMMANDS)
    for name in (path.name for path in (ROOT / "docs" / "results").iterdir() if path.is_dir()):
        assert (name in COMMANDS) != (name in STUDIES and name != "ifeval"), name


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two claims, one of a table and one that is measured: 12.5 and 8 are right."""
    sentences = [
        {"tables": "some", "text": "It is # %", "cells": ["t: row == 'a': percent"]},
        {"measured": "compared_tools", "text": "beside # tools"},
    ]
    table = pd.DataFrame({"row": ["a"], "percent": [12.5]})
    monkeypatch.setattr(claims, "listed", lambda: {"sentence": sentences, "no_claim": []})
    monkeypatch.setattr(claims, "committed", lambda name: {"t": table})
    monkeypatch.setattr(claims, "unlisted", lambda text, sentences: ([], 2))
    return sentences


def test_what_falls_short_is_said_and_ends_with_1(
    listing: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "pages", lambda: {"good": "It is 12.5 %, beside 8 tools"})
    claims.main(Options(out=tmp_path))
    out = capsys.readouterr().out
    assert "2 claims: 1 holds in the table, not measured now, 1 holds" in out
    assert pd.read_csv(tmp_path / "claims.csv")["claimed"].tolist() == [12.5, 8.0]
    monkeypatch.setattr(claims, "pages", lambda: {"good": "It is 12.5 %", "bad": "It is 12.6 %, beside 7 tools"})
    with pytest.raises(SystemExit) as ended:
        claims.main(Options(out=tmp_path))
    assert ended.value.code == 1 and capsys.readouterr().out.count("FALLS SHORT") == 4  # two, each also in the sum
    monkeypatch.setattr(claims, "pages", lambda: {"bad": "nothing"})
    with pytest.raises(SystemExit):
        claims.main(Options(out=tmp_path))


def test_what_is_measured_now_counts_beside_the_table(listing: list[dict[str, Any]]) -> None:
    def verdict(percent: float, about: float = 0.0) -> str:
        made = {"t": pd.DataFrame({"row": ["a"], "percent": [percent]})}
        (claim,) = judged(listing[0], {"page": "It is 12.5 %"}, made, Source("run it", None, about))
        return claim.verdict

    assert verdict(12.52) == "holds" and verdict(14.0, about=0.25) == "holds"
    assert verdict(14.0) == "FALLS SHORT of what is measured"


def test_sizes_count_a_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1" * 100)
    (tmp_path / "y").write_bytes(b"1" * 10)
    (tmp_path / "link").symlink_to("y")
    (tmp_path / "again").hardlink_to(tmp_path / "y")
    assert size(tmp_path) == 110 and compared_tools() == [8.0]
