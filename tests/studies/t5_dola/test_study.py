"""The T5 study: its tables are what evaluate gives, it continues where it was, and it refuses bad arguments early."""

import csv
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.directions import gradient_direction
from mechsteer.files import read_json, read_table
from mechsteer.models.info import set_info
from mechsteer.stats import share_interval
from mechsteer.studies.core import cells
from mechsteer.studies.core.published import published
from mechsteer.studies.t5_dola import controls
from mechsteer.studies.t5_dola import study as t5_dola
from mechsteer.studies.t5_dola.study import Result
from mechsteer.tasks import Trap
from tests.studies.conftest import small_copying, small_recall
from tests.typecheck import unchecked

Run = Callable[..., Result]
SCORES = ["correct_percent", "success_percent", "strict_percent", "memorised_percent"]
ENDS = [f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")]
CHANGES = [f"{name}{end}" for name in ("improvement_pp", "success_improvement_pp") for end in ("", "_low", "_high")]
BEST = ["baseline_percent", "best_percent", "delta_pp", "best_layer", "best_strength"]
MODEL = ["model_name", "model_family", "model_revision", "model_fingerprint", "model_dtype"]
COLUMNS = {
    "summary": ["row", *ENDS, "n", "layer", "scale", "edge"],
    "grid": ["kind", "layer", "strength", "scale", "split", *ENDS, "n", *CHANGES],
    "controls": ["control", "seed", *ENDS, "n", "layer", "scale"],
    "null_vectors": ["control", "seed", *ENDS, "n", "cosine", "scale", "layer"],
    "by_trap_word": ["row", "trap_word", "seeds", *ENDS, "n"],
    "side_effects": ["task", "layer", "strength", "scale", "percent", "percent_low", "percent_high", "n"],
    "reference": ["model", *BEST, "n", "source", *(f"our_{name}" for name in (*BEST, "strength_kind", "n"))],
    "samples": ["task", "method", "site", "scope", "strength", "strategy", "seed", "sample", "prompt", "target", "trap",
                "output", "correct", "success", "strict", "memorised", "sound", "logprob_target", "logprob_trap",
                "data_hash"],
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Task and strength of every cell that is computed from now on."""
    seen: list[tuple[str, float]] = []
    original = cells.evaluate

    def counting(model: Any, task: Any, *, steer: Any, **arguments: Any) -> pd.DataFrame:
        seen.append((task.name, steer.edits[0].strength if steer else 0.0))
        return original(model, task, steer=steer, **arguments)

    monkeypatch.setattr(cells, "evaluate", counting)
    return seen


@pytest.fixture
def said_to_be(trap_t5: Any) -> Iterator[Callable[..., Any]]:
    """A function that gives the organism another name or fingerprint, for one test."""
    info = ms.model_info(trap_t5)

    def change(**fields: str) -> Any:
        set_info(trap_t5, replace(info, **fields))
        return trap_t5

    yield change
    set_info(trap_t5, info)


@pytest.fixture
def again(study: Result, tmp_path: Path) -> Path:
    """A copy of the finished study's folder."""
    return shutil.copytree(study.folder, tmp_path / "copy")


def same_tables(left: Result, right: Result) -> None:
    assert left.tables.keys() == right.tables.keys()
    for name, table in left.tables.items():
        assert_frame_equal(table, right.tables[name], check_exact=True)
        assert_frame_equal(read_table(left.folder / f"{name}.parquet"), read_table(right.folder / f"{name}.parquet"))
        assert (left.folder / f"{name}.csv").read_bytes() == (right.folder / f"{name}.csv").read_bytes()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------------------ what it measures


def test_every_table_is_written_with_its_columns_and_provenance(study: Result, trap_t5: Any) -> None:
    assert study.tables.keys() == COLUMNS.keys()
    for name, table in study.tables.items():
        own = [c for c in table.columns if not c.startswith(("model_", "version_"))]
        assert own == COLUMNS[name]
        assert [c for c in table.columns if c.startswith("model_")] == MODEL
        assert table["model_fingerprint"].unique().tolist() == [ms.model_info(trap_t5).fingerprint]
        assert table["version_torch"].unique().tolist() == [torch.__version__]
        assert_frame_equal(read_table(study.folder / f"{name}.parquet"), table)
        with (study.folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == list(table.columns) and len(rows) == len(table)
    assert study.summary is study.tables["summary"]


def test_the_grid_has_every_cell_once(study: Result) -> None:
    grid = study.tables["grid"]
    wanted = [(kind, s, layer, split) for kind, s in (("relative", 1.0), ("absolute", 20.0)) for layer in (0, 2)
              for split in ("mining", "evaluation")]  # fmt: skip
    assert sorted(grid[["kind", "strength", "layer", "split"]].itertuples(index=False, name=None)) == sorted(wanted)
    assert grid.groupby("split")["n"].unique().map(list).to_dict() == {"evaluation": [16], "mining": [12]}


def test_grid_numbers_are_those_of_evaluate(study: Result, trap_t5: Any, traps: Path) -> None:
    task = ms.tasks.memotrap(traps)
    direction = gradient_direction(trap_t5, task.mining, layer=2)
    grid = study.tables["grid"].set_index(["kind", "layer", "split"])
    for kind, scale in (("relative", direction.activation_norm), ("absolute", 20.0)):
        for split in ("mining", "evaluation"):
            row = grid.loc[(kind, 2, split)]
            steered = ms.evaluate(trap_t5, task.on(split), steer=ms.add(direction, scale))
            plain = ms.evaluate(trap_t5, task.on(split))
            assert row["scale"] == pytest.approx(scale)
            for score in ("correct", "success", "strict", "memorised"):
                assert row[f"{score}_percent"] == pytest.approx(100 * steered[score].mean())
            for column, score in (("improvement_pp", "correct"), ("success_improvement_pp", "success")):
                assert row[column] == pytest.approx(100 * (steered[score].mean() - plain[score].mean()))


def test_the_papers_best_cells_stand_beside_the_best_of_ours_by_the_same_choice(study: Result) -> None:
    grid, table = study.tables["grid"], study.tables["reference"]
    grid = grid[grid["split"] == "evaluation"]
    best = grid.loc[grid["success_percent"].idxmax()]
    plain = study.summary.set_index("row").loc["unsteered", "success_percent"]
    assert set(table["our_best_percent"]) == {best["success_percent"]} and set(table["our_n"]) == {16}
    assert set(table["our_best_layer"]) == {best["layer"]} and set(table["our_strength_kind"]) == {best["kind"]}
    assert set(table["our_delta_pp"]) == {best["success_percent"] - plain}
    theirs = published("t5_dola_best")
    assert table[["model", *BEST]].equals(theirs[["model", *BEST]]) and table["source"].all()


def test_the_cell_is_chosen_on_the_mining_traps_and_reported_on_the_others(study: Result) -> None:
    grid = study.tables["grid"]
    mining = grid[(grid["split"] == "mining") & (grid["kind"] == "relative")]
    best = mining.loc[(mining["correct_percent"] + mining["strict_percent"]).idxmax()]
    summary = study.summary.set_index("row")
    chosen = summary.loc["mined vector, cell chosen on the mining traps"]
    assert (chosen["layer"], chosen["scale"]) == (best["layer"], best["scale"])
    reported = grid[(grid["split"] == "evaluation") & (grid["scale"] == best["scale"])].iloc[0]
    for score in SCORES:
        assert chosen[score] == reported[score]
    assert study.tables["controls"]["layer"].unique().tolist() == [best["layer"]]
    assert study.tables["side_effects"]["layer"].unique().tolist() == [best["layer"]]


def test_the_choice_does_not_see_the_evaluation_traps(
    small_run: Run, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = t5_dola._best, []

    def weakest_first(cells: pd.DataFrame) -> pd.Series:
        seen.append(cells)
        return original(cells) if len(seen) > 1 else cells.sort_values("correct_percent").iloc[0]

    monkeypatch.setattr(t5_dola, "_best", weakest_first)
    result = small_run(again)
    assert set(seen[0]["split"]) == {"mining"} and set(seen[0]["kind"]) == {"relative"}
    weakest = seen[0].sort_values("correct_percent").iloc[0]
    assert result.tables["controls"]["scale"].unique().tolist() == [weakest["scale"]]
    assert result.summary["scale"].iloc[1] == weakest["scale"]


def test_controls_have_the_same_norm_and_fixed_seeds(study: Result, trap_t5: Any, traps: Path) -> None:
    controls = study.tables["controls"]
    assert controls["control"].tolist() == ["unsteered", "mined", "mined, flipped", "random", "random", "random"]
    assert controls["seed"].dropna().tolist() == [0, 1, 2]
    task, layer = ms.tasks.memotrap(traps), int(controls["layer"].iloc[0])
    scale = float(controls["scale"].iloc[0])
    random = ms.random_direction(trap_t5, seed=1, layer=layer)
    flipped = gradient_direction(trap_t5, task.mining, layer=layer)
    for place, steer in ((2, ms.add(flipped, -scale)), (4, ms.add(random, scale))):
        table = ms.evaluate(trap_t5, task, steer=steer)
        assert controls.loc[place, "correct_percent"] == pytest.approx(100 * table["correct"].mean())
        assert controls.loc[place, "strict_percent"] == pytest.approx(100 * table["strict"].mean())


def test_the_summary_spans_the_random_directions(study: Result) -> None:
    controls = study.tables["controls"]
    random = controls.loc[controls["control"] == "random", "correct_percent"]
    summary = study.summary.set_index("row")["correct_percent"]
    for name, value in (("mean", random.mean()), ("smallest", random.min()), ("largest", random.max())):
        assert summary[f"random directions (3), {name}"] == value
    assert summary["unsteered"] == controls["correct_percent"].iloc[0]


def test_null_vectors_are_mined_from_the_other_contrasts(study: Result, trap_t5: Any, traps: Path) -> None:
    table, task = study.tables["null_vectors"], ms.tasks.memotrap(traps)
    assert table["control"].tolist() == ["exchanged", "exchanged", "copying"]
    layer, scale = int(table["layer"].iloc[0]), float(table["scale"].iloc[0])
    swapped = controls.exchanged(task.mining, 1)
    assert sum(a != b for a, b in zip(swapped, task.mining, strict=True)) == len(swapped) // 2
    assert all({a.target, a.trap} == {b.target, b.trap} for a, b in zip(swapped, task.mining, strict=True))
    contrast = controls.copied()
    assert all(one.target != one.trap and one.target in one.prompt for one in contrast)
    for place, examples in ((1, swapped), (2, contrast)):
        steer = ms.add(gradient_direction(trap_t5, examples, layer=layer), scale)
        scored = ms.evaluate(trap_t5, task, steer=steer)
        assert table.loc[place, "strict_percent"] == pytest.approx(100 * scored["strict"].mean())


def test_target_and_trap_are_exchanged_whatever_the_number_of_classes() -> None:
    traps = [Trap(f"End in a: p {n}", (" x", " y", " z"), n % 3) for n in range(12)]
    swapped = controls.exchanged(traps, 0)
    assert sum((a.target, a.trap) == (b.trap, b.target) for a, b in zip(swapped, traps, strict=True)) == 6
    assert sum(a == b for a, b in zip(swapped, traps, strict=True)) == 6


def test_traps_by_whether_their_word_was_mined(study: Result, traps: Path) -> None:
    task, samples = ms.tasks.memotrap(traps), study.tables["samples"].iloc[:16]
    found = controls.by_trap_word(replace(task, mining=(task.mining[0], task.samples[0])), {"unsteered": [samples]})
    word = task.samples[0].trap
    shared = [trap.trap == word for trap in task.samples]
    assert found["n"].tolist() == [16 - sum(shared), sum(shared)]
    assert found["correct_percent"][1] == pytest.approx(100 * samples["correct"][shared].mean())
    rows = study.tables["by_trap_word"]
    assert set(rows["row"]) == {"unsteered", "mined", "mined, flipped", "random", "exchanged", "copying"}
    assert (rows.groupby("row")["n"].sum() == 16).all()
    plain = study.tables["controls"].iloc[0]
    part = rows[rows["row"] == "unsteered"]
    mean = (part["correct_percent"] * part["n"]).sum() / 16
    assert mean == pytest.approx(plain["correct_percent"])


def test_traps_of_one_proverb_are_one_sample_of_two() -> None:
    rows = [(f"End it in x: proverb {k // 2}", k < 8) for k in range(20)]
    table = pd.DataFrame(rows, columns=["prompt", "correct"]).assign(success=True, strict=False, memorised=True)
    found = controls.percentages(table)
    assert found["correct_percent"] == 40 and found["n"] == 20
    alike = found["correct_percent_high"] - found["correct_percent_low"]
    apart = controls.percentages(table.assign(prompt=[f"a: {k}" for k in range(20)]))
    assert alike > apart["correct_percent_high"] - apart["correct_percent_low"]
    assert found["success_percent_low"] < 80 and found["strict_percent_high"] > 20  # ten proverbs say no more


def test_side_effects_begin_unsteered(study: Result, trap_t5: Any) -> None:
    table = study.tables["side_effects"].set_index(["task", "strength"])
    side = table["percent"]
    assert sorted(side.index) == [("copy", 0.0), ("copy", 1.0), ("recall", 0.0), ("recall", 1.0)]
    for task in (small_recall(), small_copying()):
        right = ms.evaluate(trap_t5, task)["correct"]
        assert side[(task.name, 0.0)] == pytest.approx(100 * right.mean())
        ends = [table.loc[(task.name, 0.0), f"percent{end}"] for end in ("_low", "_high")]
        assert ends == pytest.approx([100 * end for end in share_interval(int(right.sum()), len(right))])


def test_samples_are_the_unsteered_and_the_chosen_rows(study: Result) -> None:
    samples, summary = study.tables["samples"], study.summary.set_index("row")
    assert samples["method"].tolist() == ["unsteered"] * 16 + ["add"] * 16
    assert samples["strength"].unique().tolist() == [0.0, summary["scale"].iloc[1]]
    for method, row in (("unsteered", 0), ("add", 1)):
        part = samples[samples["method"] == method]
        assert 100 * part["correct"].mean() == summary["correct_percent"].iloc[row]


def test_a_decoder_only_model_works_too(tiny: Callable[..., Any], small_run: Run, tmp_path: Path) -> None:
    result = small_run(tmp_path, tiny("qwen2"), layers=[1], n_random=1)
    assert result.tables["samples"]["site"].unique().tolist() == ["", "blocks.1.hook_resid_post"]
    assert len(result.tables["grid"]) == 4


def test_the_released_variant_gives_other_directions(small_run: Run, study: Result, tmp_path: Path) -> None:
    result = small_run(tmp_path, compat="released", layers=[2], n_random=1)
    assert read_json(tmp_path / "study.json")["compat"] == "released"
    names = {path.name for path in (study.folder / "directions").iterdir()}
    assert names.isdisjoint(path.name for path in (result.folder / "directions").iterdir())
    plain = study.tables["grid"].query("layer == 2 and kind == 'absolute'")
    assert not (result.tables["samples"]["logprob_target"][16:]).equals(study.tables["samples"]["logprob_target"][16:])
    assert len(plain) == len(result.tables["grid"].query("kind == 'absolute'"))


# ------------------------------------------------------------------------------------------------ continuing


@pytest.mark.parametrize("done", [0, 5])
def test_an_interrupted_run_continues_and_gives_the_same_tables(
    small_run: Run, study: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    original, computed = cells.evaluate, []
    limit: list[float] = [done]

    def stopping(model: Any, task: Any, **arguments: Any) -> pd.DataFrame:
        if len(computed) >= limit[0]:
            raise KeyboardInterrupt
        computed.append(task.name)
        return original(model, task, **arguments)

    monkeypatch.setattr(cells, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path)
    assert len(list((tmp_path / "cells").glob("*"))) == done if done else not (tmp_path / "cells").exists()
    assert not (tmp_path / "summary.parquet").exists()
    limit[0] = float("inf")
    same_tables(small_run(tmp_path), study)
    assert len(computed) == len(list((study.folder / "cells").iterdir())), "every cell is computed exactly once"


def test_a_finished_run_computes_nothing_again(
    small_run: Run, study: Result, again: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (t5_dola, controls):
        monkeypatch.setattr(module, "gradient_direction", lambda *_, **__: pytest.fail("mined again"))
    same_tables(small_run(again), study)
    assert calls == []


def test_truncated_files_are_made_again(small_run: Run, study: Result, again: Path, calls: list[Any]) -> None:
    cell = sorted((again / "cells").iterdir())[3]
    cell.write_bytes(cell.read_bytes()[:-40])
    direction = sorted((again / "directions").iterdir())[0]
    direction.write_bytes(direction.read_bytes()[:100])
    (again / "grid.parquet").write_bytes(b"PAR1")
    same_tables(small_run(again), study)
    assert len(calls) == 1
    assert cell.read_bytes() == (study.folder / cell.relative_to(again)).read_bytes()
    whole = ms.Direction.load(study.folder / direction.relative_to(again))
    assert ms.Direction.load(direction).vector.equal(whole.vector)


def test_another_strength_adds_cells_and_reuses_the_rest(small_run: Run, again: Path, calls: list[Any]) -> None:
    result = small_run(again, absolute=[30.0, 20.0, 30.0])
    assert calls == [("memotrap:small.csv[mining]", 30.0), ("memotrap:small.csv", 30.0)] * 2
    assert sorted(result.tables["grid"].query("kind == 'absolute'")["strength"].unique()) == [20.0, 30.0]


def test_another_model_reuses_nothing(
    small_run: Run, again: Path, calls: list[Any], said_to_be: Callable[..., Any]
) -> None:
    small_run(again, said_to_be(fingerprint="0123456789abcdef"), layers=[2], n_random=1)
    assert len(calls) == 2 + 4 + 2 + 4 + 3
    assert len(list((again / "directions").iterdir())) == 2 + 3 + 1 + 3


def test_other_mining_traps_give_another_direction(
    small_run: Run, traps: Path, again: Path, tmp_path: Path, calls: list[Any]
) -> None:
    header, *lines = traps.read_text(encoding="utf-8").splitlines(keepends=True)
    shutil.rmtree(again / "cells")
    fewer = tmp_path / traps.name
    fewer.write_text(header + "".join(lines[6:]), encoding="utf-8")
    before = set((again / "directions").iterdir())
    small_run(again, data=fewer, layers=[2], n_random=1)
    new = set((again / "directions").iterdir()) - before
    (mined,) = (path for path in new if path.name.startswith("layer-02"))
    assert ms.Direction.load(mined).meta["examples"] == "6"


def test_the_bar_counts_every_cell(small_run: Run, again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(again, progress=True)
    assert "22/22" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strengths": [1.0, float("nan")]}, "strengths must be finite, got nan"),
        ({"strengths": []}, r"strengths must be numbers above 0, got \[\]"),
        ({"strengths": [1.0, 0.0]}, r"strengths must be numbers above 0, got \[1.0, 0.0\]"),
        ({"absolute": [float("inf")]}, "absolute must be finite, got inf"),
        ({"absolute": [-20.0]}, r"absolute must be numbers above 0, got \[-20.0\]"),
        ({"n_random": 0}, "n_random must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"layers": [0, 99]}, r"layers must be some of 0 to 7, got \[0, 99\]"),
        ({"layers": [-1]}, "layers must be some of 0 to 7"),
        ({"layers": []}, "layers must be some of 0 to 7"),
        ({"layers": [1.5]}, r"layers must be some of 0 to 7, got \[1.5\]"),
        ({"layers": 3}, "layers must be a list, got 3"),
        ({"strengths": 0.5}, "strengths must be a list, got 0.5"),
        ({"compat": "papre"}, "Unknown compat 'papre'. Did you mean 'paper'"),
        ({"data": Path("nosuch.csv")}, "No such file: nosuch.csv"),
        ({"model": "organism:nosuch"}, "Unknown organism 'nosuch'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    small_run: Run, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with unchecked(), pytest.raises(ms.MechsteerError, match=message):
        small_run(tmp_path / "out", **arguments)
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_refused_before_a_model_is_loaded(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ms.MechsteerError, match=r"Output folder .*file/out is not writable"):
        small_run(tmp_path / "file" / "out", "organism:nosuch")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ the paper's models


def test_a_model_of_the_paper_gets_the_published_table_beside_its_own(
    small_run: Run, tmp_path: Path, said_to_be: Callable[..., Any]
) -> None:
    result = small_run(tmp_path, said_to_be(name="google/flan-t5-base"), absolute=None, layers=[2], n_random=1)
    grid, paper = result.tables["grid"], result.tables["published"]
    assert sorted(grid.query("kind == 'absolute'")["strength"].unique()) == [500.0, 1000.0, 1500.0]
    assert paper["model"].unique().tolist() == ["google/flan-t5-base"]
    assert paper.set_index(["layer", "strength"])["improvement_pp"][(5, 1000)] == 33.0
    assert_frame_equal(read_table(tmp_path / "published.parquet"), paper)
    assert "published" in result.figures()


def test_other_models_get_absolute_strengths_around_the_norm(small_run: Run, study: Result, again: Path) -> None:
    norms = sorted(ms.Direction.load(path).activation_norm for path in (again / "directions").iterdir())
    grid = small_run(again, absolute=None).tables["grid"]
    assert "published" not in study.tables
    strengths = sorted(grid.query("kind == 'absolute'")["strength"].unique())
    assert strengths == [pytest.approx(factor * norms[1], rel=0.5) for factor in (0.5, 1.0, 1.5)]


def test_equal_default_strengths_are_run_once() -> None:
    direction = ms.Direction(torch.ones(2), "decoder.0.hook_resid_post", "gradient", activation_norm=0.98)
    assert t5_dola._default_absolute("organism:trap-t5", {0: direction}) == [0.5, 1.0]
