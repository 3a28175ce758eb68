"""The study of GUIDE: its cells are the task's, its figures come from its tables, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mechsteer as ms
from mechsteer.files import data_path, read_json, read_table
from mechsteer.stats import cluster_interval, holm, paired_p
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.core.result import redraw
from mechsteer.studies.guide import choose as guide_choice
from mechsteer.studies.guide import figures as guide_figures
from mechsteer.studies.guide import published as guide_published
from mechsteer.studies.guide import study as guide
from mechsteer.studies.guide import tables as guide_tables
from mechsteer.studies.guide.tables import limits
from mechsteer.studies.guide.tasks import DOCUMENTS, ORGANISM, TaskByLength, subsets, worded
from mechsteer.studies.registry import STUDIES
from mechsteer.tasks import json_schema
from mechsteer.tasks.summaries import is_french, summaries
from tests.command_line import CommandLine
from tests.typecheck import unchecked

KINDS = ("upper", "json")
LENGTHS = {"instructions": (0, 24), "needle": (30, 90), "json": (45, 180)}
DELTAS = {"instructions": (0.0, 2.0), "needle": (0.0, 2.0), "json": (0.0, 2.0)}
ERROR = ms.MechsteerError


def small(subject: TaskByLength) -> TaskByLength:
    """The task with two lengths and less strengths; of the instructions, two kinds."""
    make = subject.make
    if subject.name == "instructions":

        def make(length: int, n: int) -> Any:
            return ms.tasks.instructions(KINDS, notes=length, n=n)

    return replace(subject, make=make, lengths=LENGTHS[subject.name], deltas=DELTAS[subject.name])


def shortened(make: Callable[..., Any], *a: Any, **k: Any) -> Any:
    """A task whose answers are cut off."""
    return replace(make(*a, **k), max_new_tokens=40)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """The small tasks, and less of what the model cannot do: it never ends an answer."""
    patch.setattr(guide, "ORGANISM", tuple(small(s) for s in ORGANISM))
    patch.setattr(guide, "limits", partial(limits, n=2))
    for make in (summaries, json_schema):
        patch.setattr(guide_tables, make.__name__, partial(shortened, make))


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


@pytest.fixture(scope="module")
def study(model: Any, tmp_path_factory: pytest.TempPathFactory) -> guide.Result:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        with unchecked():
            return guide.run(model, tmp_path_factory.mktemp("guide"), n=1, draw=False, progress=False)


def test_scores_are_those_of_the_task_under_the_bias(study: guide.Result, model: Any) -> None:
    table = study.tables["by_strength"].set_index(["task", "form", "delta", "length"]).sort_index()
    task = ms.tasks.instructions(KINDS, notes=24, n=1)
    for form, scope in (("every step", "all"), ("prompt only", "prompt")):
        scored = ms.evaluate(model, task, steer=ms.attention_bias("instruction", 2.0, scope=scope))
        row = table.loc["instructions", form, 2.0, 24]
        assert row["score_percent"] == pytest.approx(100 * scored["adherence"].mean())
        assert row["fidelity_percent"] == pytest.approx(100 * scored["fidelity"].mean())
        assert row["score_percent_low"] <= row["score_percent"] <= row["score_percent_high"] and row["n"] == 2
    forms = [table.loc["instructions", form, 0.0].reset_index(drop=True) for form in ("every step", "prompt only")]
    assert forms[0].equals(forms[1])
    assert set(study.tables["by_strength"]["task"]) == {"instructions", "needle", "json"}
    assert study.tables["by_strength"].query("task == 'json'")["fidelity_percent"].isna().all()


def test_the_bias_helps_where_the_context_is_long(study: guide.Result) -> None:
    cells = (
        study.tables["by_strength"].query("form == 'every step'").set_index(["delta", "task", "length"]).sort_index()
    )
    longest = [(task, lengths[1]) for task, lengths in LENGTHS.items()]
    plain, biased = (cells["score_percent"][delta].loc[longest] for delta in (0.0, 2.0))
    shortest = cells["score_percent"][0.0].loc[[(task, lengths[0]) for task, lengths in LENGTHS.items()]]
    assert (biased >= plain).all() and biased.mean() > plain.mean() + 10
    assert shortest.mean() > plain.mean() + 10


def test_the_map_of_the_needle_is_its_cells(study: guide.Result) -> None:
    cells, table = study.tables["needle"], study.tables["by_strength"]
    assert len(cells) == 2 * 2 * 6
    means = cells.groupby(["delta", "length"])["found_percent"].mean()
    for row in table[table["task"] == "needle"].to_dict("records"):
        assert means[row["delta"], row["length"]] == pytest.approx(row["score_percent"])


def test_wordings_and_what_is_read(study: guide.Result, model: Any) -> None:
    table = study.tables["baselines"].set_index(["wording", "length"]).sort_index()
    assert table.loc[("plain", 0), "kinds_read"] == 2 and table.loc[("plain", 0), "applicable"]
    # "JSON" is in capitals anyway; the organism reads nothing else in capitals
    assert table.loc[("uppercase", 0), "kinds_read"] == 1 and not table.loc[("uppercase", 0), "applicable"]
    assert table.loc[("none", 0), "kinds_read"] == 0 and np.isnan(table.loc[("none", 0), "tokens"])
    assert table.loc[("uppercase", 0), "tokens"] > table.loc[("plain", 0), "tokens"]
    task = replace(ms.tasks.instructions("list", n=1))
    sample = task.samples[0]
    texts = {name: worded(task, name).prompts(model)[0].text for name in ("*marked*", "twice", "at the end", "none")}
    assert f"*{sample.instruction}*\n\n{sample.task}" in texts["*marked*"]
    assert f"{sample.instruction} {sample.instruction}\n\n{sample.task}" in texts["twice"]
    assert f"{sample.task}\n\n{sample.instruction}" in texts["at the end"]
    assert sample.instruction not in texts["none"] and sample.task in texts["none"]


@pytest.mark.parametrize(
    ("count", "first", "middle", "last"),
    [(6, [0, 1], [2, 3], [4, 5]), (32, range(8), range(12, 20), range(24, 32)), (1, [0], [0], [0]), (5, [0], [2], [4])],
)
def test_quarters_of_layers(count: int, first: Any, middle: Any, last: Any) -> None:
    found = subsets(count)
    assert found["all"] == list(range(count)) and found["first layer"] == [0]
    assert found["first quarter"] == list(first) and found["last quarter"] == list(last)
    assert found["middle quarter"] == list(middle)


def test_means_over_lengths_have_the_interval_of_all_their_prompts(study: guide.Result, model: Any) -> None:
    summary = study.summary.set_index(["task", "form", "delta"]).sort_index()
    tasks = [ms.tasks.instructions(KINDS, notes=length, n=1) for length in LENGTHS["instructions"]]
    tables = [ms.evaluate(model, task, steer=ms.attention_bias("instruction", 2.0)) for task in tasks]
    topics = [sample.topic for task in tasks for sample in task.samples]
    row = summary.loc["instructions", "every step", 2.0]
    for name, column in {"score": "adherence", "fidelity": "fidelity"}.items():
        values = [float(value) for table in tables for value in table[column]]
        ends = [100 * value for value in cluster_interval(values, topics)[:3]]
        assert [row[f"{name}_percent{end}"] for end in ("", "_low", "_high")] == pytest.approx(ends)
    plain = [summary.loc["instructions", form, 0.0] for form in ("every step", "prompt only")]
    assert plain[0]["score_percent_low"] == plain[1]["score_percent_low"] <= plain[0]["score_percent"]
    drawn = STUDIES["guide"].draw(study.tables)["by_delta"]
    assert any(axes.containers for axes in drawn.axes) and all(axes.get_legend() is None for axes in drawn.axes)


def test_guide_minus_the_instruction_behind_the_question_on_the_same_prompts(study: guide.Result, model: Any) -> None:
    table = study.tables["against_last"]
    task = ms.tasks.instructions(KINDS, notes=24, n=1)
    last = ms.evaluate(model, worded(task, "at the end"))
    here = ms.evaluate(model, task, steer=ms.attention_bias("instruction", 2.0))
    rows = table[(table["length"] == 24) & (table["delta"] == 2)].set_index("measure")
    for measure, column, unit in (
        ("score", "adherence", 100),
        ("fidelity",) * 2 + (100,),
        ("true_sentences",) * 2 + (1,),
    ):
        row, before, after = rows.loc[measure], last[column].astype(float), here[column].astype(float)
        assert [row["guide"], row["last"]] == pytest.approx([unit * after.mean(), unit * before.mean()])
        assert row["difference"] == pytest.approx(unit * (after - before).mean())
        assert row["low"] <= row["difference"] <= row["high"] and row["low"] < row["high"]
        topics = [sample.topic for sample in task.samples]
        assert row["p_by_topic"] == paired_p((after - before).tolist(), topics) and row["n"] == 2
    for _, part in table.groupby("measure"):
        assert part["p_adjusted"].tolist() == holm(part["p_by_topic"].tolist())
    assert set(zip(table["length"], table["delta"], strict=True)) == {(n, d) for n in (0, 24) for d in (0.0, 2.0)}


@pytest.mark.parametrize("quantity", ["influence", "rollout"])
def test_flows_are_means_over_blocks_of_tokens_behind_the_instruction(
    quantity: str, study: guide.Result, model: Any
) -> None:
    prompts = ms.tasks.instructions(KINDS, notes=24, n=1).prompts(model)
    blocks: dict[int, list[list[float]]] = {}
    for p in prompts:
        table = getattr(ms, quantity)(model, p, "instruction")
        values = table[table["layer"] == 3].set_index("position")[quantity]
        mine: dict[int, list[float]] = {}
        for position in range(max(p.positions("instruction")) + 1, len(p)):
            mine.setdefault((position - max(p.positions("instruction")) - 1) // 20, []).append(values[position])
        for block, found in mine.items():
            blocks.setdefault(block, []).append(found)
    flows = study.tables["flows"]
    assert (flows["length"] == 24).all() and set(flows["layer"]) == set(range(6))
    rows = flows[(flows["quantity"] == quantity) & (flows["layer"] == 3)].set_index("distance")
    assert rows.index.tolist() == [20 * block + 10 for block in sorted(blocks)]
    for block, found in blocks.items():
        row = rows.loc[20 * block + 10]
        assert row["value"] == pytest.approx(np.mean([np.mean(part) for part in found]), rel=1e-5)
        assert row["n"] == len(found)
    assert rows.iloc[0]["value"] != rows.iloc[-2]["value"]


def test_layers_are_steered_alone(study: guide.Result, model: Any) -> None:
    table = study.tables["layers"].set_index(["layers", "length"]).sort_index()
    task = ms.tasks.instructions(KINDS, notes=24, n=1)
    scored = ms.evaluate(model, task, steer=ms.attention_bias("instruction", 2.0, layers=[2, 3]))
    assert table.loc[("middle quarter", 24), "score_percent"] == pytest.approx(100 * scored["adherence"].mean())
    strength = study.tables["by_strength"].set_index(["task", "form", "delta", "length"]).sort_index()["score_percent"]
    assert table.loc[("all", 24), "score_percent"] == strength["instructions", "every step", 2.0, 24]
    assert table.loc[("none", 24), "score_percent"] == strength["instructions", "every step", 0.0, 24]


def test_the_chosen_delta_has_the_influence_of_its_target(study: guide.Result, model: Any) -> None:
    table = study.tables["choice"].set_index(["target", "length"]).sort_index()
    prompts = {k: ms.tasks.instructions(KINDS, notes=k, n=1).prompts(model) for k in (0, 24)}

    def mean(notes: int, delta: float) -> float:
        rows = [ms.influence(model, p, delta=delta).query("layer == 5")["influence"].tail(5) for p in prompts[notes]]
        return float(np.mean([part.mean() for part in rows]))

    row = table.loc["shortest context", 24]
    assert row["target_influence"] == pytest.approx(mean(0, 0.0), abs=1e-5)
    assert mean(24, row["delta"]) == pytest.approx(row["target_influence"], rel=guide_choice.TOLERANCE + 1e-4)
    task = ms.tasks.instructions(KINDS, notes=24, n=1)
    scored = ms.evaluate(model, task, steer=ms.attention_bias("instruction", round(row["delta"], 2)))
    assert row["score_percent"] == pytest.approx(100 * scored["adherence"].mean())
    assert table["edge"].dtype == bool and (table["edge"] == (table["best_delta"] == DELTAS["instructions"][-1])).all()
    assert ("shortest context", 0) not in table.index and ("uppercase", 0) in table.index


def test_what_cannot_be_matched_is_a_row_with_its_reason(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide_choice, "HIGH", 0.01)
    monkeypatch.setattr(guide_choice, "LOW", -0.01)
    bench = Bench(model, tmp_path, 8, None)
    found = guide_choice._match(bench, replace(small(ORGANISM[0]), n=1), 24, "shortest context")
    assert found["delta"].isna().all() and "out of reach" in found["reason"][0]


def test_the_summary_has_the_published_beside_it(study: guide.Result) -> None:
    summary = study.summary.set_index(["task", "form", "delta"]).sort_index()
    cells = study.tables["by_strength"]
    part = cells[(cells["task"] == "json") & (cells["delta"] == 2)]
    assert summary.loc[("json", "every step", 2.0), "score_percent"] == pytest.approx(part["score_percent"].mean())
    row = summary.loc["instructions", "every step", 2.0]
    theirs = [0.925, 0.910, 0.834, 0.772, 0.603, 0.619, 0.561, 0.405, 0.362]  # Mistral in French, by length
    assert row["published_percent"] == pytest.approx(100 * np.mean(theirs))
    assert row["published_model"] == guide_published.MODEL
    assert not study.tables["published"]["this_model"].any()
    own = guide_published.reference("google/gemma-2-2b-it")
    assert set(own[own["this_model"]]["task"]) == {"french"}
    renamed = cells.assign(task=cells["task"].replace("instructions", "french"))
    gemma = guide_published.beside(renamed, "google/gemma-2-2b-it").set_index(["task", "form", "delta"]).sort_index()
    assert gemma.loc[("french", "every step", 2.0), "published_model"] == "google/gemma-2-2b-it"
    assert gemma.loc[("json", "every step", 2.0), "published_model"] == guide_published.MODEL


def test_what_the_model_cannot_do_is_measured(study: guide.Result) -> None:
    measured = study.tables["limits"].set_index("task")
    assert measured.loc["needle", "score_percent"] == 0 and measured.loc["json", "score_percent"] == 0
    assert measured.loc["needle", "score_percent_low"] == 0 < measured.loc["needle", "score_percent_high"] < 100
    assert measured.loc["needle", "verdict"] == "not shown by this model" and (measured["n"] >= 2).all()


def test_figures_come_from_the_tables_alone(
    study: guide.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_json(study.folder / "study.json")["study"] == guide.NAME
    for name in (*guide_figures.TABLES, *guide_figures.OPTIONAL):
        assert len(read_table(study.folder / f"{name}.parquet")) == len(study.tables[name])
        (tmp_path / f"{name}.parquet").write_bytes((study.folder / f"{name}.parquet").read_bytes())
    for name in ("model_fingerprint", "version_mechsteer"):
        assert all(name in table for key, table in study.tables.items() if key != "published")
    drawn = []
    monkeypatch.setattr(guide_figures.plots, "save", lambda figure, stem: drawn.append((stem, figure)) or [stem])
    names = ["by_length", "by_delta", "predictors", "needle", "wordings", "layers", "choice", "flows"]
    assert redraw(STUDIES["guide"], tmp_path) == [tmp_path / "figures" / name for name in names]
    made = {stem.name: figure for stem, figure in drawn}
    for figure in made.values():
        figure.canvas.draw()
    image = made["needle"].axes[0].images[0].get_array()
    first = study.tables["needle"].query("delta == 0").pivot(index="depth_percent", columns="length")["found_percent"]
    assert np.asarray(image) == pytest.approx(first.to_numpy())


def test_a_second_run_computes_nothing(study: guide.Result, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    for module in ("mechsteer.studies.core.cells.evaluate", "mechsteer.studies.guide.tables.predictors"):
        monkeypatch.setattr(module, lambda *a, **k: pytest.fail("computed again"))
    with unchecked():
        again = guide.run(model, study.folder, n=1, draw=False, progress=False)
    assert again.tables["by_strength"].equals(study.tables["by_strength"])


def test_other_models_get_the_papers_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ms.load(str(data_path("organisms", "instruct-llama")))  # by its path it is a model like any other
    few = {"french": (30, 40, 9000), "needle": (40,), "json": (30,)}
    monkeypatch.setattr(guide, "DOCUMENTS", tuple(_short(s, few[s.name]) for s in DOCUMENTS))
    with unchecked():
        result = guide.run(other, tmp_path, n=1, tasks=["french", "json"], draw=False, progress=False)
    assert not (tmp_path / "figures").exists()
    table = result.tables["by_strength"]
    assert set(table["task"]) == {"french", "json"} and "limits" not in result.tables
    assert set(table[table["task"] == "french"]["length"]) == {30, 40}, "9000 words do not fit"
    assert result.figures()["by_length"].axes[0].get_title() == "Summaries in French"


def _short(subject: TaskByLength, lengths: tuple[int, ...]) -> TaskByLength:
    def make(length: int, n: int) -> Any:
        return replace(subject.make(length, n), max_new_tokens=4)

    return replace(subject, make=make, lengths=lengths, deltas=subject.deltas[:2])


def test_the_language_of_a_summary() -> None:
    assert is_french("Le livre est dans la ville, et il est pour les enfants.")
    assert not is_french("The book is in the town, and it is for the children.")
    assert not is_french("Paris, Lyon") and not is_french("") and not is_french("la la")
    task = summaries([20, 40], 2)
    assert [s.length for s in task.samples] == [20, 20, 40, 40]
    assert task.samples[2].text.startswith(task.samples[0].text) and task.data_hash != summaries([20], 2).data_hash


def test_what_it_refuses(tiny: Callable[..., Any], model: Any, tmp_path: Path) -> None:
    with pytest.raises(ERROR, match="decoder-only"):
        guide.run(tiny("t5"), tmp_path, progress=False)
    with pytest.raises(ERROR, match="Did you mean 'needle'"):
        guide.run(model, tmp_path, tasks=["needles"], progress=False)
    with pytest.raises(ERROR, match="Did you mean 'needle'"):
        guide.run(model, tmp_path, tasks="needles", progress=False)
    with pytest.raises(ERROR, match="tasks must name at least one of instructions, needle, json, got none"):
        guide.run(model, tmp_path, tasks=[], progress=False)
    with pytest.raises(ERROR, match="No length of these tasks fits"):
        guide.run(tiny("gpt2"), tmp_path, progress=False)
    with pytest.raises(ERROR, match="n must be"):
        guide.run(model, tmp_path, n=0, progress=False)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_it(
    study: guide.Result, model: Any, mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **k: model)
    monkeypatch.setattr(guide, "run", lambda *a, **k: study)
    code, printed, _ = mechsteer("reproduce", "guide", "--out", tmp_path)
    assert code == 0
    for heading in ("GUIDE on organism:instruct-llama", "What predicts success"):
        assert heading in printed
    for value in study.summary["score_percent"].dropna():
        assert f"{value:.1f}" in printed
