"""The study of composition: its cells are the task's, gains and interference by hand, order, and what it refuses."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer import cli
from mechsteer.analysis.features import instruction_features
from mechsteer.files import read_json, read_table
from mechsteer.steering import features, load_sae
from mechsteer.studies.compose import methods as compose_methods
from mechsteer.studies.compose import study as compose
from mechsteer.studies.compose import tables as compose_parts
from mechsteer.studies.compose.controls import MOST, matched, stronger
from mechsteer.studies.compose.interference import (
    first_logits,
    interference_of,
    order_difference,
    overlap,
    with_interval,
)
from mechsteer.studies.compose.methods import METHODS, Lesson, Point, Ways, by_kind, gradients, lesson, together, ways
from mechsteer.studies.compose.tables import PAIRS, beside_half, gain, halfway, matrix, settings, summary, top_of
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.core.result import redraw
from mechsteer.studies.directer import bench as directer_cells
from mechsteer.studies.directer.bench import Setup, Way
from mechsteer.studies.registry import STUDIES
from mechsteer.tasks import Instructions
from tests.typecheck import unchecked

KINDS = ("json", "french")
ERROR = ms.MechsteerError
SITE = "blocks.3.hook_resid_post"
FEWER = {
    "means": (0.3, 1.0),
    "gradient": (0.1, 0.5),
    "sparse": (0.5, 1.0),
    "guide": (1.0, 3.0),
    "directer": (0.9, 0.1),
    "features": (0.3, 1.0),
}


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


class _Silent:
    def update(self) -> None:
        pass


def small(kinds: Any = None, **options: Any) -> Instructions:
    """The task with short answers."""
    return replace(ms.tasks.instructions(kinds, **options), max_new_tokens=10)


@pytest.fixture(scope="module")
def patched() -> Any:
    """Fewer strengths and layers, short answers, and four prompts of each kind to learn from."""
    few = lambda task, first: replace(task, samples=task.samples[first : first + 4])  # noqa: E731
    sparse = compose_methods.sparse_direction
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directer_cells, "instructions", small)
        patch.setattr(compose_methods, "_later", few)
        patch.setattr(compose_methods, "SPARSE_LAYERS", (1,))
        patch.setattr(compose_methods, "sparse_direction", lambda *a, **k: sparse(*a, **k, max_steps=3, validation=0.0))
        patch.setattr(compose_methods, "vector_layers", lambda model: [1, 3])
        patch.setattr(compose_methods, "METHODS", FEWER)
        patch.setattr(compose_parts, "METHODS", FEWER)
        yield


@pytest.fixture(scope="module")
def study(patched: Any, model: Any, tmp_path_factory: pytest.TempPathFactory) -> compose.Result:
    folder = tmp_path_factory.mktemp("compose")
    with unchecked():
        return compose.run(model, folder, kinds=KINDS, n=1, n_validation=1, draw=False, progress=False)


@pytest.fixture(scope="module")
def work(study: compose.Result, model: Any) -> Setup:
    return Setup(Bench(model, study.folder, 8, _Silent()), KINDS, 24, 1, 1)


@pytest.fixture(scope="module")
def made(work: Setup) -> Ways:
    """The six ways, with vectors from the study's folder."""

    def refuse(*a: Any, **k: Any) -> None:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch, unchecked():
        for name in ("differences_in_means", "gradient_direction", "sparse_direction"):
            patch.setattr(compose_methods, name, refuse)
        return ways(work, load_sae("organism:instruct-llama"))


@pytest.fixture(scope="module")
def lessons(work: Setup) -> dict[str, Lesson]:
    """What each kind is learned from."""
    return {kind: lesson(work, kind) for kind in KINDS}


# ------------------------------------------------------------------------------------------------ by hand


def test_gain_and_excess_by_hand() -> None:
    columns = [[0, 0, 0, 0, 1], [1, 0, 0, 0, 1], [0, 1, 1, 0, 1], [1, 1, 1, 0, 1]]
    found = gain(torch.tensor(columns, dtype=torch.float64).T)
    assert found["pair_percent"] == pytest.approx(80) and found["better_percent"] == pytest.approx(60)
    assert found["gain_pp"] == pytest.approx(20) and found["excess_pp"] == pytest.approx(0)
    assert found["gain_low_pp"] <= 20 <= found["gain_high_pp"] and found["gain_verdict"] == "not told apart"
    assert found["excess_low_pp"] == found["excess_high_pp"] == pytest.approx(0)  # nothing in any prompt
    zero, one = [0.0] * 8, [1.0] * 8
    assert gain(torch.tensor([zero, zero, zero, one]).double().T)["gain_verdict"] == "above"
    lost = gain(torch.tensor([zero, one, one, zero]).double().T)
    assert (lost["gain_pp"], lost["excess_pp"]) == (pytest.approx(-100), pytest.approx(-200))
    assert lost["gain_verdict"] == lost["excess_verdict"] == "below"


def test_the_better_of_two_is_chosen_in_each_resample() -> None:
    halves = torch.tensor([[0.0, 1.0, 0.0, 0.5]] * 10 + [[0.0, 0.0, 1.0, 0.5]] * 10).double()
    found = gain(halves)
    assert found["gain_pp"] == pytest.approx(0)
    assert found["gain_high_pp"] <= 1e-9 and found["gain_low_pp"] < -5  # 50 % against the larger share, never above 0


def test_interference_by_hand() -> None:
    a, b = (
        torch.tensor([[3.0, 0, 0], [3, 0, 0], [0, 0, 0], [0, 3, 0]]),
        torch.tensor([[0, 4.0, 0], [3, 0, 0]] + [[0.0] * 3] * 2),
    )
    both = torch.tensor([[3.0, 4, 7], [3, 0, 0], [5, 0, 0], [0, 3, 4]])
    values = interference_of(a, b, both)
    assert values[:2].tolist() == [1.0, 0.5]  # |(0, 0, 7)| / (3 + 4); A again
    assert values[2].isnan() and values[3] == pytest.approx(4 / 3)
    assert interference_of(a, b, a + b)[[0, 1, 3]].tolist() == [0, 0, 0]
    assert overlap(a, b)[:2].tolist() == [0.0, 1.0] and overlap(a, b)[2:].isnan().all()
    assert order_difference(a, b, both, both + torch.tensor([0, 0, 3.5]))[0] == pytest.approx(0.5)
    row = with_interval("x", torch.tensor([1.0, torch.nan, 3.0]))
    assert row["x"] == 2 and row["x_low"] == 1 and row["x_high"] == 3
    assert torch.tensor(list(with_interval("x", torch.full((2,), torch.nan)).values())).isnan().all()


def test_what_is_chosen_by_hand() -> None:
    rows = [{"average_percent": a, "adherence_percent": b} for a, b in ((50, 20), (70, 45), (80, 70), (80, 90))]
    assert top_of(rows) is rows[2]
    assert halfway(rows[:2], 20, 70) is rows[1] and halfway(rows[:2], 10, 40) is rows[0]


def test_the_matrix_is_symmetric_and_has_singles_on_its_diagonal() -> None:
    rows = [("", "", 9.0), ("means", "", 1.0), ("means", "guide", 2.0)]
    found = matrix(pd.DataFrame(rows, columns=["first", "second", "x"]), "x")
    assert list(found) == list(found.index) == list(METHODS)
    assert found.loc["means", "means"] == 1 and found.equals(found.T) and found.loc["means", "guide"] == 2
    assert found.notna().to_numpy().sum() == 3


def test_both_ways_together_in_order(model: Any) -> None:
    first, second = (ms.add(ms.random_direction(model, layer=2, seed=seed), 1.0) for seed in (0, 1))
    gate = ms.Directer()
    assert together(Way(first), Way(second)).steer.edits == first.edits + second.edits  # pyright: ignore
    mixed = together(Way(strategy=gate), Way(second))
    assert mixed.strategy is gate and mixed.steer is not None and mixed.steer.edits == second.edits
    assert together(Way(), Way()).steer is None
    with pytest.raises(ERROR, match="Two strategies"):
        together(Way(strategy=gate), Way(strategy=gate))


@pytest.mark.parametrize("steered", [False, True])
def test_first_logits_are_the_models_centred(model: Any, steered: bool) -> None:
    prompts = ms.tasks.instructions("json", notes=3, n=5).prompts(model)
    steer = ms.add(ms.random_direction(model, layer=2, seed=0), 8.0) if steered else None
    found = first_logits(model, prompts, Way(steer), batch_size=2)
    for row, p in zip(found, prompts, strict=True):
        hooks = [] if steer is None else steer.hooks(p)
        with torch.no_grad():
            logits = model.run_with_hooks(p.tokens[None], fwd_hooks=hooks)[0, -1]
        assert torch.allclose(row, logits - logits.mean(), atol=1e-4)


def test_first_logits_under_the_gate_choose_its_token(model: Any) -> None:
    prompts = ms.tasks.instructions(KINDS, notes=24, n=4).prompts(model)
    steer = ms.add(ms.random_direction(model, layer=2, seed=0), 3.0)
    way = Way(steer, ms.Directer(beta=0.1))
    made = ms.generate(model, prompts, steer=steer, strategy=way.strategy, max_new_tokens=1)
    accepted = torch.tensor(made.trace["accepted"].tolist()) > 0
    assert accepted.any() and not accepted.all()
    found, plain = (first_logits(model, prompts, w, batch_size=3) for w in (way, Way(steer)))
    assert found.argmax(-1).equal(made.tokens[:, 0])
    changed = (found - plain).norm(dim=-1) > 1e-3
    assert changed.equal(accepted)
    with pytest.raises(ERROR, match="greedy and gated"):
        first_logits(model, prompts, Way(strategy=ms.DoLa()), batch_size=3)


# ------------------------------------------------------------------------------------------------ the study


def test_every_pair_is_there(study: compose.Result) -> None:
    assert len(PAIRS) == 15 and len(study.summary) == 1 + 2 * (6 + 15)
    for name, table in study.tables.items():
        assert len(read_table(study.folder / f"{name}.parquet")) == len(table)
        assert (table["model_name"] == "organism:instruct-llama").all()
    assert len(study.tables["gains"]) == 2 * 15 * 3 and len(study.tables["interference"]) == 2 * 15
    about = read_json(study.folder / "study.json")
    assert (about["study"], about["kinds"], about["sae_site"]) == ("compose", list(KINDS), SITE)


def row_of(study: compose.Result, first: str, second: str) -> Any:
    table = study.summary
    (row,) = table[(table["setting"] == "chosen") & (table["first"] == first) & (table["second"] == second)].to_dict(
        "records"
    )
    return row


def test_pairs_are_both_at_their_chosen_strengths(study: compose.Result, model: Any) -> None:
    task = small(KINDS, notes=24, n=1)
    row = row_of(study, "guide", "directer")
    strategy = ms.Directer(beta=row["second_strength"])
    scored = ms.evaluate(model, task, steer=ms.attention_bias(delta=row["first_strength"]), strategy=strategy)
    assert row["fidelity_percent"] == pytest.approx(100 * scored["fidelity"].mean())
    assert row["adherence_percent"] == pytest.approx(100 * scored["adherence"].mean())
    choice = study.tables["choice"].query("stage == 'strength' and chosen").set_index("method")
    assert row["first_strength"] == choice.loc["guide", "strength"]
    (start,) = study.summary.query("first == ''").to_dict("records")
    assert start["fidelity_percent"] == pytest.approx(100 * ms.evaluate(model, task)["fidelity"].mean())


def test_a_vector_and_features_by_hand(study: compose.Result, model: Any, lessons: dict[str, Lesson]) -> None:
    task = small(KINDS, notes=24, n=1)
    points, sae = settings(study.tables["choice"])["chosen"], load_sae("organism:instruct-llama")
    steer = ms.Intervention(())
    edits = ms.Intervention(())
    for row, kind in enumerate(KINDS):
        pairs = list(zip(lessons[kind].instructed, lessons[kind].bare, strict=True))
        d = ms.difference_in_means(model, pairs, layer=points["means"].layer)
        steer += ms.add(d, points["means"].strength * d.norm, scope="last_prompt", rows=[row])
        top = instruction_features(model, sae, pairs, top=10).to_dict("records")
        sets = {r["feature"]: ("set", r["mean_with"]) for r in top}
        edits += features(sae, sets, strength=points["features"].strength, scope="last_prompt", rows=[row])
    scored = ms.evaluate(model, task, steer=steer + edits)
    row = row_of(study, "means", "features")
    assert row["adherence_percent"] == pytest.approx(100 * scored["adherence"].mean())
    assert row["fidelity_percent"] == pytest.approx(100 * scored["fidelity"].mean())
    apart = study.tables["interference"].query("setting == 'chosen' and first == 'means' and second == 'features'")
    logits = [
        first_logits(model, task.prompts(model), Way(s), batch_size=8) for s in (None, steer, edits, steer + edits)
    ]
    a, b, both = (x - logits[0] for x in logits[1:])
    by_hand = ((both - a - b).norm(dim=1) / (a.norm(dim=1) + b.norm(dim=1))).mean()
    assert apart["interference"].iloc[0] == pytest.approx(float(by_hand), abs=1e-4)


def test_gains_are_of_the_same_cells(study: compose.Result) -> None:
    gains = study.tables["gains"].query("setting == 'chosen' and measure == 'fidelity'")
    (start,) = study.summary.query("first == ''")["fidelity_percent"]
    for item in gains.to_dict("records"):
        alone = [row_of(study, item[key], "")["fidelity_percent"] for key in ("first", "second")]
        pair = row_of(study, item["first"], item["second"])["fidelity_percent"]
        assert item["gain_pp"] == pytest.approx(pair - max(alone))
        assert item["excess_pp"] == pytest.approx(pair - sum(alone) + start)


def test_half_strengths_are_weaker(study: compose.Result) -> None:
    choice = study.tables["choice"].query("stage == 'strength'")
    for method, part in choice.groupby("method"):
        places = {name: FEWER[str(method)].index(part[part[name]]["strength"].item()) for name in ("chosen", "half")}
        assert places["half"] < places["chosen"] or places["chosen"] == 0
    layers = study.tables["choice"].query("stage == 'layer' and chosen").set_index("method")["layer"]
    strengths = choice[choice["chosen"]].set_index("method")["layer"]
    assert all(strengths[method] == layers[method] for method in ("means", "gradient", "sparse"))
    assert (strengths[["guide", "directer", "features"]] == -1).all()


def test_order_matters_for_set_and_not_for_add(study: compose.Result) -> None:
    table = study.tables["orders"]
    apart = table.groupby("operation")["logit_difference"].mean()
    assert apart["add"] < 1e-4 < 1e-2 < apart["set"]
    added = table[table["operation"] == "add"]
    assert (added["vector_first_percent"] == added["features_first_percent"]).all()


def test_it_learns_from_other_prompts_than_it_chooses_on(lessons: dict[str, Lesson], model: Any) -> None:
    told = lessons["json"]
    learned = {p.text for p in [*told.instructed, *told.noted]}
    others = {
        p.text
        for split in ("validation", "evaluation")
        for notes in (0, 24)
        for p in ms.tasks.instructions("json", notes=notes, n=1, split=split).prompts(model)
    }
    assert learned and not learned & others
    assert all(answer.startswith("{") for answer in told.answers) and not any(a.startswith("{") for a in told.plain)


def test_gradients_are_of_the_answers_own_first_tokens(work: Setup, lessons: dict[str, Lesson], model: Any) -> None:
    told = lessons["french"]
    d = gradients(work, told, "french", [1])[1]
    vector = torch.zeros(128)
    for p, answer, plain in zip(told.noted, told.answers, told.plain, strict=True):
        one, two = (model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (answer, plain))
        zero = torch.zeros(1, 1, 128, requires_grad=True)
        hook = lambda x, hook, z=zero: torch.cat([x[:, :-1], x[:, -1:] + z], 1)  # noqa: E731
        logits = model.run_with_hooks(p.tokens[None], fwd_hooks=[("blocks.1.hook_resid_post", hook)])[0, -1]
        vector += torch.autograd.grad(logits[one] - logits[two], zero)[0][0, 0] / len(told.noted)
    assert torch.allclose(d.vector, vector, atol=1e-5)
    same = replace(told, plain=told.answers)
    with pytest.raises(ERROR, match="begin with the same token"):
        gradients(work, same, "french", [1])


def test_vectors_act_on_the_prompts_of_their_kind(made: Ways) -> None:
    task = ms.tasks.instructions(KINDS, notes=4, n=3)
    for method in ("means", "gradient", "sparse", "features"):
        steer = made.make(method, Point(0.5, 1), task).steer
        assert steer is not None
        assert [edit.scope.rows for edit in steer.edits] == [(0, 1, 2), (3, 4, 5)]
        assert {edit.scope.where for edit in steer.edits} == {"last_prompt"}
    steer = by_kind(task, lambda kind, rows: ms.attention_bias(delta=float(len(kind)), rows=rows))
    assert [edit.strength for edit in steer.edits] == [4.0, 6.0]


def test_answers_stand_side_by_side_on_the_page(
    study: compose.Result, work: Setup, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, summary = study.tables["samples"], study.summary
    means = samples.groupby("name", sort=False)["adherence"].mean() * 100
    assert next(iter(means)) == pytest.approx(summary["adherence_percent"].iloc[0])
    for setting in ("chosen", "half"):
        pairs = summary[(summary["setting"] == setting) & (summary["second"] != "")]
        top = pairs.loc[pairs["average_percent"].idxmax()]
        name = f"{top['first']} + {top['second']}, {setting} strengths"
        assert means[name] == pytest.approx(top["adherence_percent"])
    task = work.task()
    plain = ms.generate(model, task.prompts(model), max_new_tokens=task.max_new_tokens)
    assert samples[samples["name"] == "unsteered"]["output"].tolist() == plain.texts
    monkeypatch.setattr(ms.plots, "paper", partial(ms.plots.paper, formats=["png"]))  # which the page shows
    text = study.to_html(study.folder / "again.html").read_text(encoding="utf-8")
    assert "Answers side by side" in text and name in text.replace("&#x27;", "'")


def test_a_cell_is_computed_once(
    study: compose.Result, work: Setup, made: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*a: Any, **k: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(directer_cells, "generate", refuse)
    strengths = settings(study.tables["choice"])
    again = summary(work, made, strengths)
    pd.testing.assert_frame_equal(again, study.summary[list(again)])
    with pytest.raises(AssertionError):
        summary(work, made, {"chosen": strengths["chosen"] | {"guide": Point(1.75)}})


def test_the_figures_come_from_the_tables(study: compose.Result, tmp_path: Path) -> None:
    shutil.copytree(study.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cells"))
    drawn = study.figures()
    assert set(drawn) == {"pairs", "gains"}
    axes = drawn["pairs"].axes
    assert len(axes) == 6
    expected = [
        f"{value:.0f}"
        for value in matrix(study.summary.query("setting == 'half'"), "fidelity_percent").to_numpy().flatten()
    ]
    assert [text.get_text() for text in axes[4].texts] == expected
    assert len(axes[2].texts) == 30  # no interference of one alone
    dots = drawn["gains"].axes[1].lines[0]
    part = study.tables["gains"].query("setting == 'chosen' and measure == 'fidelity'")
    assert [float(x) for x in dots.get_xdata()] == part["gain_pp"].tolist()  # pyright: ignore[reportGeneralTypeIssues]
    (tmp_path / "copy" / "gains.parquet").unlink()
    with pytest.raises(ERROR, match="gains"):
        redraw(STUDIES["compose"], tmp_path / "copy")


def test_the_command_prints_the_pairs(
    study: compose.Result,
    model: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **k: model)
    monkeypatch.setattr(compose, "run", lambda *a, **k: study)
    cli.main(["reproduce", "compose", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for heading in ("on the diagonal one way alone", "Interference, half strengths", "Order at the SAE's hook point"):
        assert heading in printed
    for value in study.summary.query("setting == 'chosen'")["adherence_percent"]:
        assert f"{value:.1f}" in printed
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "guide", "--sae", "x", "--out", str(tmp_path)])
    assert "--sae is for compose, not guide" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["uper"]}, "upper"),
        ({"kinds": "keyword"}, "a word of its own"),
        ({"n_validation": 28}, "n_validation must be at most"),
        ({"kinds": ["json", "keyword"]}, "a word of its own"),
        ({"n": 0}, "n must be"),
        ({"n_validation": 0}, "n_validation must be"),
        ({"notes": -1}, "notes must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"sae": "organism:trap-t5"}, "trained on 'organism:trap-t5'"),
        ({"sae": 3}, "An SAE is one of SAELens"),
    ],
)
def test_bad_arguments(model: Any, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ERROR, match=message):
        compose.run(model, tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_models_that_do_not_fit_are_refused(tiny: Callable, tmp_path: Path) -> None:
    with pytest.raises(ERROR, match="decoder-only"):
        compose.run(tiny("t5"), tmp_path)
    with pytest.raises(ERROR, match="needs an SAE of"):
        compose.run(tiny("llama-gqa"), tmp_path)


def test_a_kind_that_is_never_followed_cannot_be_learned(work: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose_methods, "follows", lambda sample, output: False)
    with pytest.raises(ERROR, match="follows 'json' on 0 of 4"):
        lesson(work, "json")


# ------------------------------------------------------------------------------------------------ at the same dose


def test_pairs_beside_the_better_single_at_the_same_dose(study: compose.Result) -> None:
    table = study.tables["controls"]
    assert table.groupby("control").size().to_dict() == dict.fromkeys(("twice the dose", "equal divergence"), 45)
    half = settings(study.tables["choice"])["half"]
    doubled = table[table["control"] == "twice the dose"]
    for row in doubled.to_dict("records"):
        point = half[row["single"]]
        assert row["strength"] == stronger(row["single"], point, 2.0).strength and row["single"] in (
            row["first"],
            row["second"],
        )
        assert row["difference_pp"] == pytest.approx(row["pair_percent"] - row["single_percent"])
    assert (table["p_adjusted"] >= table["p_by_topic"]).all() and set(table["verdict"]) == {"not told apart"}
    both = study.summary.query("setting == 'half'").set_index(["first", "second"])["fidelity_percent"]
    for row in doubled.query("measure == 'fidelity'").to_dict("records"):
        assert row["pair_percent"] == pytest.approx(both[row["first"], row["second"]])


def test_twice_the_dose_of_a_gate_is_half_the_beta() -> None:
    assert stronger("guide", Point(1.5), 2.0).strength == 3
    assert stronger("directer", Point(0.5), 2.0).strength == 0.25
    assert stronger("means", Point(0.3, 2), 2.0) == Point(0.6, 2)


@pytest.mark.parametrize(("target", "factor"), [(2.0, 2.0), (0.5, 0.5), (100.0, MOST), (9.0, 9.0)])
def test_a_factor_with_the_wanted_divergence(target: float, factor: float) -> None:
    assert matched(lambda times: times, target) == pytest.approx(factor, rel=0.05)


def test_interference_beside_one_half() -> None:
    assert beside_half(0.1, 0.4) == "adds" and beside_half(0.6, 0.9) == "is in the way"
    assert beside_half(0.4, 0.6).startswith("not told apart") and beside_half(float("nan"), 0.0) == ""
