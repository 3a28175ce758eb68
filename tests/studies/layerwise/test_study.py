"""The study of learned vectors: its numbers are the measurements', its choices follow its rules, figures the tables."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer import cli
from mechsteer.directions import sparse_direction
from mechsteer.directions.sparse import sparse_path
from mechsteer.files import read_json, read_table
from mechsteer.studies.core.result import redraw
from mechsteer.studies.layerwise import baselines as layerwise_baselines
from mechsteer.studies.layerwise import figures as layerwise_figures
from mechsteer.studies.layerwise import study as layerwise
from mechsteer.studies.layerwise import tables as layerwise_parts
from mechsteer.studies.layerwise.baselines import difference, gradient
from mechsteer.studies.layerwise.bench import Bench, Weighting, crossed, exact_match, with_shots
from mechsteer.studies.registry import STUDIES
from mechsteer.tasks import rules
from tests.typecheck import unchecked

SMALL: dict[str, Any] = {
    "seeds": 1,
    "n_train": 4,
    "n_test": 8,
    "counts": [2],
    "points": 2,
    "max_steps": 2,
    "progress": False,
}


class Bar:
    """A progress bar that shows nothing."""

    def update(self) -> None: ...


@pytest.fixture(scope="module")
def rules_gpt2(organism: Callable[[str], Any]) -> Any:
    return organism("rules-gpt2")


@pytest.fixture(scope="module")
def study(rules_gpt2: Any, tmp_path_factory: pytest.TempPathFactory) -> layerwise.Result:
    with pytest.MonkeyPatch.context() as patch, unchecked():
        patch.setattr(layerwise, "RULES", ("english-french",))
        patch.setattr(layerwise_parts, "COMPOSED", ("english-french+capitalise",))
        patch.setattr(layerwise_parts, "SHARES", (0.5,))
        patch.setattr(layerwise_baselines, "STEPS", (1.0,))
        patch.setattr(layerwise_baselines, "PARTS", (0.5,))
        return layerwise.run(rules_gpt2, tmp_path_factory.mktemp("layerwise"), **SMALL)


@pytest.fixture
def bench(rules_gpt2: Any, tmp_path: Path) -> Bench:
    return Bench(rules_gpt2, tmp_path, 64, Bar(), 8, 12, (0, 1))


def words_of(rule: str | Path) -> Any:
    """The test words of the small study."""
    task = rules(rule)
    return replace(task, samples=task.samples[: SMALL["n_test"]])


def test_the_numbers_are_the_measurements(study: layerwise.Result, rules_gpt2: Any) -> None:
    row = study.tables["layers"].query("rule == 'english-french' and layer == 3").iloc[0]
    task = rules("english-french", split="train", n=4)
    d = sparse_direction(rules_gpt2, task.examples(rules_gpt2), layer=3, validation=0.25, patience=6, max_steps=2)
    right = ms.evaluate(rules_gpt2, words_of("english-french"), steer=ms.heads(d))["correct"].mean()
    assert row["exact_match_percent"] == pytest.approx(100 * right) and row["n"] == 8
    plain = ms.evaluate(rules_gpt2, words_of("english-french"))["correct"].mean()
    assert row["zero_shot_percent"] == pytest.approx(100 * plain)


def test_the_layer_has_the_lowest_loss_and_is_that_of_the_other_tables(study: layerwise.Result) -> None:
    layers = study.tables["layers"].query("rule == 'mean of the rules'").set_index("layer")
    best = int(layers.index.to_numpy()[layers["validation_loss"].to_numpy().argmin()])
    for name in ("examples", "tradeoff", "sparse", "values", "calculus", "opinions"):
        assert study.tables[name]["at_layer"].eq(best).all(), name
    summary = study.summary.set_index("rule")
    assert summary.loc["english-french", "layer"] == best
    assert summary.loc["english-french", "learned"] == pytest.approx(layers.loc[best, "exact_match_percent"])


def test_sparse_vectors_are_on_a_quarter_of_the_heads(study: layerwise.Result) -> None:
    sparse, values = study.tables["sparse"], study.tables["values"]
    assert sparse["most_heads"].le(2).all() and sparse["heads_allowed"].eq(2).all()
    counts = values[values["value"] != 0].groupby("vector")["head"].nunique()
    assert counts["unregularised"] == 8 and counts.get("regularised", 0) <= 2
    assert len(values) == 2 * 8 * 16
    assert sparse["edge_percent"].isin([0, 100]).all()  # of one seed: at the weakest of the two weights, or not
    trade = study.tables["tradeoff"]
    at_end = trade.query("rule == 'english-french' and weight == 0.1 and heads <= 2")["validation_loss"]
    first = trade.query("rule == 'english-french' and weight == 1")["validation_loss"].min()
    assert (sparse["edge_percent"].iloc[0] == 100) == bool(len(at_end) and at_end.min() < first)
    assert trade.loc[trade["weight"] == 1, "heads"].eq(0).all()  # the largest weight
    assert trade.loc[trade["l1_share"].isna(), "heads"].eq(8).all()


def test_what_was_learned_is_read_again(bench: Bench) -> None:
    task = bench.training("english-french", 0)
    first = bench.learn(task, 2, 0, Weighting(0.5, 2))
    made = [path.stat().st_mtime_ns for path in (bench.folder / "cells").iterdir()]
    again = bench.learn(task, 2, 0, Weighting(0.5, 2))
    assert [path.stat().st_mtime_ns for path in (bench.folder / "cells").iterdir()] == made
    assert [one.heads for one in first] == [one.heads for one in again]
    assert first[1].direction is not None and again[1].direction is not None
    assert torch.equal(first[1].direction.vector, again[1].direction.vector) and first[0].steer is None


def test_composed_rules_are_tested_on_words_that_no_part_learned(study: layerwise.Result) -> None:
    task = layerwise_parts._untrained(rules("antonym+capitalise"), ["antonym", "capitalise"])
    learned = {s.question for part in ("antonym", "capitalise") for s in rules(part, split="train").samples}
    assert 0 < len(task.samples) < len(rules("antonym+capitalise").samples)
    assert not {s.question for s in task.samples} & learned
    table = study.tables["calculus"]
    methods = ["zero-shot", "few-shot", "best part alone", "sum of the parts", "sum at the best layer", "learned on it"]
    assert list(dict.fromkeys(table["method"])) == methods
    means = table.query("parts == 2").set_index("method")["exact_match_percent"]
    assert means["sum at the best layer"] >= means["sum of the parts"]
    assert table.query("method == 'few-shot'")["exact_match_percent"].gt(90).all()


def test_the_own_layer_is_the_one_with_the_lowest_loss_of_the_same_words(
    study: layerwise.Result, rules_gpt2: Any
) -> None:
    words = rules("english-french", split="train", n=2, seed=0)
    options: dict[str, Any] = {"validation": 0.25, "patience": 6, "max_steps": 2, "seed": 0}
    fits = [sparse_path(rules_gpt2, words.examples(rules_gpt2), layer=at, **options, weights=[(0.0, 0.0)])[0]
            for at in range(6)]  # fmt: skip
    own = min(range(6), key=lambda at: (fits[at].validation_loss, at))
    d = sparse_direction(rules_gpt2, words.examples(rules_gpt2), layer=own, **options)
    right = ms.evaluate(rules_gpt2, words_of("english-french"), steer=ms.heads(d))["correct"].mean()
    rows = study.tables["examples"].query("rule == 'english-french' and examples == 2").set_index("method")
    assert rows.loc["learned, own layer", "exact_match_percent"] == pytest.approx(100 * right)


def test_few_shot_rows_are_prompts_with_the_same_words_before_them(study: layerwise.Result, rules_gpt2: Any) -> None:
    words = rules("english-french", split="train", n=2, seed=0)
    shown = tuple((sample.question, sample.answers[0]) for sample in words.samples)
    task = words_of("english-french")
    task = replace(task, samples=tuple(replace(sample, shots=shown) for sample in task.samples))
    right = ms.evaluate(rules_gpt2, task)["correct"].mean()
    rows = study.tables["examples"].query("rule == 'english-french' and examples == 2").set_index("method")
    row = rows.loc["few-shot"]
    assert row["exact_match_percent"] == pytest.approx(100 * right)
    assert row["exact_match_percent"] > rows.loc["zero-shot", "exact_match_percent"]
    assert row["exact_match_percent_low"] < row["exact_match_percent_high"] and (row["seeds"], row["n"]) == (1, 8)


def test_opinions_are_measured_by_group(study: layerwise.Result, rules_gpt2: Any) -> None:
    table = study.tables["opinions"].query("method == 'unsteered'").set_index("group")
    for group in ("west", "east", "loud"):
        plain = ms.evaluate(rules_gpt2, ms.tasks.opinion(group=group, n=8))
        for name in ("kl", "tv", "mass"):
            assert table.loc[group, name] == pytest.approx(plain[name].mean(), abs=1e-5)
    learned = study.tables["opinions"].query("method == 'learned'").set_index("group")
    assert (learned["kl"] < table["kl"]).all()


def test_the_interval_holds_the_mean_and_no_spread_has_no_width() -> None:
    values = torch.tensor([[1.0, 0, 1, 1], [1, 0, 0, 1]])
    mean, low, high = crossed([values])
    assert mean == pytest.approx(0.625) and low < mean < high
    assert crossed([torch.ones(3, 4)]) == pytest.approx((1, 1, 1))
    row = exact_match([values, torch.ones(2, 3)])
    assert row["exact_match_percent"] == pytest.approx(100 * (0.625 + 1) / 2)
    only_seeds = crossed([torch.tensor([[1.0] * 50, [0.0] * 50])])  # words agree, seeds do not
    assert only_seeds == pytest.approx((0.5, 0, 1))


def test_shots_are_the_same_training_words_for_all_methods(bench: Bench) -> None:
    training = bench.training("english-french", 1, 3)
    shown = [(s.question, s.answers[0]) for s in training.samples]
    for sample in with_shots(bench.testing("english-french"), training, 2).samples:
        assert list(sample.shots) == shown[:2]
    for place, sample in enumerate(with_shots(training, training, 5).samples):
        assert list(sample.shots) == [pair for other, pair in enumerate(shown) if other != place]


def test_baselines_make_training_words_likelier(bench: Bench) -> None:
    training = bench.training("english-french", 0)
    prompts, answers = zip(*training.examples(bench.model), strict=True)
    plain = ms.score(bench.model, prompts, answers).mean()
    for layer, step, steer in (difference(bench, training, 5), gradient(bench, training)):
        assert steer is not None and step > 0 and 0 <= layer < 6
        assert ms.score(bench.model, prompts, answers, steer=steer).mean() > plain


def test_figures_come_from_the_tables_alone(study: layerwise.Result, tmp_path: Path) -> None:
    assert read_json(study.folder / "study.json")["study"] == layerwise.NAME
    for name in (*layerwise_figures.TABLES, *layerwise_figures.OPTIONAL):
        assert_frame_equal(read_table(study.folder / f"{name}.parquet"), study.tables[name])
        (tmp_path / f"{name}.parquet").write_bytes((study.folder / f"{name}.parquet").read_bytes())
    again = redraw(STUDIES["layerwise"], tmp_path)
    assert {path.stem for path in again} == {"layers", "examples", "tradeoff", "heads", "calculus", "opinions"}
    for path in again:
        assert path.read_bytes() == (study.folder / "figures" / path.name).read_bytes()
    line = study.figures()["layers"].axes[0].lines[0]
    part = study.tables["layers"].query("rule == 'english-french'")
    assert np.asarray(line.get_ydata()) == pytest.approx(part["exact_match_percent"].to_numpy())


def test_other_models_and_files(tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise_baselines, "STEPS", (1.0,))
    monkeypatch.setattr(layerwise_baselines, "PARTS", (0.5,))
    path = tmp_path / "colours.json"
    rows = [{"input": f"w{i}", "output": "red blue"} for i in range(60, 90)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    given: dict[str, Any] = SMALL | {"seeds": 2, "shots": 1, "draw": False}
    result = layerwise.run(tiny("t5"), tmp_path / "out", names=path, **given)
    row, right = result.tables["layers"].iloc[0], []
    for seed in (0, 1):
        task = rules(path, split="train", n=4, seed=seed).examples(tiny("t5"))
        d = sparse_direction(tiny("t5"), task, layer=0, validation=0.25, patience=6, max_steps=2, seed=seed)
        right.append(ms.evaluate(tiny("t5"), words_of(path), steer=ms.heads(d))["correct"].mean())
    assert row["seeds"] == 2 and row["exact_match_percent"] == pytest.approx(50 * sum(right))
    assert set(result.summary["rule"]) == {"colours", "mean of the rules"}
    assert "calculus" not in result.tables and result.tables["sparse"]["most_heads"].le(1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": "antonim"}, "Did you mean 'antonym'"),
        ({"names": []}, "No rules"),
        ({"seeds": 0}, "seeds must be"),
        ({"n_train": 1}, "Two training words at least"),
        ({"counts": [1, 4]}, "Two training words at least"),
        ({"counts": []}, "Two training words at least"),
        ({"n_test": -1}, "n_test must be"),
        ({"n_test": 0}, "n_test must be an integer of at least 1, got 0"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], message: str, rules_gpt2: Any, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        layerwise.run(rules_gpt2, tmp_path, **(SMALL | options))


def test_the_command_prints_every_table(
    study: layerwise.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(layerwise, "run", lambda model, out, **given: seen.update(given) or study)
    cli.main(["reproduce", "layerwise", "--out", str(tmp_path), "--batch-size", "32"])
    printed = capsys.readouterr().out
    assert seen == {"batch_size": 32, "executor": None}
    for text in ("sum of the parts", "few-shot", "By layer", "english-french+capitalise", "west", "could be obtained"):
        assert text in printed, text
    line = next(line for line in printed.splitlines() if line.startswith("english-french "))
    assert f"{study.summary['learned'].iloc[0]:.1f}" in line.split()
    path = tmp_path / "mine.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "layerwise", "--data", str(path), "--out", str(tmp_path)])
    assert "is not a list of" in capsys.readouterr().err
