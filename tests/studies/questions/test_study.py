"""The whole study on small settings: what its tables hold, that it continues, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.evaluation import evaluate
from mechsteer.files import read_json, read_table
from mechsteer.studies.core.result import Result
from mechsteer.studies.questions import (
    architectures,
    compound,
    figures,
    fits,
    linear,
    numbers,
    places,
    pools,
    predictions,
    study,
)
from mechsteer.studies.questions import bench as questions_bench
from mechsteer.studies.questions.bench import Place, steered
from mechsteer.studies.questions.report import report
from mechsteer.studies.questions.scores import MEASURES
from mechsteer.tasks import instructions
from tests.typecheck import unchecked

KINDS = ("upper", "list")
SMALL: dict[str, Any] = {"kinds": KINDS, "n": 2, "n_validation": 2, "draws": 1, "pairs": 4, "progress": False}
FEWER: tuple[tuple[Any, str, Any], ...] = (
    (questions_bench, "DEPTHS", (0.4,)),
    (places, "WAYS", (("add", "last_prompt"),)),
    (places, "STEPS", (1.0,)),
    (numbers, "STEERED", (1, 4)),
    (fits, "RESAMPLES", 10),
    (architectures, "SEEDS", 1),
    (architectures, "FITTED_ON", 12),
    (architectures, "HELD_OUT", 8),
    (compound, "OPTIONS", tuple(o for o in compound.OPTIONS if not o.spot and o.a == o.b == 1.0)),
    (compound, "STEPS", 2),
    (compound, "LESSONS", 4),
    (linear, "STRENGTHS", (0.5, 2.0)),
    (linear, "TARGETS", (0.05,)),
    (linear, "RANKS", (1,)),
    (linear, "HELD_OUT", 8),
    (predictions, "RANKS", (1,)),
    (predictions, "CLUSTERS", (2, 4)),
    (predictions, "RIDGES", (1.0, 10.0)),
)


def short(kinds: Any = None, **options: Any) -> Any:
    """The task with short answers."""
    return replace(instructions(kinds, **options), max_new_tokens=5)


@pytest.fixture(scope="module")
def fewer() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in FEWER:
            patch.setattr(module, name, value)
        patch.setattr(questions_bench, "instructions", short)
        yield


@pytest.fixture(scope="module")
def found(fewer: None, instruct_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Vectors cross from the model to itself."""
    with unchecked():
        others = [instruct_llama]
        return study.run(instruct_llama, tmp_path_factory.mktemp("questions"), others=others, draw=False, **SMALL)


def test_each_part_has_its_tables_and_claims(found: Result) -> None:
    assert set(figures.OPTIONAL) <= set(found.tables)
    assert list(dict.fromkeys(found.summary["question"])) == list(study.PARTS)
    assert (found.summary["shown"] == ((found.summary["low"] > found.summary["reference"])
            | (found.summary["high"] < found.summary["reference"]))).all()  # fmt: skip
    assert read_json(found.folder / "study.json")["parts"] == list(study.PARTS)
    for name, table in found.tables.items():
        assert table["model_fingerprint"].nunique() == 1, name
        assert len(read_table(found.folder / f"{name}.parquet")) == len(table)


def test_each_part_has_its_figure(found: Result) -> None:
    drawn = found.figures()
    assert list(drawn) == list(study.PARTS)
    assert [len(figure.axes) for figure in drawn.values()] == [3, 2, 2, 2]


def test_a_row_of_steering_is_a_direct_evaluation(found: Result, instruct_llama: Any, fewer: None) -> None:
    tried = found.tables["places"].query("stage == 'step' and chosen").set_index("kind")
    task = short(KINDS, with_instruction=False, n=2)
    at = {k: Place(int(row["layer"]), row["method"], row["scope"], float(row["step"])) for k, row in tried.iterrows()}
    vectors, lengths = {}, {}
    for kind in KINDS:
        for store, (pool, n) in ((lengths, (pools.WIDE, 4)), (vectors, (pools.NARROW, 1))):
            made = ms.tasks.Instructions(
                "pairs", tuple(pools.drawn(kind, pool, n, draw=0, topics=pools.topics_of("validation", 2)))
            )
            pairs = list(zip(*(made.prompts(instruct_llama, with_instruction=w) for w in (True, False)), strict=True))
            d = ms.difference_in_means(instruct_llama, pairs, layer=at[kind].layer)
            store[kind] = d.norm if store is lengths else d
    rows = evaluate(instruct_llama, task, steer=steered(task, at, vectors, lengths))
    one = found.tables["numbers_steering"].set_index(["pool", "pairs"]).loc[(pools.NARROW, 1)]
    assert one["draws"] == 1 and one["n"] == 4
    cell = read_cell_with(found, rows["output"].tolist())
    assert cell["sound"].tolist() == rows["sound"].tolist()


def read_cell_with(found: Result, outputs: list[str]) -> Any:
    """The cell whose answers these are."""
    for path in (found.folder / "cells").iterdir():
        table = read_table(path)
        if "output" in table and table["output"].tolist() == outputs:
            return table
    raise AssertionError("no cell has these answers")


def test_cosines_are_of_vectors_of_so_many_pairs(found: Result, instruct_llama: Any) -> None:
    table = found.tables["numbers_cosine"]
    assert set(table["pairs"]) == {1, 2, 4} and table["draw"].nunique() == 1
    assert table[table["pool"] == numbers.UNPAIRED]["repeat"].isna().all()
    row = table.query("kind == 'list' and draw == 0 and pairs == 2").set_index("pool").loc[pools.WIDE]
    sides = []
    for side in (0, 1):
        samples = pools.drawn("list", pools.WIDE, 4, draw=0, side=side, topics=pools.topics_of("validation", 2))[:2]
        task = ms.tasks.Instructions("pairs", tuple(samples))
        pairs = list(zip(*(task.prompts(instruct_llama, with_instruction=w) for w in (True, False)), strict=True))
        sides.append(ms.difference_in_means(instruct_llama, pairs, layer=int(row["layer"])).vector)
    assert row["repeat"] == pytest.approx(numbers.cosine(*sides), abs=1e-4)


def test_a_map_of_a_model_to_itself_gives_its_own_vector(found: Result) -> None:
    kinds = found.tables["architectures_kinds"]
    rows, told = (kinds[kinds["map"] == name] for name in (architectures.RIDGE, architectures.TOLD))
    assert (rows["r2"] > 0.3).all() and (rows["r2"] < 1.0).all() and rows["edge"].dtype == bool
    assert (told["cosine"] > rows["cosine"].min() - 0.05).all()
    assert (kinds[kinds["map"] == architectures.SHUFFLED]["r2"] < 0.3).all()
    table = found.tables["architectures"].set_index("map")
    assert table["share"]["own"] in (1.0, float("nan")) or table["share"].isna().all()
    assert table["value_gain"]["unsteered"] == 0.0


def test_a_share_is_of_a_gain_that_is_clear() -> None:
    rows = {"kind": "upper", "topic": [f"{i}" for i in range(20)]}
    plain, own, half = (pd.DataFrame(rows | dict.fromkeys(MEASURES, v)) for v in (0.0, 1.0, 0.5))
    found = architectures.share(half, plain, own)
    assert found == pytest.approx({"share": 0.5, "share_low": 0.5, "share_high": 0.5})
    assert pd.isna(architectures.share(half, plain, plain)["share"])


def test_both_instructions_are_scored_together(found: Result) -> None:
    table = found.tables["compound"]
    assert set(table["pair"]) == {"upper+list", "all"}
    rows = table[table["pair"] == "upper+list"].set_index("way")
    assert {"unsteered", "first", "second", "random", "sum", "orthogonalised", "in turn"} <= set(rows.index)
    assert {"compound vector", "both in the prompt"} <= set(rows.index)
    least = rows[["first_percent", "second_percent"]].min(axis=1)
    assert (rows["followed_percent"] <= least).all() and rows.loc["both in the prompt", "first_percent"] > 50
    assert rows.loc["sum", "value_over_sum"] == 0.0


def test_orthogonalised_vectors_share_nothing_with_the_other() -> None:
    made = [ms.Direction(torch.tensor(v), "blocks.0.hook_resid_post", "x") for v in ([1.0, 1, 0], [0.0, 2, 1])]
    one, other = compound.orthogonalised(*made)
    assert float(one.vector @ made[1].vector) == pytest.approx(0, abs=1e-6)
    assert float(other.vector @ made[0].vector) == pytest.approx(0, abs=1e-6)
    turn = compound.two("in turn", [replace(d, mean_projection=5.0) for d in made], [1.0, 0.0], "content")
    assert [edit.strength for edit in turn.edits] == pytest.approx([5.0, 5.0 - 5**0.5])


def test_steering_is_compared_where_divergence_is_equal(found: Result) -> None:
    curve = found.tables["linear_divergence"]
    assert (curve["divergence"] >= 0).all() and (curve["divergence"] <= 0.6932).all()
    assert linear.strength_at([1.0, 2.0], [0.2, 0.4], 0.1) == pytest.approx(0.5)
    assert linear.strength_at([1.0, 2.0], [0.2, 0.4], 0.3) == pytest.approx(1.5)
    assert linear.strength_at([1.0, 2.0], [0.2, 0.4], 0.5) != linear.strength_at([1.0], [0.2], 0.5)  # both NaN
    table = found.tables["linear_steering"]
    assert set(table["target"]) == {0.05} and (table["n"] == 2 * table["kinds"]).all()


def test_some_parts_again_compute_nothing_and_are_reported_alone(
    found: Result, fewer: None, instruct_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(found.folder, tmp_path / "copy")
    for module, name in ((questions_bench, "evaluate"), (questions_bench, "last_states"), (linear, "first_logits")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("computed again"))
    with unchecked():
        again = study.run(instruct_llama, copied, only=["linear", "numbers"], draw=False, **SMALL)
    parts = [name for name in found.tables if name.startswith(("linear", "numbers"))]
    assert set(again.tables) == {"summary", "places", *parts}
    for name in ("places", *parts):
        assert_frame_equal(again.tables[name], found.tables[name])
    assert not (copied / "compound.parquet").exists() and "Compound" not in report(again)


def test_the_report_says_what_is_shown_and_what_is_not(found: Result, instruct_llama: Any) -> None:
    text = report(found)
    assert f"on {ms.model_info(instruct_llama).name}" in text and "Not shown: " in text
    for question in ("How many pairs, how diverse?", "Across architectures?", "Compound instructions?", "Linear?"):
        assert question in text
    places = found.tables["places"].copy()
    places["value"], kind = 1.0, places["kind"].iloc[0]
    assert "Followed at no place" not in report(replace(found, tables={**found.tables, "places": places}))
    places.loc[places["kind"] == kind, ["value", "edge"]] = [0.0, True]
    told = report(replace(found, tables={**found.tables, "places": places})).splitlines()
    assert [line.rpartition(": ")[2] for line in told if line.startswith("Followed at no place")] == [f"{kind}."]


@pytest.mark.parametrize(("method", "strength"), [("add", 6.0), ("project", 5.0 + 2.0)])
def test_a_place_steers_with_its_step_in_lengths(method: str, strength: float) -> None:
    d = ms.Direction(torch.tensor([3.0, 4.0]), "blocks.0.hook_resid_post", "x", mean_projection=5.0)
    edit = Place(0, method, "content", 1.5).steer(d, 4.0, [1]).edits[0]
    assert (edit.method, edit.strength, edit.scope.rows, edit.scope.where) == (method, strength, (1,), "content")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"only": ["numbrs"]}, "Did you mean 'numbers'"),
        ({"only": []}, "only must name"),
        ({"kinds": ["keyword"]}, "'keyword'"),
        ({"kinds": "uper"}, "Did you mean 'upper'"),
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"pairs": 1}, "pairs must be at least 2"),
        ({"n_validation": 25}, "n_validation at most 20"),
        ({"n": 29}, "There are 28 test prompts of each kind, n=29"),
        ({"only": "compound", "kinds": ["upper"]}, "both kinds of a pair .*upper and list.* got kinds=..upper"),
        ({"only": "architectures", "others": []}, "others has none"),
        ({"only": "architectures", "others": ["organism:instruct-lama"]}, "'organism:instruct-lama'|instruct-llama"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    wrong: dict[str, Any], message: str, instruct_llama: Any, tmp_path: Path
) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        study.run(instruct_llama, tmp_path / "out", **(SMALL | wrong))
    assert not (tmp_path / "out").exists()


def test_a_part_that_the_kinds_are_not_enough_for_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="compound needs both kinds of a pair .*left out"):
        assert study._able(list(study.PARTS), ("upper",), named=False) == ["numbers", "architectures", "linear"]
    assert study._able(list(study.PARTS), ("upper", "list"), named=False) == list(study.PARTS)


def test_ways_that_reach_no_divergence_have_no_rows() -> None:
    divergence = pd.DataFrame({"kind": "upper", "way": "shift", "strength": [0.5, 1.0], "divergence": [0.01, 0.02]})
    with unchecked():
        table = linear.steering(SimpleNamespace(kinds=("upper",)), {}, divergence)  # type: ignore[arg-type]
    predicted = pd.read_csv(Path(__file__).parents[3] / "docs" / "results" / "questions" / "linear_prediction.csv")
    assert table.empty and len(linear.findings({"linear_prediction": predicted, "linear_steering": table})) > 3
    assert len(figures.shift_or_map(predicted, table).axes) == 2


def test_an_encoder_decoder_is_refused(trap_t5: Any, instruct_llama: Any, fewer: None, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="decoder-only"):
        study.run(trap_t5, tmp_path / "out", **SMALL)
    with unchecked(), pytest.raises(ms.MechsteerError, match="others must be decoder-only"):
        study.run(instruct_llama, tmp_path / "out", only="architectures", others=[trap_t5], **SMALL)
