"""Reports as pages: they stand alone, hold everything, stay small, and let nothing out of an answer."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechsteer import plots
from mechsteer.errors import MechsteerError
from mechsteer.html_report import Heat, Report, page, provenance_of, samples_of, write
from mechsteer.html_report.samples import verdict_of
from mechsteer.html_report.values import plain
from tests.html_report.browser import visit

EVIL = "<script>wrong.push('ran')</script><img src=x onerror=\"wrong.push('loaded')\">"
VOID = {"meta", "link", "img", "input", "br"}


class Seen(HTMLParser):
    """Tags, links, and that what is opened is closed; what stands in scripts is no tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def rows_of(prompts: int, words: int = 12) -> pd.DataFrame:
    """The answers of three ways, in words drawn at random."""
    rng, vocabulary = np.random.default_rng(0), np.array([f"word{number}" for number in range(4000)])
    kept = rng.integers(0, 4000, (prompts, words))
    lines = []
    for name, change in (("unsteered", 0.0), ("guide <1>", 0.2), ("other", 0.5)):
        drawn = np.where(rng.random(kept.shape) < change, rng.integers(0, 4000, kept.shape), kept)
        for sample, answer in enumerate(vocabulary[drawn]):
            good = (sample + len(name)) % 3 > 0
            lines.append({"name": name, "task": "t", "sample": sample, "prompt": f"ask {sample}?", "adherence": good,
                          "output": " ".join(answer), "model_name": "tiny", "version_torch": "2"})  # fmt: skip
    lines[0]["output"] += EVIL
    return pd.DataFrame(lines)


def data_of(text: str, name: str) -> Any:
    held = re.search(rf'data-for="{name}">([^<]*)<', text)
    assert held
    return json.loads(gzip.decompress(base64.b64decode(held[1])))


def report(prompts: int = 7, **changed: Any) -> Report:
    rows = rows_of(prompts)
    table = pd.DataFrame(
        {"method": [f"m{n:02d}" for n in range(60)], "score_percent": [(37 * n) % 60 + 0.5 for n in range(60)],
         "note": [EVIL, *[None] * 59], "model_name": "tiny"}
    )  # fmt: skip
    cells = pd.DataFrame({"layer": [0, 0, 1, 1], "strength": [1.0, 2.0] * 2, "gain_pp": [3.0, -4.0, float("nan"), 8.0]})
    examples = {(2.0, 0.0): [{"prompt": "p", "steered": EVIL}]}
    made, (axes,) = plots.figure(width=2.0, height=1.5)
    axes.plot([0, 1])
    values: dict[str, Any] = {
        "title": "A <b>report</b>", "asked": ["Does it?"], "found": {"": ["It does & more."]},
        "figures": {"a_line": made}, "heats": [Heat("Gain", cells, "strength", "layer", "gain_pp", True, examples)],
        "tables": {"first": table, "second": table.head(2)},
        "samples": samples_of(rows, "name", verdict_of(rows)), "provenance": provenance_of([rows]),
        "command": "mechsteer compare 'x <y>'",
    }  # fmt: skip
    return Report(**(values | changed))


def test_a_page_stands_alone_and_lets_nothing_out() -> None:
    text = page(report())
    seen = Seen(text)
    assert all(link.startswith(("data:", "#")) for link in seen.links) and "http" not in text.split("<body")[1]
    assert seen.tags.count("script") == 1 + 2 + 1 + 1, "the page's own, and the data of tables, answers and the map"
    assert seen.tags.count("img") == 1 and "b" not in seen.tags
    assert "A &lt;b&gt;report&lt;/b&gt;" in text and "It does &amp; more." in text and "x &lt;y&gt;" in text
    assert "&lt;script&gt;wrong" in text and "guide &lt;1&gt;" in text
    for what in ("<ins>", "<del>", "aria-sort", "prefers-color-scheme: dark", 'name="viewport"', "<dt>model</dt>"):
        assert what in text, what
    assert page(report()) == text, "the same bytes each time"


def test_all_rows_and_answers_are_in_the_page() -> None:
    text = page(report(30))
    rows = rows_of(30)
    found = data_of(text, "answers")
    assert found["names"] == ["unsteered", "guide <1>", "other"] and len(found["prompts"]) == 30
    assert found["answers"][3] == rows[rows["sample"] == 3]["output"].tolist()
    assert found["good"][3] == rows[rows["sample"] == 3]["adherence"].tolist()
    assert len(data_of(text, "table-first")["rows"]) == 60 and data_of(text, "table-first")["rows"][1] == [
        "m01",
        37.5,
        None,
    ]


def test_answers_of_other_orders_are_matched_by_their_sample() -> None:
    rows = rows_of(9).sample(frac=1, random_state=0)
    found = samples_of(rows, "name", verdict_of(rows))
    assert found is not None
    for prompt, row in zip(found.prompts, found.answers, strict=True):
        same = rows[rows["prompt"] == prompt].set_index("name")["output"]
        assert [same[name] for name in found.names] == [answer for answer, _, _ in row]


def test_a_count_is_neither_followed_nor_good() -> None:
    rows = pd.DataFrame({"adherence": [0.0, 1.0, 7.0, float("nan")], "collapse_reason": ["empty", None, None, None]})
    words = ["adherence 0.00; collapsed: empty", "adherence 1.00", "adherence 7.00", ""]
    assert [verdict_of(rows)(row) for row in rows.to_dict("records")] == [(said, None) for said in words]
    shares = rows[:2]
    assert [verdict_of(shares)(row) for row in shares.to_dict("records")] == [
        ("not followed; collapsed: empty", False),
        ("followed", True),
    ]


def many(rows: pd.DataFrame) -> Report:
    return Report("many", ["?"], {}, samples=samples_of(rows, "name", verdict_of(rows)))


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(many(rows_of(3334, 60)), tmp_path_factory.mktemp("many") / "many.html")


def test_ten_thousand_answers_stay_small(ten_thousand: Path) -> None:
    text = ten_thousand.read_text("utf-8")
    assert len(text) < 5_000_000 and "Answers are cut" not in text
    assert len(data_of(text, "answers")["prompts"]) == 3334


def test_answers_that_are_too_long_are_cut_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechsteer.html_report.samples.MOST", 40_000)
    text = page(many(rows_of(40, 300)))
    found = data_of(text, "answers")["answers"]
    limit = int(re.search(r"Answers are cut after (\d+) letters", text)[1])  # type: ignore[index]
    assert len(text) < 90_000 and {len(one) for row in found for one in row} == {limit + 1}


def test_a_heat_map_refuses_two_values_for_one_cell() -> None:
    cells = pd.DataFrame({"layer": [0, 0], "strength": [1.0, 1.0], "gain_pp": [3.0, 4.0]})
    with pytest.raises(MechsteerError, match=r"several rows for one \(strength, layer\) cell"):
        page(Report("t", [], {}, heats=[Heat("Gain", cells, "strength", "layer", "gain_pp")]))


ACTS = """
  await until(() => all("[data-ready]").length === all("[data-table],[data-answers],[data-heat]").length);
  const root = document.querySelector("[data-table=table-first]");
  const column = (at) => texts(`tbody td:nth-child(${at})`, root);
  const sort = all("th button", root)[1];
  sort.focus(); sort.click();
  found.up = column(2); found.aria = all("th", root).map((head) => head.ariaSort);
  sort.click(); found.down = column(2);
  found.before = root.querySelector("output").textContent;
  all("[data-turn]", root)[1].click(); found.second = column(2).length;
  const search = root.querySelector("input");
  search.value = "m07"; search.dispatchEvent(new Event("input"));
  await until(() => column(1).length === 1); found.filtered = column(1);
  const cell = document.querySelector("[data-cell]");
  cell.focus(); found.example = document.querySelector(".examples").textContent;
  found.first = texts("article .text")[0]; found.marked = all("article ins").length;
  const choice = document.querySelector("[data-answers] select");
  choice.value = "worse"; choice.dispatchEvent(new Event("change"));
  found.worse = document.querySelector("[data-answers] output").textContent;
  found.wide = document.documentElement.scrollWidth; found.room = innerWidth;
  found.images = all("img").length; found.scripts = all("article script, td script, .examples script").length;
  found.paper = getComputedStyle(document.body).backgroundColor;
  const closed = () => all("details:not([open])").length;
  found.closed = [closed()];
  for (const when of ["beforeprint", "afterprint"]) { dispatchEvent(new Event(when)); found.closed.push(closed()); }
"""


@pytest.mark.parametrize("width", [1280, 500])
def test_in_a_browser(width: int, tmp_path: Path) -> None:
    found, wrong = visit(write(report(), tmp_path / "report.html"), ACTS, width=width, dark=width == 500)
    assert wrong == []
    numbers = [(37 * n) % 60 + 0.5 for n in range(60)]
    assert found["up"] == [f"{value:g}" for value in sorted(numbers)[:25]]
    assert found["down"] == [f"{value:g}" for value in sorted(numbers)[::-1][:25]]
    assert found["aria"] == ["none", "ascending", "none"] and found["second"] == 25
    assert found["before"] == "1 to 25 of 60 rows" and found["filtered"] == ["m07"]
    assert EVIL in found["example"] and found["first"].endswith(EVIL), "text, as it was written"
    assert found["images"] == 1 and found["scripts"] == 0 and found["marked"] > 0
    rows = rows_of(7).pivot(index="sample", columns="name", values="adherence")
    broken = int((rows["unsteered"] & ~rows.drop(columns="unsteered").all(axis=1)).sum())
    assert found["worse"] == f"{broken} prompts"
    assert found["wide"] <= found["room"], "nothing makes the page wider than the window"
    assert found["closed"] == [1, 0, 1], "on paper everything is unfolded"


def test_ten_thousand_answers_in_a_browser(ten_thousand: Path) -> None:
    script = """
      await until(() => all("[data-ready]").length === 1);
      const search = document.querySelector("input"), began = performance.now();
      search.value = "ask 3333?"; search.dispatchEvent(new Event("input"));
      await until(() => document.querySelector("output").textContent === "1 prompts");
      found.took = performance.now() - began; found.prompts = texts(".prompt");
    """
    found, wrong = visit(ten_thousand, script)
    assert wrong == [] and found["prompts"] == ["ask 3333?"]
    assert found["took"] < 1000


def test_texts_that_look_like_nothing_are_texts() -> None:
    given = [
        "None",
        "nan",
        "NaT",
        None,
        float("nan"),
        pd.NA,
        np.float32("inf"),
        np.int64(3),
        np.bool_(True),
        0.12345678,
    ]
    assert [plain(value) for value in given] == ["None", "nan", "NaT", None, None, None, "inf", 3, "yes", 0.123457]
