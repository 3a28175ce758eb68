"""The study of instruction vectors: its cells against direct evaluation, refusals, continuing, figures."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from pandas.testing import assert_frame_equal
from tqdm import tqdm

import mechsteer as ms
from mechsteer.analysis.mcnemar import exact_p
from mechsteer.directions import differences_in_means
from mechsteer.files import read_json, read_table
from mechsteer.models import model_info
from mechsteer.models.averaging import average
from mechsteer.stats import cluster_interval, holm, paired_interval, share_interval
from mechsteer.studies.core import cells
from mechsteer.studies.core.result import redraw
from mechsteer.studies.instruction_vectors import bench as steer_instruct_cells
from mechsteer.studies.instruction_vectors import coefficients as steer_instruct_weights
from mechsteer.studies.instruction_vectors import figures as steer_instruct_figures
from mechsteer.studies.instruction_vectors import lengths as steer_instruct_lengths
from mechsteer.studies.instruction_vectors import study as steer_instruct
from mechsteer.studies.instruction_vectors import transfer as steer_instruct_transfer
from mechsteer.studies.instruction_vectors import vectors as steer_instruct_vectors
from mechsteer.studies.instruction_vectors import words as steer_instruct_words
from mechsteer.studies.instruction_vectors.bench import Bench, Prompts
from mechsteer.studies.instruction_vectors.choose import Choice, grid, strongest
from mechsteer.studies.instruction_vectors.lengths import LIMITS, Limit
from mechsteer.studies.instruction_vectors.tables import summarise
from mechsteer.studies.instruction_vectors.vectors import Steering, excluded, to_exclude
from mechsteer.studies.instruction_vectors.words import by_coefficient, words
from mechsteer.studies.registry import STUDIES
from mechsteer.tasks import Instructions
from tests.command_line import CommandLine
from tests.typecheck import unchecked

SMALL: dict[str, Any] = {
    "kinds": ["upper", "json", "length"],
    "n": 3,
    "n_validation": 2,
    "notes": 0,
    "shares": [0.5],
    "draw": False,
    "progress": False,
}
BOTH = ["adherence_percent", "fidelity_percent"]
SHORT = (Limit("at most", "words", 9), *(Limit(c, "sentences", n) for c in ("at most", "exactly") for n in (1, 3)))


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


@pytest.fixture(scope="module", autouse=True)
def fewer_cells() -> Iterator[None]:
    """Two of the three layers, few coefficients, one format in the base model; figures are drawn by their own test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steer_instruct, "grid", lambda layers: grid(layers)[::2])
        patch.setattr(steer_instruct_transfer, "FORMATS", ("upper",))
        patch.setattr(steer_instruct_weights, "CONSTANTS", (0.65, 1.5))
        patch.setattr(steer_instruct_weights, "LENGTHS", (1.0, 1.5))
        patch.setattr(steer_instruct_weights, "SENTENCES", (1, 3))
        patch.setattr(steer_instruct_lengths, "LENGTHS", (1.0,))
        patch.setattr(steer_instruct_lengths, "LIMITS", SHORT)
        patch.setattr(steer_instruct_words, "EXCLUDED", (4.0,))
        patch.setattr(steer_instruct_transfer, "LENGTHS", (1.0, 1.5))
        patch.setitem(steer_instruct_vectors.STEPS, "length", (1.0,))
        patch.setitem(steer_instruct_vectors.STEPS, "keyword", (3.0,))
        yield


@pytest.fixture(scope="module")
def study(model: Any, tmp_path_factory: pytest.TempPathFactory) -> steer_instruct.Result:
    with unchecked():
        return steer_instruct.run(model, tmp_path_factory.mktemp("steer-instruct"), **SMALL)


def direction(model: Any, kind: str, layer: int) -> ms.Direction:
    """The vector as a reader would make it: from the validation prompts that do not choose the layer."""
    task = ms.tasks.instructions(kind, split="validation")
    task = replace(task, samples=task.samples[2:])
    both = (task.prompts(model, with_instruction=wanted) for wanted in (True, False))
    return differences_in_means(model, list(zip(*both, strict=True)), layers=[int(layer)])[layer]


def row_of(table: pd.DataFrame, **where: Any) -> pd.Series:
    for name, value in where.items():
        table = table[table[name] == value]
    (row,) = (row for _, row in table.iterrows())
    return row


def scores(table: pd.DataFrame) -> list[float]:
    return [pytest.approx(100 * table["adherence"].mean()), pytest.approx(100 * table["fidelity"].mean())]


def test_the_main_cells_are_direct_evaluations(study: steer_instruct.Result, model: Any) -> None:
    task = ms.tasks.instructions("upper", with_instruction=False, n=3)
    row = row_of(study.tables["by_kind"], kind="upper", setting="without instruction")
    assert row["layer"] == 5 and row["method"] == "project"
    plain, steered = (ms.evaluate(model, task, steer=s) for s in (None, ms.project(direction(model, "upper", 5))))
    assert [row["adherence_unsteered_percent"], row["fidelity_unsteered_percent"]] == scores(plain)
    assert [row["adherence_steered_percent"], row["fidelity_steered_percent"]] == scores(steered)
    assert (row["gained"], row["lost"], row["p_value"], row["n"]) == (3, 0, 0.25, 3)
    kept = study.tables["samples"]
    kept = kept[(kept["setting"] == "without instruction") & (kept["row"] == "steered") & (kept["kind"] == "upper")]
    assert kept["output"].tolist() == steered["output"].tolist()


def test_layers_are_chosen_on_validation_prompts_and_bad_ones_fail(study: steer_instruct.Result, model: Any) -> None:
    layers = study.tables["layers"]
    task = ms.tasks.instructions("json", with_instruction=False, split="validation", n=2)
    there = ms.evaluate(model, task, steer=ms.project(direction(model, "json", 5)))
    row = row_of(layers, kind="json", setting="without instruction", layer=5)
    assert row[BOTH].tolist() == scores(there)
    assert row["bad_percent"] == 100 and row["compared"] == 0  # an object opened for ever
    assert row_of(study.tables["by_kind"], kind="json", setting="without instruction")["layer"] == -1
    assert layers.groupby(["setting", "kind"])["chosen"].sum().eq(1).all()
    assert sorted(layers["layer"].unique()) == [-1, 1, 5]


def test_the_scope_decides_for_json(study: steer_instruct.Result, model: Any) -> None:
    task = ms.tasks.instructions("json", with_instruction=False, n=3)
    row = row_of(study.tables["scopes"], kind="json", scope="last_prompt")
    steer = ms.project(direction(model, "json", row["layer"]), scope="last_prompt")
    assert row[BOTH].tolist() == scores(ms.evaluate(model, task, steer=steer)) == [100, 100]
    assert row_of(study.tables["scopes"], kind="json", scope="all")["layer"] == -1


def test_means_over_kinds_and_the_test_over_all_samples(study: steer_instruct.Result) -> None:
    table = study.tables["by_kind"]
    table = table[table["setting"] == "without instruction"]
    everything = row_of(study.summary, setting="without instruction", over="all kinds")
    assert everything["kinds"] == 3 and everything["n"] == 9
    assert everything["adherence_steered_percent"] == pytest.approx(table["adherence_steered_percent"].mean())
    gained, lost = table["gained"].sum(), table["lost"].sum()
    assert everything["p_value"] == exact_p(int(gained), int(lost))
    steered = row_of(study.summary, setting="without instruction", over="steerable kinds")
    assert steered["kinds"] == (table["layer"] >= 0).sum() < 3
    assert steered["adherence_change_pp"] >= 20
    assert study.summary.groupby("setting")["perplexity_ratio_unsteered"].max()["with instruction"] == 1


def test_perplexity_ratios_are_of_the_instructed_answer(study: steer_instruct.Result, model: Any) -> None:
    task = ms.tasks.instructions("upper", n=3)
    samples = study.tables["samples"]
    samples = samples[samples["kind"] == "upper"].set_index(["setting", "row"])["output"]
    count = model.tokenizer

    def surprise(outputs: list[str]) -> list[float]:
        logprobs = ms.score(model, task.prompts(model), outputs).tolist()
        sizes = [len(count(text, add_special_tokens=False)["input_ids"]) for text in outputs]
        return [-p / size for p, size in zip(logprobs, sizes, strict=True)]

    own = surprise(samples["with instruction", "unsteered"].tolist())
    for name in ("unsteered", "steered"):
        there = surprise(samples["without instruction", name].tolist())
        expected = pd.Series([a - b for a, b in zip(there, own, strict=True)]).mean()
        row = row_of(study.tables["by_kind"], kind="upper", setting="without instruction")
        assert row[f"perplexity_ratio_{name}"] == pytest.approx(2.718281828**expected, rel=1e-4)


def test_dynamic_and_constant_weights(study: steer_instruct.Result, model: Any) -> None:
    weights = study.tables["weights"]
    task = ms.tasks.instructions("upper", with_instruction=False, n=3)
    d = direction(model, "upper", 5)
    upper = weights[weights["kind"] == "upper"]
    dynamic, constant = (upper[upper["weight"] == name] for name in ("dynamic (project)", "constant (add)"))
    for part, steer in ((constant[constant["step"] == 0.65], ms.add(d, 0.65 * d.norm)), (dynamic, ms.project(d))):
        (row,) = (row for _, row in part.iterrows())
        there = ms.evaluate(model, task, steer=steer)
        assert row[BOTH].tolist() == scores(there)
        assert row["followed_and_true_percent"] == pytest.approx(100 * (there["adherence"] * there["fidelity"]).mean())
    ours, top = dynamic["followed_and_true_percent"].item(), constant["followed_and_true_percent"].max()
    said = "better than" if ours > top else "not better than" if ours < top else "as good as"
    assert dynamic["verdict"].item().startswith(said)
    assert weights[weights["weight"] != "dynamic (project)"]["verdict"].eq("").all()


def test_exactly_n_sentences_by_the_coefficient_that_validation_chose(study: steer_instruct.Result, model: Any) -> None:
    table = study.tables["exactly"]
    assert table["sentences"].tolist() == [1, 3]
    row = row_of(table, sentences=1)
    d = direction(model, "length", row["layer"])
    task = ms.tasks.instructions("length", with_instruction=False, n=3)
    for name, steer in (("unsteered", None), ("steered", ms.add(d, row["step"] * d.norm))):
        there = ms.evaluate(model, task, steer=steer)
        one = there["output"].str.strip(" .").str.count(r"\.").eq(0)
        assert row[f"exactly_{name}_percent"] == pytest.approx(100 * one.mean())
        assert row[f"fidelity_{name}_percent"] == pytest.approx(100 * there["fidelity"].mean())
    assert (row["step"], row["gained"], row["lost"]) == (1.0, 3, 0)
    three = row_of(table, sentences=3)  # no coefficient gives three sentences: a tie, so no steering
    assert three["layer"] == -1 and three["exactly_steered_percent"] == three["exactly_unsteered_percent"]


def test_a_limit_is_said_as_the_paper_says_it_and_counts_words_or_sentences() -> None:
    three = Limit("at most", "sentences", 3)
    assert three.said == "Answer using at most 3 sentences." and three.taught == "Answer using 3 sentences."
    assert Limit("exactly", "sentences", 1).said == "Answer using exactly 1 sentence."
    texts = ["", "One. Two.", "One. Two. Three.", "A. B. C. D."]
    assert [three.kept(text) for text in texts] == [False, True, True, False]
    assert [Limit("exactly", "sentences", 3).kept(text) for text in texts] == [False, False, True, False]
    assert [Limit("at most", "words", 2).kept(text) for text in ("", "a b", "a b c")] == [False, True, False]
    assert len(LIMITS) == 13 and len(set(LIMITS)) == 13


def test_every_length_has_a_vector_of_its_own(study: steer_instruct.Result, model: Any) -> None:
    table = study.tables["lengths"]
    assert table.groupby(["constraint", "unit", "count", "setting"])["vector"].agg(list).map(
        tuple
    ).unique().tolist() == [("none", "conciseness", "own length")]
    layer = int(row_of(study.tables["by_kind"], kind="length", setting="without instruction")["layer"])
    estimated = ms.tasks.instructions("length", split="validation").samples[2:]
    pairs = [
        tuple(ms.prompt(model, s.task, instruction=said) for said in ("Answer using 3 sentences.", None))
        for s in estimated
    ]
    own = differences_in_means(model, pairs, layers=[layer])[layer]
    told = ms.tasks.instructions("length", n=3)
    told = replace(
        told, samples=tuple(replace(s, instruction="Answer using exactly 3 sentences.") for s in told.samples)
    )
    rows = table[(table["unit"] == "sentences") & (table["constraint"] == "exactly") & (table["count"] == 3)]
    rows = rows[rows["setting"] == "with instruction"].set_index("vector")
    for name, vector in (("none", None), ("own length", own)):
        row = rows.loc[name]
        steer = None if vector is None or row["layer"] < 0 else ms.add(vector, row["step"] * vector.norm)
        there = ms.evaluate(model, told, steer=steer)
        three = [len(ms.tasks.checkers.sentences(text)) == 3 for text in there["output"]]
        assert row["adherence_percent"] == pytest.approx(100 * pd.Series(three).mean())
        assert row["fidelity_percent"] == pytest.approx(100 * there["fidelity"].mean())
        assert row["words_mean"] == pytest.approx(there["output"].str.split().str.len().mean())
    assert rows["adherence_percent_low"].lt(rows["adherence_percent_high"]).all()


def test_published_limits_of_sentences_stand_beside_ours_with_the_instruction(study: steer_instruct.Result) -> None:
    lengths, reference = study.tables["lengths"], study.tables["reference"]
    rows = reference[reference["part"] == "length"]
    assert len(rows) == 20 and rows["ours"].notna().sum() == 8  # one and three sentences here, of one to five
    ours = row_of(lengths, constraint="at most", unit="sentences", count=3, setting="with instruction",
                  vector="conciseness")["adherence_percent"]  # fmt: skip
    row = row_of(rows, variant="at most 3 sentences, steered")
    assert row["published"] == pytest.approx(86) and row["ours"] == ours
    format_rows = reference[(reference["part"] == "format") & reference["variant"].str.endswith("steered")]
    summary = study.summary[study.summary["over"] == "all kinds"].set_index("setting")
    for line in format_rows.to_dict("records"):
        setting, state = line["variant"].split(", ")
        assert line["ours"] == summary.loc[setting, f"adherence_{state}_percent"]
    change = row_of(reference, part="change", published_model="microsoft/Phi-3-mini-4k-instruct",
                    variant="steering with the instruction")  # fmt: skip
    assert change["published"] == pytest.approx(-4.1)
    assert change["ours"] == summary.loc["with instruction", "fidelity_change_pp"]
    assert set(reference["part"]) == {"format", "quality", "change", "words", "exclusion", "length", "composition",
                                      "transfer", "shortened", "cosine"}  # fmt: skip
    assert reference.loc[reference["part"] == "exclusion", "ours"].isna().all()  # the kind is not in this run
    words = row_of(reference, part="shortened", variant="base model, strongest coefficient")
    assert words["ours"] == study.tables["shortened"]["words_median"].iloc[-1] and words["published"] == 4


def test_the_tuned_models_conciseness_vector_in_the_base_model(
    study: steer_instruct.Result, model: Any, organism: Callable[[str], Any]
) -> None:
    table = study.tables["shortened"]
    assert table["step"].tolist() == [0.0, 1.0, 1.5]
    base, task = organism("instruct-llama-base"), ms.tasks.instructions("length", with_instruction=False, n=3)
    d = direction(model, "length", table["layer"].iloc[0])
    for step, steer in ((0.0, None), (1.5, ms.add(d, 1.5 * d.norm, transfer=True))):
        there = ms.evaluate(base, task, steer=steer)["output"].str.split().str.len()
        row = row_of(table, step=step)
        assert (row["words_mean"], row["words_median"]) == (pytest.approx(there.mean()), there.median())
    assert set(table["model_name"]) == {"organism:instruct-llama-base"}


def test_intervals_are_by_topic_and_choices_at_the_end_of_their_ladder_are_marked(
    study: steer_instruct.Result, model: Any
) -> None:
    kinds = study.tables["by_kind"]
    row = row_of(kinds, kind="upper", setting="without instruction")
    ends = [row[f"adherence_steered_percent{end}"] for end in ("_low", "_high")]
    assert ends == pytest.approx([100 * end for end in share_interval(3, 3)]) and not row["edge"]
    samples = study.tables["samples"]
    part = samples[(samples["setting"] == "without instruction") & (samples["row"] == "unsteered")]
    found = cluster_interval(part["adherence"].astype(float), part["topic"])
    row = row_of(study.summary, setting="without instruction", over="all kinds")
    assert [row[f"adherence_unsteered_percent{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [100 * found.mean, 100 * found.low, 100 * found.high]
    )
    assert row_of(kinds, kind="length", setting="without instruction")["edge"]  # one step alone was tried
    assert strongest([Choice(), Choice(1, 0.5), Choice(1, 2.0)], Choice(1, 2.0))
    assert not strongest([Choice(), Choice(1, 0.5), Choice(1, 2.0)], Choice(1, 0.5))
    assert not strongest([Choice(), Choice(1), Choice(5)], Choice(5))  # projections have no coefficient
    tested = kinds[kinds["layer"] >= 0]
    assert tested["p_adjusted"].tolist() == holm(tested["p_value"].tolist())
    assert kinds.loc[kinds["layer"] < 0, "p_adjusted"].isna().all()


def test_kinds_with_different_numbers_of_prompts_have_a_mean_without_an_interval() -> None:
    table = pd.DataFrame({"setting": "a", "kind": ["x", "y"], "layer": 1, "gained": 0, "lost": 0, "n": [1, 2]})
    names = [f"{m}_{s}_percent" for m in ("adherence", "fidelity") for s in ("unsteered", "steered")]
    table = table.assign(**{name: [100.0, 50.0] for name in names}, perplexity_ratio_unsteered=1.0)
    samples = pd.DataFrame({"setting": "a", "kind": ["x", "y", "y"], "topic": [0, 1, 2], "adherence": [1, 1, 0]})
    samples = pd.concat([samples.assign(row=row, fidelity=1.0) for row in ("unsteered", "steered")])
    row = summarise(table.assign(perplexity_ratio_steered=1.0), samples).iloc[0]
    assert row["adherence_steered_percent"] == 75 and pd.isna(row["adherence_steered_percent_low"])


def test_conciseness_by_coefficient(study: steer_instruct.Result, model: Any) -> None:
    task = ms.tasks.instructions("length", with_instruction=False, n=3)
    row = row_of(study.tables["length"], setting="without instruction", step=1.0)
    d = direction(model, "length", int(row["layer"]))
    there = ms.evaluate(model, task, steer=ms.add(d, d.norm))
    assert row[BOTH].tolist() == scores(there)
    assert row["words_mean"] == pytest.approx(there["output"].str.split().str.len().mean())
    unsteered = row_of(study.tables["length"], setting="without instruction", step=0.0)
    assert row["words_mean"] < unsteered["words_mean"]


def test_two_vectors_act_in_one_pass(study: steer_instruct.Result, model: Any) -> None:
    kinds = study.tables["by_kind"].set_index(["setting", "kind"])
    first, second = kinds.loc[("without instruction", "upper")], kinds.loc[("without instruction", "length")]
    d = direction(model, "length", second["layer"])
    steer = ms.project(direction(model, "upper", first["layer"])) + ms.add(d, second["step"] * d.norm)
    there = ms.evaluate(model, ms.tasks.instructions("length", with_instruction=False, n=3), steer=steer)
    case = there["output"].str.strip().str.isupper()
    row = row_of(study.tables["composition"], pair="upper + length", setting="without instruction", row="both")
    assert row["first_percent"] == pytest.approx(100 * case.mean())
    assert row["second_percent"] == pytest.approx(100 * there["adherence"].mean())
    assert row["both_percent"] == pytest.approx(100 * (case & there["adherence"]).mean())
    assert row["fidelity_percent"] == pytest.approx(100 * there["fidelity"].mean())
    followed = case & there["adherence"]
    assert row["both_and_true_percent"] == pytest.approx(100 * (followed * there["fidelity"]).mean())


def test_two_vectors_are_compared_with_the_better_one_on_the_same_prompts(study: steer_instruct.Result) -> None:
    table = study.tables["composition"].query("setting == 'without instruction'").set_index("row")
    best = table.loc[["first", "second"], "both_percent"].max()
    gain, low, high = table.loc["both", [f"beyond_single{end}_pp" for end in ("", "_low", "_high")]]
    assert gain == pytest.approx(table.loc["both", "both_percent"] - best) and low <= gain <= high and low < high
    assert table.loc[["unsteered", "first", "second"], "beyond_single_pp"].isna().all()


def test_vectors_of_the_tuned_model_in_its_base(
    study: steer_instruct.Result, model: Any, organism: Callable[[str], Any]
) -> None:
    table = study.tables["transfer"]
    base = organism("instruct-llama-base")
    task = ms.tasks.instructions("upper", n=3)
    between = average(base, model, 0.5)
    row = row_of(table, kind="upper", setting="with instruction", vector="none")
    assert row[BOTH].tolist() == scores(ms.evaluate(between, task))
    half = row_of(table, kind="upper", setting="without instruction", vector="tuned")
    own = row_of(table, kind="upper", setting="without instruction", vector="own")
    assert half["adherence_percent"] > own["adherence_percent"] == 0  # half tuned: only the tuned model's vector works
    steer = ms.project(direction(model, "upper", half["layer"]), transfer=True)
    assert half[BOTH].tolist() == scores(ms.evaluate(between, replace(task, with_instruction=False), steer=steer))
    assert half["model_fingerprint"] == model_info(between).fingerprint and half["model_name"].startswith(
        "0.5 organism"
    )
    change = (
        half["adherence_percent"] - row_of(table, kind="upper", setting="without instruction", vector="none")[BOTH[0]]
    )
    assert half["change_pp"] == pytest.approx(change) and half["change_low_pp"] < change <= half["change_high_pp"]
    assert half["beyond_own_pp"] == pytest.approx(half["adherence_percent"])
    assert table[table["vector"] != "tuned"]["beyond_own_pp"].isna().all()


def test_prompts_of_all_formats_are_pooled_and_a_topic_is_one_cluster() -> None:
    def cell(*scores: int) -> pd.DataFrame:
        rows = {"adherence": scores, "fidelity": 1.0, "bad": False, "topic": ["cat", "dog", "sun"]}
        return pd.DataFrame(rows)

    own, tuned = {"up": cell(0, 0, 1), "list": cell(1, 0, 0)}, {"up": cell(1, 1, 1), "list": cell(1, 0, 1)}
    each = [{"none": (-1, cell(0, 0, 0)), "own": (1, own[k]), "tuned": (3, tuned[k])} for k in own]
    none, mine, theirs = steer_instruct_transfer._rows(steer_instruct_transfer._pooled(each))
    assert (none["n"], none["change_pp"], none["layer"]) == (6, 0, -1)
    scores, topics = [1, 1, 1, 1, 0, 1], ["cat", "dog", "sun"] * 2
    ends = 100 * np.array(cluster_interval(scores, topics)[1:3])
    assert np.allclose([theirs["adherence_percent_low"], theirs["adherence_percent_high"]], ends)
    changes = [1, 1, 0, 0, 0, 1]
    ends = 100 * np.array(paired_interval(changes, topics)[:3])
    assert np.allclose([theirs[f"beyond_own{end}_pp"] for end in ("", "_low", "_high")], ends)
    assert "beyond_own_pp" not in mine and mine["gained"] == 2


def test_each_prompt_gets_the_vector_of_its_own_word(model: Any, tmp_path: Path) -> None:
    bench = Bench(model, tmp_path, 8, tqdm(disable=True))
    prompts = Prompts(n=3, n_validation=2)
    steering = Steering(bench, prompts, [3])
    task = prompts.tested("keyword")
    together = bench.measure(task, steering.words(Choice(3, 2.0), task))
    for place, sample in enumerate(task.samples):
        alone = replace(task, samples=(sample,))
        d = steering.word_vectors(sample.word)[3]
        assert together["output"][place] == ms.evaluate(model, alone, steer=ms.add(d, 2.0 * d.norm))["output"][0]
    edits = steering.words(Choice(3, 2.0), task, sign=-1.0).edits
    assert all(edit.strength == pytest.approx(-2 * edit.direction.norm) for edit in edits if edit.direction)
    asked = [a.text for a, _ in bench.pairs([replace(task.samples[0], word="x", instruction="Use x.")])]
    assert "Use x." in asked[0]


def test_words_in_each_setting(model: Any, tmp_path: Path) -> None:
    bench = Bench(model, tmp_path, 8, tqdm(disable=True))
    prompts = Prompts(n=2, n_validation=2, notes=0)
    steering = Steering(bench, prompts, [1])
    choices = {(setting.name, "keyword"): Choice(1, 3.0) for setting in prompts.settings}
    with unchecked():
        table, exclusion, tried = words(bench, prompts, steering, choices)
    assert list(zip(table["task"], table["setting"], table["row"], strict=True))[::2] == [
        ("inclusion", "without instruction", "unsteered"),
        ("inclusion", "with instruction", "unsteered"),
        ("exclusion", "without instruction", "unsteered"),
        ("exclusion", "with instruction", "unsteered"),
    ]
    task = prompts.tested("keyword", prompts.settings[1])
    row = row_of(table, task="inclusion", setting="with instruction", row="steered")
    assert row[BOTH].tolist() == scores(ms.evaluate(model, task, steer=steering.words(Choice(1, 3.0), task)))
    out = to_exclude(prompts.tested("keyword"))
    steer = steering.words(exclusion, out, sign=-1.0) if exclusion.steers else None
    row = row_of(table, task="exclusion", row="steered", setting="without instruction")
    assert row[BOTH].tolist() == scores(excluded(out)(ms.evaluate(model, out, steer=steer)))
    assert row["edge"] == exclusion.steers  # the only step is the strongest
    assert [r["layer"] for r in tried] == [-1, 1] * 2 and all(r["kind"] == "exclusion" for r in tried)
    told = to_exclude(prompts.tested("keyword", prompts.settings[1]), instructed=True)
    asked = told.prompts(model)[0].text
    assert f"Do not use the word {told.samples[0].word}." in asked and "Use the word" not in asked
    row = row_of(table, task="exclusion", row="unsteered", setting="with instruction")
    assert row[BOTH].tolist() == scores(excluded(told)(ms.evaluate(model, told)))
    swept = by_coefficient(bench, prompts, steering, exclusion).set_index(["setting", "step"])
    assert len(swept) == 2 * 2
    there = excluded(told)(ms.evaluate(model, told, steer=steering.words(Choice(1, 4.0), told, sign=-1.0)))
    assert swept.loc[("with instruction", 4.0), BOTH].tolist() == scores(there)
    drawn = steer_instruct_figures.words(table)
    assert [label.get_text().split(",")[0] for label in drawn.axes[0].get_xticklabels()] == list(table["task"][::2])


def test_words_to_exclude_are_in_the_plain_answer_and_scored_for_being_left_out(model: Any) -> None:
    task = to_exclude(ms.tasks.instructions("keyword", n=6))
    outputs = ms.evaluate(model, task)["output"].tolist()
    assert all(ms.tasks.checkers.mentions(o, s.word) for o, s in zip(outputs, task.samples, strict=True))
    first = replace(task, samples=task.samples[:1] * 3)
    left_out = outputs[0].split(". ", 1)[1]
    scored = excluded(first)(pd.DataFrame({"output": [outputs[0], left_out, ""]}))
    assert scored["adherence"].tolist() == [False, True, False]
    assert scored["fidelity"].tolist() == [1, 1, 0]


def test_a_finished_run_computes_nothing_again_and_files_hold_the_tables(
    study: steer_instruct.Result, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = lambda *_, **__: pytest.fail("computed again")  # noqa: E731
    monkeypatch.setattr(cells, "evaluate", again)
    for name in ("differences_in_means", "score"):
        monkeypatch.setattr(steer_instruct_cells, name, again)
    monkeypatch.setattr(steer_instruct, "similarity", again)
    with unchecked():
        rerun = steer_instruct.run(model, study.folder, **SMALL)
    for name, table in study.tables.items():
        assert_frame_equal(rerun.tables[name], table)
        assert_frame_equal(read_table(study.folder / f"{name}.parquet"), table, check_dtype=False)
        assert {"model_fingerprint", "version_mechsteer", "scope"} <= set(table.columns)
    assert read_json(study.folder / "study.json")["study"] == "steer-instruct"


def test_figures_are_drawn_from_the_tables_alone(
    study: steer_instruct.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in study.folder.glob("*.parquet"):
        shutil.copy(path, tmp_path)

    def save(figure: Any, stem: Path) -> list[Path]:
        figure.draw_without_rendering()  # a layout that fails warns here
        return [stem]

    monkeypatch.setattr(steer_instruct_figures.plots, "save", save)
    made = redraw(STUDIES["steer-instruct"], tmp_path)
    wanted = {"by_kind", "layers", "weights", "length", "lengths", "exactly", "composition", "transfer", "cosine"}
    assert {path.name for path in made} == wanted == set(study.figures())
    assert {path.parent for path in made} == {tmp_path / "figures"}


def test_bars_and_points_have_their_intervals(study: steer_instruct.Result) -> None:
    figures = study.figures()
    table = study.tables["by_kind"]
    first = table[table["setting"] == table["setting"].iloc[0]]
    bars, ends = [], first[["adherence_unsteered_percent_low", "adherence_unsteered_percent_high"]].to_numpy().tolist()
    for container in figures["by_kind"].axes[0].containers:
        if isinstance(container, ErrorbarContainer):
            (drawn,) = container.lines[2]
            bars.append([line[:, 1].tolist() for line in drawn.get_segments()])
    assert len(bars) == 2 and np.allclose(bars[0], ends)
    table = study.tables["lengths"]
    part = table[(table["setting"] == table["setting"].iloc[0]) & (table["constraint"] == table["constraint"].iloc[0])]
    part = part[(part["unit"] == table["unit"].iloc[0]) & (part["vector"] == "own length")].sort_values("count")
    container = figures["lengths"].axes[0].containers[2]
    assert container.lines[0].get_ydata().tolist() == part["adherence_percent"].tolist()  # type: ignore[union-attr]
    assert all(len(axes.collections) == 3 for axes in figures["transfer"].axes)  # a band for each vector
    (diamonds,) = (c for c in figures["composition"].axes[0].containers if "true" in str(c.get_label()))
    row = row_of(study.tables["composition"], setting="without instruction", row="both")
    ends = [row["both_and_true_percent_low"], row["both_and_true_percent_high"]]
    assert np.allclose(diamonds.lines[2][0].get_segments()[0][:, 1], ends)


def test_the_papers_numbers_stand_beside_ours_for_its_models(study: steer_instruct.Result) -> None:
    assert "published" not in study.tables
    paper = steer_instruct._published("microsoft/Phi-3-mini-4k-instruct")
    assert paper is not None
    lower = row_of(paper, kind="lower", setting="without_instruction", method="steered")
    assert lower["accuracy_percent"] == pytest.approx(77)
    whole = paper[(paper["instruction"] == "all") & (paper["method"] == "none")]
    assert sorted(whole["accuracy_percent"]) == [11.0, 69.9]
    figure = steer_instruct_figures.draw({**study.tables, "published": paper})["published"]
    heights = {round(bar.get_height()) for bar in figure.axes[0].patches}  # type: ignore[attr-defined]
    assert {0, 100} <= heights


def own(split: str, n: int = 12, **changes: Any) -> Instructions:
    """Prompts that are not the bundled ones: nothing is known about their topics."""
    task = ms.tasks.instructions("upper", split=split)
    return Instructions("mine", tuple(replace(s, topic="of my own", **changes) for s in task.samples[:n]))


def test_prompts_of_ones_own_have_no_fidelity_and_two_settings(model: Any, tmp_path: Path) -> None:
    options = {**SMALL, "kinds": "upper", "shares": [], "n": 2}
    with unchecked():
        result = steer_instruct.run(model, tmp_path, validation=own("validation"), test=own("evaluation"), **options)
    table = result.tables["by_kind"]
    assert table["setting"].tolist() == ["without instruction", "with instruction"]
    assert table["fidelity_steered_percent"].isna().all() and table["perplexity_ratio_steered"].notna().all()
    assert table["adherence_steered_percent"].tolist() == [100, 100]
    verdicts = result.tables["weights"].set_index("kind")["verdict"]
    assert verdicts["upper"].iloc[0] == "as good as the best constant, c = 0.65 norms at layer 5: 100.0 against 100.0 %"
    for figure in result.figures().values():
        figure.draw_without_rendering()


def test_prompts_that_are_equal_with_and_without_are_counted(model: Any, tmp_path: Path) -> None:
    options = {**SMALL, "kinds": ["upper"], "shares": []}
    with pytest.raises(ms.MechsteerError, match="All 10 pairs have the same prompt with and without"):
        steer_instruct.run(model, tmp_path, validation=own("validation", instruction=""), **options)


def test_splits_that_overlap_are_refused_with_the_number_of_prompts(model: Any, tmp_path: Path) -> None:
    test = ms.tasks.instructions(["upper"])
    shared = ms.tasks.instructions(["upper"], split="validation")
    validation = replace(shared, samples=(*shared.samples, *test.samples[:3]))
    with pytest.raises(ms.MechsteerError, match="3 of 28 test prompts ask"):
        steer_instruct.run(model, tmp_path / "out", validation=validation, test=test, **{**SMALL, "kinds": ["upper"]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kinds": ["uper"]}, "Did you mean 'upper'"),
        ({"n": 0}, "n must be"),
        ({"n_validation": 28}, "Too few prompts of the kind 'upper': 0 for its vector"),
        ({"scope": "everywhere"}, "Unknown scope"),
        ({"perplexity_model": "/no/such/model"}, "No such model directory: '/no/such/model'"),
        ({"shares": [1.0]}, "below 1"),
        ({"shares": 0.5}, "shares must be a list, got 0.5"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    wrong: dict[str, Any], message: str, model: Any, tmp_path: Path
) -> None:
    with unchecked(), pytest.raises(ms.MechsteerError, match=message):
        steer_instruct.run(model, tmp_path / "out", **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_are_refused(trap_t5: Any, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="decoder-only"):
        steer_instruct.run(trap_t5, tmp_path / "out", **{**SMALL, "shares": None})
    with pytest.raises(ms.MechsteerError, match="base= is missing"):
        steer_instruct.run(tiny("llama-gqa"), tmp_path / "out", **SMALL)


def test_the_command_prints_it(
    study: steer_instruct.Result, model: Any, mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **k: model)
    monkeypatch.setattr(steer_instruct, "run", lambda *a, **k: study)
    code, printed, _ = mechsteer("reproduce", "steer-instruct", "--out", tmp_path)
    assert code == 0
    for heading in ("Instruction vectors on organism:instruct-llama", "Vectors in the base model"):
        assert heading in printed
    for value in study.summary["adherence_steered_percent"].dropna():
        assert f"{value:.1f}" in printed
