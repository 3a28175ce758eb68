"""The study of instruction vectors on IFEval's prompts, on a small random model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from tqdm.auto import tqdm

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.steering.intervention import side_by_side
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.core.result import Result
from mechsteer.studies.ifeval_vectors.prompts import (
    excluded_words,
    instruction_of,
    kinds_in,
    kinds_of,
    pairs,
    validated,
    without_instruction,
)
from mechsteer.studies.ifeval_vectors.report import report
from mechsteer.studies.ifeval_vectors.study import tried
from mechsteer.studies.ifeval_vectors.tables import best_option
from mechsteer.studies.ifeval_vectors.vectors import Option, Vectors
from tests.typecheck import unchecked

EXCLUDED = "keywords:forbidden_words"
NO_COMMA, LOWER, LANGUAGE = "punctuation:no_comma", "change_case:english_lowercase", "language:response_language"
WORDS = ["cat", "dog", "sun", "sea", "tree", "bee", "red", "sat"]


@pytest.fixture
def checkers(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    pytest.importorskip("lm_eval.tasks.ifeval.utils")
    monkeypatch.setattr(nltk.data, "find", lambda name: name)


def line(number: int, word: str, names: list[str], said: str) -> dict[str, Any]:
    arguments: dict[str, dict[str, Any]] = {LANGUAGE: {"language": "fr"}, EXCLUDED: {"forbidden_words": [word, "mat"]}}
    kwargs = [arguments.get(name, {}) for name in names]
    base = f"the {word} sat ."
    return {
        "key": number,
        "prompt": f"{base} {said}",
        "prompt_without_instruction": base,
        "instruction_id_list": names,
        "kwargs": kwargs,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        line(n, word, [NO_COMMA] if n % 2 else [LOWER], "no dog" if n % 2 else "a big cat")
        for n, word in enumerate(WORDS)
    ]
    rows.append(line(90, "fox", [NO_COMMA, LOWER], "no dog a big cat"))
    path = tmp_path / "ifeval.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def small(model: Any, data: Any, out: Path) -> Result:
    with unchecked():
        return ms.studies.ifeval_vectors.run(
            model, out, data=data, n_validation=1, n_pairs=3, max_new_tokens=3, draw=False, progress=False
        )


def test_tables_and_continuing(checkers: None, data: Path, tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny("llama")
    result = small(model, data, tmp_path / "out")
    table, rows, layers = (result.tables[name] for name in ("summary", "rows", "layers"))
    several = ["several, without instructions", "several instructions"]
    assert set(table["setting"]) == {"without instruction", "with instruction", *several}
    counts = table.groupby("setting")["n"].unique().map(list).to_dict()
    assert counts["with instruction"] == [8] and [counts[name] for name in several] == [[1], [1]]
    by = result.tables["by_instruction"]
    assert set(by["setting"]) == set(several) and set(by["instruction"]) == {NO_COMMA, LOWER} and len(by) == 8
    assert (layers.groupby(["setting", "kind", "half"])["chosen"].sum() == 1).all()
    plain = rows[(rows["setting"] == "with instruction") & ~rows["steered"]].sort_values("key")
    alone = ms.evaluate(model, ms.tasks.ifeval(data, n=8, max_new_tokens=3)).sort_values("key")
    assert list(plain["output"]) == list(alone["output"]), "unsteered rows are the model's own"
    unsteered = rows[rows["steered"] & ~rows["vector"]]
    assert all(unsteered["strength"] == 0.0)
    assert "Instruction vectors on IFEval" in report(result) and set(result.figures()) == {"prompts"}
    named = rows.groupby("key")["name"].unique().map(list)
    ways = [f"{asked} instruction{steered}" for asked in ("without", "with") for steered in ("", ", steered")]
    assert all(names == ways for names in named), "all answers to a prompt stand side by side on the page"
    for gone in sorted((result.folder / "answers").iterdir())[::2]:
        shutil.rmtree(gone)
    again = small(model, data, result.folder)
    for name, made in result.tables.items():
        assert_frame_equal(again.tables[name], made)


def test_pairs_are_of_questions_that_were_never_theirs(data: Path, tiny: Callable[..., Any]) -> None:
    task, model = ms.tasks.ifeval(data), tiny("llama")
    assert kinds_in(task, None) == [LOWER, NO_COMMA] and kinds_in(task, [LOWER]) == [LOWER]
    found = pairs(model, task, NO_COMMA, 99)
    own = {s.base for s in task.samples if NO_COMMA in kinds_of(s)}
    assert len(found) == 4
    for with_it, without in found:
        assert with_it.text.endswith("no dog") and without.text in with_it.text
        assert not any(base and base in without.text for base in own)
    assert pairs(model, task, "startend:quotation", 5) == []


def test_bare_prompts_and_kinds(checkers: None, data: Path, tiny: Callable[..., Any], tmp_path: Path) -> None:
    task = ms.tasks.ifeval(data)
    bare = without_instruction(task)
    for before, after, made in zip(task.samples, bare.samples, bare.prompts(tiny("llama")), strict=True):
        assert after.prompt == before.prompt and str(before.base) in made.text and "instruction" not in made.spans
        assert instruction_of(before) in ("no dog", "a big cat", "no dog a big cat")
    french = tmp_path / "french.jsonl"
    french.write_text(json.dumps(line(1, "cat", [LANGUAGE], "no dog")), encoding="utf-8")
    assert kinds_of(ms.tasks.ifeval(french).samples[0]) == [f"{LANGUAGE}:fr"]
    with pytest.raises(MechsteerError, match="No prompt has one of these"):
        ms.studies.ifeval_vectors.run(tiny("llama"), tmp_path / "none", data=ms.tasks.ifeval(french), kinds=[LOWER])
    assert kinds_in(task, "punctuation:no_comma") == kinds_in(task, ["punctuation:no_comma"])
    with pytest.raises(MechsteerError, match="Did you mean 'punctuation:no_comma'"):
        kinds_in(task, ["punctuation:no_comma", "punctuation:no_commas"])


def test_the_vector_is_the_difference_of_means(data: Path, tiny: Callable[..., Any], tmp_path: Path) -> None:
    model, task = tiny("llama"), ms.tasks.ifeval(data)
    found = pairs(model, task, NO_COMMA, 3)
    vector = ms.difference_in_means(model, found, layer=0).vector
    states = [
        [
            ms.capture(model, [p], sites="blocks.0.hook_resid_post", positions="last")["blocks.0.hook_resid_post"][0]
            for p in pair
        ]
        for pair in found
    ]
    assert torch.allclose(vector, torch.stack([a - b for a, b in states]).mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("loose", "collapsed", "wanted"),
    [
        ([0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0], Option()),
        ([0.2, 0.9, 0.6, 0.5], [0.0, 0.3, 0.0, 0.0], Option(2, 0.4)),
        ([0.2, 0.6, 0.6, 0.6], [0.5, 0.5, 0.0, 0.5], Option(2, 0.1)),
    ],
)
def test_the_choice_of_an_option(loose: list[float], collapsed: list[float], wanted: Option) -> None:
    options = {"layer": [-1, 2, 2, 4], "share": [0.0, 0.1, 0.4, 0.1]}
    assert best_option(pd.DataFrame({**options, "loose": loose, "collapsed": collapsed})) == wanted


def test_words_are_left_out_by_subtracting_the_vector_of_saying_them(
    data: Path, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [line(100 + n, word, [EXCLUDED] if n % 2 else [LOWER, EXCLUDED], "no dog") for n, word in enumerate(WORDS)]
    path = tmp_path / "words.jsonl"
    path.write_text(data.read_text(encoding="utf-8") + "\n" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    model, task = tiny("llama"), ms.tasks.ifeval(path)
    assert EXCLUDED in kinds_in(task, None) and kinds_in(ms.tasks.ifeval(data), [EXCLUDED]) == []
    assert {s.key for s in validated(task, EXCLUDED, 9).samples} == {101, 103, 105, 107}
    beside = replace(task, samples=tuple(s for s in task.samples if len(s.instructions) > 1))
    assert {s.key for s in validated(beside, EXCLUDED, 2).samples} == {100, 102}
    bench = Bench(model, tmp_path / "out", 8, None)
    vectors = Vectors(bench, task, [EXCLUDED], 3)
    option = vectors.options(EXCLUDED)[-1]
    two = replace(task, samples=validated(task, EXCLUDED, 2).samples)
    steer = vectors.steering(two, {EXCLUDED: option})
    assert steer is not None and vectors.steering(two, {EXCLUDED: Option()}) is None
    words = [excluded_words(sample) for sample in two.samples]
    assert all(len(each) == 2 for each in words) and words[0][1] == words[1][1] == "mat"
    prompts, site = two.prompts(model), f"blocks.{option.layer}.hook_resid_post"
    plain, steered = (ms.capture(model, prompts, sites=site, positions="last", steer=s)[site] for s in (None, steer))
    for place, each in enumerate(words):
        made = [vectors.words[word][option.layer] for word in each]
        moved = sum((one.vector / one.norm * one.activation_norm for one in made), start=torch.zeros(()))
        assert torch.allclose(steered[place] - plain[place], -option.share / 2 * moved, atol=1e-4)


def test_options_that_are_answered_together_are_each_alone(
    checkers: None, data: Path, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [line(100 + n, word, [EXCLUDED], "no dog") for n, word in enumerate(WORDS[:3])]
    path = tmp_path / "words.jsonl"
    path.write_text(data.read_text(encoding="utf-8") + "\n" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    model, task = tiny("llama"), ms.tasks.ifeval(path, max_new_tokens=3)
    bench = Bench(model, tmp_path / "out", 5, tqdm(disable=True))
    vectors = Vectors(bench, task, [NO_COMMA, EXCLUDED], 3)
    for kind in (NO_COMMA, EXCLUDED):
        asked = validated(task, kind, 2)
        table = tried(bench, asked, kind, True, vectors)
        assert [Option(*row) for row in zip(table["layer"], table["share"], strict=True)] == vectors.options(kind)
        steers = [vectors.steering(asked, {kind: option}) for option in vectors.options(kind)]
        alone = [ms.evaluate(model, asked, steer=steer, quality=True) for steer in steers]
        assert table["loose"].tolist() == [rows["loose"].mean() for rows in alone]
        assert table["collapsed"].tolist() == [rows["collapsed"].mean() for rows in alone]
        together = replace(asked, samples=asked.samples * len(steers))
        texts = ms.evaluate(model, together, steer=side_by_side(steers, 2))["output"].tolist()
        assert texts == [text for rows in alone for text in rows["output"]] and len(set(texts)) > 2
