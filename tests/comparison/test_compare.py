"""``compare``: rows are evaluate's, the summary recomputes, pages escape and stand alone, figures draw."""

import math
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.analysis.mcnemar import mcnemar
from mechsteer.comparison import Comparison, compare_run
from mechsteer.comparison.findings import findings
from mechsteer.comparison.methods import methods_of
from mechsteer.comparison.summary import score_column, summarise
from mechsteer.files import read_table
from mechsteer.html_report.changes import changes
from mechsteer.plots.comparison import comparison_figure
from mechsteer.stats import share_interval

PROMPTS = ["the cat sat on", "a dog", "write a word , the cat", "one <b> two"]


@pytest.fixture
def model(tiny: Callable[..., Any]) -> Any:
    return tiny("llama-gqa")


@pytest.fixture
def task() -> Any:
    samples = [{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS]
    return ms.task(samples, lambda text, sample: len(text) % 2 == 0, name="even", max_new_tokens=5)


def methods() -> dict[str, Any]:
    bias = ms.attention_bias(delta=9.0)
    return {"unsteered": None, "GUIDE <9>": bias, "DIRECTER": ms.Directer(), "both": (bias, ms.Sample(seed=1))}


def test_rows_are_those_of_evaluate(model: Any, task: Any, tmp_path: Path) -> None:
    found = ms.compare(model, task, methods(), out=tmp_path)
    plain = ms.evaluate(model, task, quality=True)
    bias = ms.attention_bias(delta=9.0)
    expected = ms.evaluate(model, task, steer=bias, strategy=ms.Sample(seed=1), quality=True, against=plain)
    rows = found.rows[found.rows["name"] == "both"].drop(columns="name").reset_index(drop=True)
    assert_frame_equal(rows[expected.columns], expected, check_dtype=False, rtol=0, atol=1e-4)
    assert not found.rows.loc[found.rows["name"] == "unsteered", "changed"].any()
    again = ms.compare(model, task, methods(), out=tmp_path)
    assert_frame_equal(again.rows, found.rows)
    assert_frame_equal(again.summary.drop(columns="tokens_per_second"), found.summary.drop(columns="tokens_per_second"))


def test_the_summary_recomputes(model: Any, task: Any) -> None:
    found = ms.compare(model, task, methods())
    groups = {name: part for name, part in found.rows.groupby("name", sort=False)}
    first = groups["unsteered"]["adherence"].tolist()
    assert found.score == "adherence" and found.summary["name"].tolist() == list(methods())
    for row in found.summary.to_dict("records"):
        part = groups[row["name"]]
        assert (row["adherence_low"], row["adherence_high"]) == share_interval(int(part["adherence"].sum()), 4)
        sound = part[~part["collapsed"]]["adherence"].astype(float)
        assert row["n_uncollapsed"] == len(sound)
        assert row["adherence_uncollapsed"] == pytest.approx(sound.mean(), nan_ok=True)
        if row["name"] != "unsteered":
            assert (row["repaired"], row["broken"], row["p_value"]) == mcnemar(first, part["adherence"])
        assert row["tokens_per_second"] > 0 and row["collapsed"] == part["collapsed"].mean()
    assert math.isnan(found.summary["p_value"][0])


def test_p_values_are_adjusted_and_other_scores_count_by_sign() -> None:
    rows = pd.DataFrame(
        {
            "name": ["a"] * 6 + ["b"] * 6 + ["c"] * 6,
            "score": [0.5] * 6 + [0.9] * 6 + [0.1] * 5 + [0.6],
            "collapsed": False,
        }
    )
    table = summarise(rows, "score", {"a": 1.0}).set_index("name")
    assert table.loc["b", ["repaired", "broken", "p_value"]].tolist() == [6, 0, 2 / 64]
    assert table.loc["c", ["repaired", "broken", "p_value"]].tolist() == [1, 5, 2 * 7 / 64]
    assert table["p_adjusted"].tolist()[1:] == pytest.approx([4 / 64, 2 * 7 / 64])
    lines = repr(Comparison(rows, table.reset_index(), "score")).splitlines()
    assert "p_value  p_adjusted" in lines[0] and "0.031       0.062" in lines[3]


def test_names_as_long_as_a_path_have_folders(model: Any, task: Any, tmp_path: Path) -> None:
    names = [f"{'folder/' * 60}{kind}.safetensors" for kind in "ab"]
    ms.compare(model, task, dict.fromkeys(names), quality=False, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_comparison_goes_on(model: Any, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = type(task).run, []

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["steer"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(task), "run", run)
    with pytest.raises(KeyboardInterrupt):
        ms.compare(model, task, methods(), out=tmp_path)
    ms.compare(model, task, methods(), out=tmp_path)
    assert len(calls) == 2 + 3  # the first method's rows were there


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_escapes(model: Any, task: Any, tmp_path: Path) -> None:
    found = ms.compare(model, task, methods())
    text = found.to_html(tmp_path / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert set(page.tags) >= {"table", "img", "ins"} and "b" not in page.tags
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "GUIDE &lt;9&gt;" in text and "one &lt;b&gt; two" in text
    part = found._repr_html_()
    assert "<html" not in part and "<img" not in part and "GUIDE &lt;9&gt;" in part
    said = repr(found)
    assert "GUIDE <9>" in said.splitlines()[3] and "followed]" in said and "unsteered" in said


def test_the_page_is_made_again_from_what_was_saved(model: Any, task: Any, tmp_path: Path, mechsteer: Any) -> None:
    found = ms.compare(model, task, methods())
    found.save(tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").unlink()
    assert mechsteer("report", tmp_path)[0] == 0 and (tmp_path / "report.html").read_text("utf-8") == text
    assert "repaired and" in text and "against unsteered" in text and "ms.compare(ms.load(" in text


def test_a_comparison_of_less_keeps_the_finished_one_beside_it(
    model: Any, task: Any, tmp_path: Path, mechsteer: Any
) -> None:
    few, most = ({name: methods()[name] for name in names} for names in (["unsteered"], ["unsteered", "GUIDE <9>"]))
    larger = ms.compare(model, task, most, quality=False)
    larger.save(tmp_path)
    page = (tmp_path / "report.html").read_bytes()
    ms.compare(model, replace(task, samples=task.samples[:2]), most, quality=False).save(tmp_path / "other")
    with pytest.warns(UserWarning, match="does not have all of; it is now in .*earlier-1"):
        ms.compare(model, task, few, quality=False).save(tmp_path)
    kept = tmp_path / "earlier-1"
    assert (kept / "report.html").read_bytes() == page and (kept / "comparison.pdf").is_file()
    assert read_table(kept / "summary.parquet").equals(larger.summary)
    assert len(read_table(tmp_path / "summary.parquet")) == 1
    assert mechsteer("report", kept)[0] == 0 and (kept / "report.html").read_bytes() == page
    larger.save(tmp_path)  # has all of it, and replaces it
    larger.save(tmp_path / "other")  # more prompts
    assert not (tmp_path / "earlier-2").exists() and not (tmp_path / "other" / "earlier-1").exists()
    with pytest.warns(UserWarning, match="earlier-2"):
        ms.compare(model, replace(task, samples=task.samples[:2]), most, quality=False).save(tmp_path)


@given(st.text(max_size=60), st.text(max_size=60))
def test_marked_changes_hold_both_texts(before: str, after: str) -> None:
    import html
    import re

    marked = changes(before, after)
    new = html.unescape(re.sub(r"<del>.*?</del>|</?ins>", "", marked, flags=re.DOTALL))
    old = html.unescape(re.sub(r"<ins>.*?</ins>|</?del>", "", marked, flags=re.DOTALL))
    assert "".join(new.split()) == "".join(html.unescape(html.escape(after)).split())
    if not marked.count("ins") and not marked.count("del"):
        assert old.split() == before.split()


def test_changes_by_hand() -> None:
    assert changes("The sky is blue.", "The sky is RED & blue.") == "The sky is <ins>RED &amp; </ins>blue."
    assert changes("a b", "a c") == "a <del>b</del><ins>c</ins>" and changes("x", "x") == "x"
    assert changes("a b", "a") == "a<del> b</del>" and changes("a", "a b") == "a <ins>b</ins>"


def test_changes_of_long_loops_take_no_time() -> None:
    from time import process_time

    loops = [
        ("a b c " * 3000, "a b d " * 3000),
        ("x" + " a" * 222, "y" + " a b" * 222 + " z"),
        ("a " * 9000, "b a " * 9000),
    ]
    began = process_time()
    first, *_ = (changes(before, after) for before, after in loops)
    assert process_time() - began < 3  # what is more than so many equal words is looked at by no more than its ends
    assert first.startswith("a b <del>c a b") and first.count("<del>") == 1
    sentence = "the cat sat on a mat . " * 40
    assert changes(sentence, sentence.replace("sat", "lay", 1).replace(". ", "! ")).count("<ins>lay </ins>") == 1


def test_a_score_that_is_no_share_is_in_no_percent() -> None:
    rows = pd.DataFrame(
        {
            "name": ["a"] * 3 + ["b"] * 3,
            "sample": [0, 1, 2] * 2,
            "prompt": ["why", "who", "how"] * 2,
            "output": ["so", "he", "by car", "it is so", "she", "slowly"],
            "adherence": [12.0, 14.0, 11.0, 13.0, 15.0, 10.0],
        }
    )
    found = Comparison(rows, summarise(rows, "adherence", {}), "adherence")
    low, high = found.summary.loc[0, ["adherence_low", "adherence_high"]]
    ends = f"{low:.3g} to {high:.3g}"
    assert findings(found.summary)[0] == f"a: adherence 12.3 (95 % interval {ends}) on 3 prompts."
    assert f">{ends}<" in found._repr_html_() and "12.3 %" not in found._repr_html_()
    axes = found.plot().axes[0]
    assert "%" not in axes.get_xlabel() and axes.get_xlim()[0] < low and high < axes.get_xlim()[1] < 103
    alone = summarise(rows[rows["sample"] == 0], "adherence", {})
    assert "one value has no interval" in findings(alone)[0]


def test_counts_that_are_seldom_above_one_are_no_shares() -> None:
    rows = pd.DataFrame({"name": ["a"] * 20 + ["b"] * 20, "sample": [*range(20)] * 2, "prompt": "p", "output": "x"})
    rows["adherence"] = [0.0] * 20 + [0.0] * 12 + [1.0] * 6 + [2.0] * 2
    found = Comparison(rows, summarise(rows, "adherence", {}), "adherence")
    said = findings(found.summary, rows["adherence"])
    assert said[1].startswith("b: adherence 0.5 (95 % interval 0.178 to 0.822); against a 8 repaired")
    assert "(exact sign test, p = 0.0078" in said[1] and "exact McNemar p" in findings(found.summary)[1]
    assert "50 %" not in found._repr_html_() and "%" not in found.plot().axes[0].get_xlabel()


def test_answers_that_have_no_score_are_not_counted_as_prompts(tmp_path: Path) -> None:
    nan = math.nan
    rows = pd.DataFrame({"name": ["a"] * 4 + ["b"] * 4 + ["c"] * 4, "sample": [*range(4)] * 3, "prompt": "p"})
    rows = rows.assign(output="x", correct=[1.0, 1.0, 0.0, 0.0, nan, 1.0, nan, nan, nan, nan, nan, nan])
    rows = rows.assign(task="t", model_name="m", model_fingerprint="f", collapsed=False, collapse_reason="")
    found = Comparison(rows, summarise(rows, "correct", {}), "correct")
    first, second, third = findings(found.summary, rows["correct"])
    assert "% (95 % interval 9 to 91 %) of 4 prompts" in first and "of 1 prompts; against a" in second
    assert "c: adherence not known, for no answer has a score, of 0 prompts; against" in third
    assert "4 prompts, the same for all" in found.save(tmp_path).joinpath("report.html").read_text("utf-8")
    assert "nan" not in " ".join((first, second, third))


def test_prompts_that_are_there_before_are_said(model: Any, task: Any, tmp_path: Path) -> None:
    said = "2 of the 6 prompts repeat another one and its answer: intervals and p-values count them as further"
    twice = replace(task, samples=(*task.samples, *task.samples[:2]))
    found = ms.compare(model, twice, {"a": None, "b": ms.attention_bias(delta=9.0)}, quality=False)
    assert said in repr(found) and said in found.to_html(tmp_path / "page.html").read_text("utf-8")
    assert "repeat" not in repr(ms.compare(model, task, {"a": None}, quality=False))
    drawn = ms.compare(model, twice, {"a": ms.Sample(temperature=9.0, seed=1)}, quality=False)
    assert drawn.rows["output"].nunique() == 6 and "repeat" not in repr(drawn)  # each its own draw


def test_the_figure(model: Any, task: Any) -> None:
    found = ms.compare(model, task, methods())
    figure = found.plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(methods())
    assert "n = 4" in figure.axes[0].get_xlabel() and len(figure.axes) == 2
    assert len(ms.compare(model, task, {"a": None}, quality=False).plot().axes) == 1
    with pytest.raises(ms.MechsteerError, match="'n'"):
        comparison_figure(found.summary.drop(columns="n"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "methods must map names"),
        (["unsteered"], "methods must map names"),
        ({"": None}, "name must be a text"),
        ({"a": "guide"}, "The method 'a' must be None, an intervention, a strategy"),
        ({"a": (None, None, None)}, "The method 'a' must be"),
        ({"a": None, "b": ms.attention_bias(delta=1.0, layers=[9])}, "The method 'b': .*out of range"),
    ],
)
def test_methods_that_make_no_sense_are_named_first(given: Any, said: str, model: Any, unchecked: None) -> None:
    failing = ms.task(["x"], lambda text, sample: pytest.fail("generated"))
    with pytest.raises(ms.MechsteerError, match=said):
        ms.compare(model, failing, given)


def test_the_score_that_counts(model: Any, task: Any) -> None:
    rows = pd.DataFrame({"output": ["x"], "n_words": [3], "long": [True]})
    assert score_column(rows, None) == "n_words" and score_column(rows, "long") == "long"
    assert score_column(rows.assign(strict=True, adherence=False), None) == "adherence"
    with pytest.raises(ms.MechsteerError, match="Did you mean 'long'"):
        score_column(rows, "lon")


def test_a_score_that_is_not_there_is_named_after_the_first_method(
    model: Any, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def timed(run: Any, *more: Any) -> tuple[pd.DataFrame, float]:
        asked.append(run.steer)
        return pd.DataFrame({"output": ["x"], "adherence": [True]}), 1.0

    monkeypatch.setattr(compare_run, "timed", timed)
    with pytest.raises(ms.MechsteerError, match="no score 'adherense'"):
        ms.compare(model, task, methods(), score="adherense")
    assert len(asked) == 1


def test_methods_by_name(tmp_path: Path) -> None:
    saved = ms.attention_bias(delta=2.0).save(tmp_path / "steer.safetensors")
    made = methods_of(["guide:1.5", "directer:0.1", "directer", "dola", str(saved)])
    assert next(iter(made)) == "unsteered" and made["unsteered"] is None
    assert made["guide:1.5"].edits[0].strength == 1.5 and made["directer:0.1"].beta == 0.1
    assert made["directer"] == ms.Directer() and made[str(saved)].edits[0].strength == 2.0
    for name, said in (
        ("gide:1", "Did you mean 'guide'"),
        ("guide", "needs its delta"),
        ("guide:x", "must be a number"),
    ):
        with pytest.raises(ms.MechsteerError, match=said):
            methods_of([name])
