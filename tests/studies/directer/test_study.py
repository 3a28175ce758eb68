"""The study of DIRECTER: its cells are the task's, its tables hand-worked, its figures from tables, what it refuses."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.files import read_json, read_table
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.core.published import published
from mechsteer.studies.core.result import redraw
from mechsteer.studies.directer import bench as directer_cells
from mechsteer.studies.directer import figures as directer_figures
from mechsteer.studies.directer import profiled as directer_profiled
from mechsteer.studies.directer import study as directer
from mechsteer.studies.directer import tables as directer_parts
from mechsteer.studies.directer import vectors as directer_vectors
from mechsteer.studies.directer.bench import Setup, Way, difference, fates, means, moved, pooled
from mechsteer.studies.directer.cost import cost, peak
from mechsteer.studies.directer.figures import ablation
from mechsteer.studies.directer.published import beside
from mechsteer.studies.registry import STUDIES
from tests.command_line import CommandLine
from tests.typecheck import unchecked

KINDS = ("upper", "french")
ERROR = ms.MechsteerError


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


def limited(*a: Any, **k: Any) -> Any:
    """Instructions whose answers, also those that would not end, are at most this long."""
    return replace(ms.tasks.instructions(*a, **k), max_new_tokens=16)


def short(*a: Any, **k: Any) -> Any:
    """Those whose answers end early."""
    return replace(ms.tasks.instructions(*a, **k), max_new_tokens=12)


@pytest.fixture(scope="module", autouse=True)
def limited_answers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directer_cells, "instructions", limited)
        yield


@pytest.fixture(scope="module")
def study(model: Any, tmp_path_factory: pytest.TempPathFactory) -> directer.Result:
    """One prompt of each of two kinds, and fewer strengths."""
    fewer = {name: (make, paper, grid[1:3]) for name, (make, paper, grid) in directer_parts.METHODS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directer_parts, "METHODS", fewer)
        patch.setattr(directer_parts, "ALPHAS", (10.0, 100.0))
        patch.setattr(directer_parts, "BETAS", (0.1, 0.5))
        patch.setattr(directer_parts, "SEEDS", (0, 1))
        patch.setattr(directer_profiled, "instructions", short)
        patch.setattr(directer, "cost", lambda *a, **k: cost(a[0], a[1][:1], max_new_tokens=3, rounds=1))
        folder = tmp_path_factory.mktemp("directer")
        with unchecked():
            return directer.run(model, folder, kinds=KINDS, n=1, n_validation=1, draw=False, progress=False)


def test_scores_are_those_of_the_task(study: directer.Result, model: Any) -> None:
    table = study.summary.set_index(["notes", "method", "setting", "strength"]).sort_index()
    task = limited(KINDS, notes=24, n=1)
    ways: dict[Any, dict[str, Any]] = {
        ("zero-shot", "", 0.0): {},
        ("pasta", "paper", 0.01): {"steer": ms.pasta(alpha=0.01)},
        ("spotlight", "paper", 0.3): {"steer": ms.spotlight(target=0.3)},
        ("guide", "paper", 2.0): {"steer": ms.attention_bias(delta=2.0)},
        ("directer", "paper", 0.5): {"strategy": ms.Directer()},
        ("directer", "released code", 0.5): {"strategy": ms.Directer(compat="released")},
    }
    for key, options in ways.items():
        scored, row = ms.evaluate(model, task, **options), table.loc[(24, *key)]
        assert row["adherence_percent"] == pytest.approx(100 * scored["adherence"].mean())
        assert row["fidelity_percent"] == pytest.approx(100 * scored["fidelity"].mean())
        assert row["average_percent"] == pytest.approx((row["adherence_percent"] + row["fidelity_percent"]) / 2)
        assert row["n"] == 2
    assert set(study.summary["notes"]) == {16, 24}
    assert table.loc[(24, "zero-shot", "", 0.0), "p_value"] == 1


def test_strengths_are_chosen_on_other_prompts(study: directer.Result) -> None:
    choice = study.tables["choice"]
    for method, part in choice.groupby("method"):
        best = part[part["average_percent"] == part["average_percent"].max()].iloc[0]
        assert part[part["chosen"]]["strength"].tolist() == [best["strength"]]  # of equals, the first: the weakest
        rows = study.summary[(study.summary["method"] == method) & (study.summary["setting"].str.startswith("chosen"))]
        assert set(rows["strength"]) == {best["strength"]}
    for method, (_, _, grid) in directer_parts.METHODS.items():
        weaker = sorted(grid, reverse=method in ("pasta", "directer"))
        assert list(grid) == weaker
    chosen_on = {s.topic for s in ms.tasks.instructions(split="validation").samples}
    assert not chosen_on & {s.topic for s in ms.tasks.instructions().samples}


def test_fixed_strengths_and_sweeps_are_the_strategies(study: directer.Result, model: Any) -> None:
    task = limited(KINDS, notes=24, n=1)
    table = study.tables["strengths"]
    assert table["layers"].tolist() == [0, 1, 2, 4, 6, 6] and table["method"].tolist()[-1] == "directer"
    scored = ms.evaluate(model, task, strategy=ms.Directer(strength=4))
    assert table["fidelity_percent"][3] == pytest.approx(100 * scored["fidelity"].mean())
    sweep = study.tables["sweeps"].set_index(["parameter", "value"])
    scored = ms.evaluate(model, task, strategy=ms.Directer(beta=0.1))
    assert sweep.loc[("beta", 0.1), "fidelity_percent"] == pytest.approx(100 * scored["fidelity"].mean())
    assert sweep.loc[("beta", 0.5), "average_percent"] == sweep.loc[("alpha", 100.0), "average_percent"]


def test_heads_are_ranked_alone_on_other_prompts_and_steered_together(study: directer.Result, model: Any) -> None:
    ranking, table = study.tables["heads"], study.tables["profiled"]
    every = model.cfg.n_layers * model.cfg.n_heads
    assert sorted(zip(ranking["layer"], ranking["head"], strict=True)) == [
        (layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)
    ]
    assert ranking["rank"].tolist() == list(range(1, every + 1)) and ranking["average_percent"].is_monotonic_decreasing
    for _, part in ranking.groupby("average_percent"):  # of equals, from the first layer on
        assert list(zip(part["layer"], part["head"], strict=True)) == sorted(
            zip(part["layer"], part["head"], strict=True)
        )
    others = short(KINDS, notes=24, n=1, split="validation")
    first = ranking.iloc[0]
    alone = ms.evaluate(model, others, steer=ms.pasta(alpha=0.01, heads=[(int(first["layer"]), int(first["head"]))]))
    assert first["adherence_percent"] == pytest.approx(100 * alone["adherence"].mean())
    task, best = limited(KINDS, notes=24, n=1), ranking.head(4)
    pairs = list(zip(best["layer"], best["head"], strict=True))
    rows = table[table["method"] == "pasta"].set_index("heads")
    there = ms.evaluate(model, task, steer=ms.pasta(alpha=0.01, heads=pairs))
    for name in ("adherence", "fidelity"):
        assert rows.loc[4, f"{name}_percent"] == pytest.approx(100 * there[name].mean())
    assert rows.index.tolist() == directer_parts.sizes(every) and rows["share_percent"].iloc[-1] == 100
    summary = study.summary.set_index(["notes", "method", "setting", "strength"]).sort_index()
    for name in ("adherence", "fidelity"):
        assert rows.loc[every, f"{name}_percent"] == summary.loc[(24, "pasta", "paper", 0.01), f"{name}_percent"]
    chosen = rows[rows["chosen"]]
    assert chosen.index.tolist() == [rows["validation_percent"].idxmax()]  # of equals, the fewest
    assert table["method"].tolist()[-3:] == ["zero-shot", "guide, delta 2", "directer, beta 0.5"]
    assert rows.loc[every, "difference_pp"] == 0 and table["p_adjusted"].ge(table["p_by_topic"]).all()


def test_few_shot_prompts_have_the_models_own_followed_and_true_answers(study: directer.Result, model: Any) -> None:
    shown = ms.tasks.instructions(KINDS, n=8, split="validation")
    own = ms.evaluate(model, shown)
    good = (own["adherence"] & (own["fidelity"] == 1)).tolist()
    task = limited(KINDS, notes=24, n=1)
    samples = []
    for sample in task.samples:
        kept = [f"{s.task}\n\n{o.strip()}" for s, o, ok in zip(shown.samples, own["output"], good, strict=True)
                if ok and s.kind == sample.kind]  # fmt: skip
        samples.append(replace(sample, task="\n\n".join([*kept[:2], sample.task])))
    assert any("\n\n" in sample.task for sample in samples)
    scored = ms.evaluate(model, replace(task, samples=tuple(samples)))
    row = study.summary.query("method == 'few-shot' and notes == 24").iloc[0]
    assert row["adherence_percent"] == pytest.approx(100 * scored["adherence"].mean())
    assert row["fidelity_percent"] == pytest.approx(100 * scored["fidelity"].mean())


def test_answers_stand_side_by_side_on_the_page(
    study: directer.Result, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = study.tables["samples"]
    task = limited(KINDS, notes=24, n=1)
    made = {"zero-shot": ms.generate(model, task.prompts(model), max_new_tokens=task.max_new_tokens)}
    published = {"strategy": ms.Directer(), "max_new_tokens": task.max_new_tokens}
    made["directer, 0.5, as published"] = ms.generate(model, task.prompts(model), **published)
    for name, found in made.items():
        rows = samples[samples["name"] == name]
        assert rows["output"].tolist() == found.texts
        assert [text.split("\n\n") for text in rows["prompt"]] == [[s.instruction, s.task] for s in task.samples]
    assert samples["name"].str.contains("chosen on validation").sum() == 4 * len(task.samples)
    monkeypatch.setattr(ms.plots, "paper", partial(ms.plots.paper, formats=["png"]))  # which the page shows
    text = study.to_html(study.folder / "again.html").read_text(encoding="utf-8")
    assert "Answers side by side" in text and "directer, 0.5, as published" in text


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (6, [1, 2, 4, 6]), (32, [1, 2, 4, 8, 16, 32])])
def test_fixed_strengths_of_a_model(count: int, expected: list[int]) -> None:
    assert directer_parts.sizes(count) == expected


def test_the_fate_of_tokens_is_the_trace(study: directer.Result, model: Any) -> None:
    task = limited(KINDS, notes=24, n=1)
    limit = {"max_new_tokens": task.max_new_tokens}
    trace = ms.generate(model, task.prompts(model), strategy=ms.Directer(beta=0.1), **limit).trace
    found = study.tables["trace"].query("run == 'beta = 0.1'").set_index(["outcome", "layers"])
    total = len(trace)
    assert (found["tokens"] == total).all() and found["share_percent"].sum() == pytest.approx(100)
    assert found.loc[("skipped", 0), "share_percent"] == pytest.approx(100 * trace["skipped"].mean())
    for layers in (6, 3, 1):
        part = trace[(trace["accepted"] > 0) & (trace["layers"] == layers)]
        assert found.loc[("accepted", layers), "share_percent"] == pytest.approx(100 * len(part) / total)
        changed = int((part["token"] != part["raw_token"]).sum())
        assert found.loc[("accepted", layers), "changed_percent"] == pytest.approx(100 * changed / total)
    assert found["changed_percent"].sum() > 0


def test_fates_by_hand() -> None:
    table = pd.DataFrame(
        {"steps": [6, 4], "skipped": [3, 1], "rejected": [1, 0], "accepted_1": [1, 2], "accepted_2": [1, 1]}
    ).assign(changed_1=[0, 1], changed_2=[1, 0])
    found = [(r["outcome"], r["layers"], r["share_percent"], r["changed_percent"]) for r in fates(table, [8, 4, 2])]
    assert found == [
        ("skipped", 0, 40.0, 0.0),
        ("accepted", 8, 30.0, 10.0),
        ("accepted", 4, 20.0, 10.0),
        ("accepted", 2, 0.0, 0.0),
        ("rejected", 0, 10.0, 0.0),
    ]


def test_differences_are_paired() -> None:
    def scores(adherence: list[int], fidelity: list[float]) -> pd.DataFrame:
        made = pd.DataFrame({"adherence": adherence, "fidelity": fidelity}, dtype=float)
        return made.assign(average=(made["adherence"] + made["fidelity"]) / 2)

    before, after = scores([0] * 9 + [1], [0.9] * 10), scores([1] * 9 + [0], [0.4] * 10)
    adherence, fidelity, _ = difference(before, after)
    assert adherence["difference_pp"] == pytest.approx(80) and adherence["verdict"] == "above"
    assert (adherence["gained"], adherence["lost"]) == (9, 1)
    assert adherence["p_value"] == pytest.approx(2 * 11 / 2**10)
    assert fidelity["difference_pp"] == pytest.approx(-50) and fidelity["verdict"] == "below"
    assert fidelity["low_pp"] < -50 < fidelity["high_pp"]  # ten prompts, though the change is the same in all of them
    assert {row["verdict"] for row in difference(before, before)} == {"not told apart"}
    assert pooled([before, after])["fidelity"].tolist() == pytest.approx([0.65] * 10)
    row = means(before)
    assert row["adherence_percent"] == pytest.approx(10) and row["n"] == 10
    assert row["adherence_percent_low"] <= 10 <= row["adherence_percent_high"]


def test_the_claims_are_in_the_differences(study: directer.Result) -> None:
    table = study.tables["differences"].set_index(["method", "against", "measure"])["difference_pp"]
    rows = study.summary[study.summary["notes"] == 24].set_index(["method", "setting", "strength"]).sort_index()
    ours, start = (rows.loc[key, "adherence_percent"] for key in (("directer", "paper", 0.5), ("zero-shot", "", 0.0)))
    assert table["directer", "zero-shot", "adherence"] == pytest.approx(ours - start)
    strengths = study.tables["strengths"]["fidelity_percent"]
    against = "key scaling in 6 layers, nothing rejected"
    assert table["directer", against, "fidelity"] == pytest.approx(strengths[5] - strengths[4])
    assert table["directer", against, "fidelity"] > 0


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_random_tokens_are_as_many_and_elsewhere(model: Any, seed: int) -> None:
    prompts = ms.tasks.instructions(notes=16, n=1).prompts(model)
    made = [moved(p, seed, place) for place, p in enumerate(prompts)]
    for p, other in zip(prompts, made, strict=True):
        new = other.positions("instruction")
        assert len(new) == len(p.positions("instruction")) and new == list(range(new[0], new[-1] + 1))
        assert not set(new) & set(p.positions("instruction"))
        assert set(new) <= set(range(p.positions("context")[0], p.positions("task")[-1] + 1))
        assert other.tokens.equal(p.tokens) and other.spans["task"] == p.spans["task"]
        assert moved(p, seed, prompts.index(p)).spans == other.spans
    starts = [[moved(p, s, k).spans["instruction"] for k, p in enumerate(prompts)] for s in (seed, seed + 1)]
    assert starts[0] != starts[1]


def test_random_tokens_of_a_short_prompt(model: Any) -> None:
    short = ms.prompt(model, "Tell me.", instruction="Please answer the question in capital letters now.")
    found = moved(short, 0, 0).positions("instruction")
    assert found == short.positions("task")
    nothing = ms.Prompt("x", torch.arange(3), {"instruction": [(0, 3)]})
    with pytest.raises(ERROR, match="nowhere else"):
        moved(nothing, 0, 0)


def test_ablation_pools_seeds(study: directer.Result, model: Any) -> None:
    table = study.tables["ablation"].set_index("variant")
    assert table["seeds"].to_dict() == {
        "zero-shot": 1,
        "directer": 1,
        "released code": 1,
        "reversed ranking": 1,
        "random layers": 2,
        "random tokens": 2,
    }
    task = limited(KINDS, notes=24, n=1)
    random = [ms.evaluate(model, task, strategy=ms.Directer(order="random", seed=s))["fidelity"] for s in (0, 1)]
    expected = 50 * sum(part.mean() for part in random)
    assert table.loc["random layers", "fidelity_percent"] == pytest.approx(expected)
    row = table.loc["random tokens"]
    assert row["average_percent_least"] <= row["average_percent"] <= row["average_percent_most"]


def test_ranks_by_both_averages(study: directer.Result, model: Any) -> None:
    table = study.tables["rankings"]
    assert table.groupby("aggregate")["mean_rank"].mean().tolist() == pytest.approx([3.5, 3.5])
    assert table.groupby("aggregate")["first_percent"].sum().tolist() == pytest.approx([100, 100])
    prompts = limited(KINDS, notes=24, n=1).prompts(model)
    naive = ms.layer_sensitivity(model, prompts, aggregate="released").groupby("layer")["rank"].mean()
    assert table[table["aggregate"] == "released"]["mean_rank"].tolist() == pytest.approx(naive.tolist())


def test_the_gate_on_other_methods(study: directer.Result, model: Any) -> None:
    table = study.tables["gate"]
    assert {"pasta", "spotlight", "guide"} <= set(table["method"])
    assert (table[table["gate"]].groupby("method").size() == 1).all()
    task = limited(KINDS, notes=24, n=1)
    gated = ms.Gated([ms.attention_bias(delta=d) for d in (5.0, 2.0, 1.0)])
    row = table[(table["method"] == "guide") & table["gate"]].iloc[0]
    assert row["fidelity_percent"] == pytest.approx(100 * ms.evaluate(model, task, strategy=gated)["fidelity"].mean())
    shares = study.tables["trace"].query("run == 'guide under the gate'")
    assert shares["share_percent"].sum() == pytest.approx(100) and shares["trial"].tolist() == [0, 1, 2, 3, 0]


def test_vectors_act_on_the_prompts_of_their_kind(model: Any) -> None:
    task = ms.tasks.instructions(KINDS, notes=4, n=3)
    directions = {kind: ms.random_direction(model, layer=2, seed=seed) for seed, kind in enumerate(KINDS)}
    steer = directer_vectors._vectors(task, directions, 0.5)
    assert [edit.scope.rows for edit in steer.edits] == [(0, 1, 2), (3, 4, 5)]
    assert [edit.strength for edit in steer.edits] == pytest.approx([0.5 * d.norm for d in directions.values()])


def test_published_numbers_have_a_column_of_their_own(study: directer.Result) -> None:
    table = study.tables["published"]
    assert table["published"].notna().all() and not table["same_model"].any()
    paper = published("directer_main").set_index(["method", "benchmark", "metric"])["percent"]
    main = table[table["part"] == "main"].set_index(["variant", "published_measure"])
    assert main.loc[("directer", "all seven columns, mean"), "published"] == 76.5
    assert main.loc[("pasta (alpha 0.01)", "gsm8k-format, task accuracy"), "published"] == 48.1
    for (variant, measure), value in main["published"].items():
        assert value == paper[(variant, *measure.split(", "))]
    rows = study.summary[study.summary["notes"] == 24].set_index(["method", "setting", "strength"]).sort_index()
    row = main.loc[("spotlight (psi 0.1)", "gsm8k-format, task accuracy")]
    assert row["our_measure"] == "fidelity (%)"
    assert row["ours"] == rows.loc[("spotlight", "paper", 0.1), "fidelity_percent"]
    gates = table[(table["part"] == "gate") & (table["our_measure"] == "average (%)")].set_index("variant")
    ours = study.tables["gate"].query("method == 'pasta'")
    assert gates.loc["pasta + filter", "published"] == 78.2
    assert gates.loc["pasta + filter", "ours"] == ours[ours["gate"]]["average_percent"].iloc[0]
    assert gates.loc["pasta", "ours"] == ours[ours["strength"] == 0.01].query("not gate")["average_percent"].iloc[0]


def test_cost_beside_the_published() -> None:
    ours = pd.DataFrame({"method": ["zero-shot", "directer"], "first_token_ms": [20.0, 50.0], "tokens": [9.0, 9.0]})
    ours = ours.assign(tokens_per_second_times=[1.0, 0.8], token_ms_times=[1.0, 1.3])
    zeros = {"adherence_percent": 0.0, "average_percent": 0.0}
    empty = pd.DataFrame({"method": [], "setting": [], "strength": []})
    ablation = pd.DataFrame({"variant": list(directer_published_variants()), **zeros})
    gate = pd.DataFrame({"method": ["pasta", "spotlight"] * 2, "gate": [False, False, True, True]})
    table = beside("ours", empty, ablation, gate.assign(**zeros), ours)
    rows = table[table["part"] == "cost"].set_index(["variant", "published_measure"])
    throughput = rows.loc[("directer", "throughput, relative to zero-shot")]
    assert throughput["published"] == -16 and throughput["ours"] == pytest.approx(-20) and throughput["unit"] == "%"
    assert rows.loc[("directer", "latency per token, relative to zero-shot"), "ours"] == pytest.approx(30)
    first = rows.loc[("directer", "time to first token")]
    assert first["published"] == 1.16 and first["ours"] == pytest.approx(0.05) and first["unit"] == "s"
    assert table.loc[table["part"] == "main", "ours"].isna().all()  # nothing of ours to put there


def directer_published_variants() -> set[str]:
    table = published("directer_ablation")
    return set(table[table["experiment"] == "layer ranking"]["variant"])


def test_cost_is_measured_in_turns(study: directer.Result, model: Any) -> None:
    table = study.tables["cost"].set_index("method")
    assert list(table.index) == ["zero-shot", "directer", "spotlight", "guide"]
    for column in ("first_token_ms", "token_ms", "tokens_per_second"):
        assert table[column].notna().all() and table.loc["zero-shot", f"{column}_times"] == 1
    assert (table[["first_token_ms", "tokens_per_second"]] > 0).all(axis=None)  # what two more tokens take is noise
    assert (table["peak_mb"] > 0).all() and (table["tokens"] == 3).all()
    prompts = limited(KINDS, notes=24, n=1).prompts(model)
    assert (table["prompt_tokens"] == len(prompts[0])).all()


def test_peak_is_what_is_held_at_once() -> None:
    def run() -> None:
        for _ in range(3):
            x = torch.zeros(10**6)
            x = x + 1  # two of 4 MB at once
            del x

    assert 8 <= peak(run, torch.device("cpu")) < 9


def test_the_figures_come_from_the_tables(study: directer.Result, tmp_path: Path) -> None:
    shutil.copytree(study.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cells"))
    drawn = directer_figures.draw({name: read_table(tmp_path / "copy" / f"{name}.parquet") for name in study.tables})
    names = {"methods", "over_steering", "ablation", "sweeps", "gate", "tokens", "cost", "heads"}
    assert set(drawn) == names == set(study.figures())
    bars = drawn["tokens"].axes[0].containers[0]  # settled without a trial
    expected = study.tables["trace"].query("outcome == 'skipped' and run.str.startswith('beta')")["share_percent"]
    assert [bar.get_width() for bar in bars][: len(expected)] == pytest.approx(expected.tolist())
    line = drawn["over_steering"].axes[1].lines[0]
    assert list(line.get_ydata()) == study.tables["strengths"]["fidelity_percent"].tolist()[:-1]
    ranking, profiled = study.tables["heads"], study.tables["profiled"].query("heads > 0")
    cells = ranking.sort_values(["layer", "head"])["average_percent"]
    assert drawn["heads"].axes[0].images[0].get_array().ravel().tolist() == cells.tolist()
    line = drawn["heads"].axes[1].lines[0]
    assert dict(zip(*line.get_data(), strict=True)) == profiled.set_index("heads")["adherence_percent"].to_dict()
    (tmp_path / "copy" / "gate.parquet").unlink()
    with pytest.raises(ERROR, match="gate"):
        redraw(STUDIES["directer"], tmp_path / "copy")


def test_a_cell_is_computed_once(study: directer.Result, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(Bench(model, study.folder, 8, _Silent()), KINDS, 24, 1, 1)
    expected = study.tables["strengths"]["adherence_percent"].iloc[-1]

    def refuse(*a: Any, **k: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(directer_cells, "generate", refuse)
    assert means(setup.samples(Way(strategy=ms.Directer())))["adherence_percent"] == expected
    for way in (Way(strategy=ms.Directer(), elsewhere=7), Way(strategy=ms.Gated([ms.pasta(alpha=0.4)]))):
        with pytest.raises(AssertionError):
            setup.samples(way)


class _Silent:
    def update(self) -> None:
        pass


def test_what_was_run_is_written_down(study: directer.Result) -> None:
    about = read_json(study.folder / "study.json")
    assert (about["study"], about["notes"], about["n"], about["kinds"]) == ("directer", 24, 1, list(KINDS))
    for name, table in study.tables.items():
        assert len(read_table(study.folder / f"{name}.parquet")) == len(table)
        assert (table["model_name"] == "organism:instruct-llama").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["uper"]}, "upper"),
        ({"kinds": "uper"}, "Did you mean 'upper'"),
        ({"notes": "24"}, "notes must be an integer"),
        ({"n": 0}, "n must be"),
        ({"n_validation": 0}, "n_validation must be"),
        ({"notes": -1}, "notes must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_arguments(model: Any, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with unchecked(), pytest.raises(ERROR, match=message):
        directer.run(model, tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_an_encoder_decoder_is_refused(tiny: Callable, tmp_path: Path) -> None:
    with pytest.raises(ERROR, match="decoder-only"):
        directer.run(tiny("t5"), tmp_path)


def test_the_command_prints_it(
    study: directer.Result, model: Any, mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **k: model)
    monkeypatch.setattr(directer, "run", lambda *a, **k: study)
    code, printed, _ = mechsteer("reproduce", "directer", "--out", tmp_path)
    assert code == 0
    for heading in ("DIRECTER and others on organism:instruct-llama", "One prompt at a time", "Published, on"):
        assert heading in printed
    for value in study.summary["adherence_percent"].dropna():
        assert f"{value:.2f}" in printed


def test_the_ablation_has_room_in_one_column_with_large_letters(tmp_path: Path) -> None:
    names = ["zero-shot", "directer", "reversed ranking", "random layers", "random tokens"]
    columns = [f"{name}{end}" for name in ("adherence_percent", "fidelity_percent") for end in ("", "_low", "_high")]
    table = pd.DataFrame({"variant": names, "seeds": 2, "n": 9, **dict.fromkeys(columns, 50.0)})
    rankings = pd.DataFrame({"aggregate": "released", "layer": range(4), "mean_rank": [1.0, 2.0, 3.0, 4.0]})
    (tmp_path / "big.mplstyle").write_text("font.size: 11\nlegend.fontsize: 11\naxes.titlesize: 12\n")
    with ms.plots.paper(3.3, formats=["png"], style=tmp_path / "big.mplstyle"), ms.plots.style():
        made = ablation(table, rankings)
        ms.plots.save(made, tmp_path / "f")
    assert all(axes.get_position().width > 0.4 for axes in made.axes)
