"""The study of sublayers: its numbers are the measurements', its figures come from its tables, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.files import data_path, read_json, read_table
from mechsteer.studies.core.result import redraw
from mechsteer.studies.registry import STUDIES
from mechsteer.studies.t5_sublayers import figures as inside_figures
from mechsteer.studies.t5_sublayers import report
from mechsteer.studies.t5_sublayers import study as inside
from tests.typecheck import unchecked

N = 12


@pytest.fixture(scope="module")
def study(trap_t5: object, tmp_path_factory: pytest.TempPathFactory) -> inside.Result:
    with unchecked():
        return inside.run(trap_t5, tmp_path_factory.mktemp("inside"), n=N, progress=False)


def test_the_groups_are_those_of_the_evaluation(study: inside.Result, trap_t5: object) -> None:
    task = ms.tasks.memotrap()
    task = replace(task, samples=task.samples[:N])
    correct = ms.evaluate(trap_t5, task)["correct"].astype(bool)
    sizes = study.summary.groupby("group")["n"].first().to_dict()
    assert sizes == {"obeyed": correct.sum(), "trapped": N - correct.sum()} and 0 < correct.sum() < N
    traps = [trap for trap, flag in zip(task.samples, correct, strict=True) if flag]
    shift = ms.cross_attention_shift(trap_t5, [trap.prompt for trap in traps], traps)
    wanted = shift.groupby(["layer", "sublayer"], sort=False)["logit_difference"].mean()
    found = study.summary[study.summary["group"] == "obeyed"].set_index(["layer", "sublayer"])
    assert found["logit_difference"].to_numpy() == pytest.approx(wanted.to_numpy(), abs=1e-3)
    inside_interval = found["logit_difference_low"] <= found["logit_difference"]
    assert inside_interval.all() and (found["logit_difference"] <= found["logit_difference_high"]).all()


def test_ranks_and_freezing_are_the_measurements(study: inside.Result, trap_t5: object) -> None:
    traps = ms.tasks.memotrap().samples[:N]
    frozen = ms.frozen_cross_attention(trap_t5, [t.prompt for t in traps], traps, which=["one", "from", "up_to"])
    assert study.tables["frozen"]["accuracy"].tolist() == frozen["accuracy"].tolist()
    ranks = study.tables["ranks"]
    assert set(ranks["word"]) == {"target", "trap"} and ranks["n"].groupby(ranks["exit"]).sum().eq(2 * N).all()
    last = ranks[ranks["exit"] == 8].set_index(["group", "word"])["rank"]
    assert last["obeyed", "target"] < last["obeyed", "trap"] and last["trapped", "trap"] < last["trapped", "target"]


def test_figures_come_from_the_tables_alone(study: inside.Result, tmp_path: Path) -> None:
    assert read_json(study.folder / "study.json")["study"] == inside.NAME
    for name in inside_figures.TABLES:
        assert_frame_equal(read_table(study.folder / f"{name}.parquet"), study.tables[name])
        (tmp_path / f"{name}.parquet").write_bytes((study.folder / f"{name}.parquet").read_bytes())
    again = redraw(STUDIES["inside"], tmp_path)
    assert [path.name for path in again if path.suffix == ".png"] == [
        "cross_attention.png",
        "updates.png",
        "volatility.png",
    ]
    for path in again:
        assert path.read_bytes() == (study.folder / "figures" / path.name).read_bytes()
    bars = study.figures()["cross_attention"].axes[0].containers
    heights = [bar.get_height() for container in bars if hasattr(container, "patches") for bar in container.patches]
    obeyed = study.summary[study.summary["group"] == "obeyed"]["logit_difference"]
    assert np.sort(heights) == pytest.approx(np.sort(obeyed), abs=1e-6)


def test_groups_of_one_and_words_that_begin_alike(trap_t5: object, tmp_path: Path) -> None:
    rows = pd.read_csv(data_path("tasks", "memotrap", "traps.csv"))
    mining, evaluated = (rows[rows["split"] == split] for split in ("mining", "evaluation"))
    few = pd.concat([mining.head(2), evaluated.iloc[:3]])
    few.iloc[-1, few.columns.get_loc("classes")] = "[' wolf house', ' wolf rain']"
    few.to_csv(tmp_path / "few.csv", index=False)
    with unchecked(), pytest.warns(UserWarning, match="same token"):
        made = inside.run(trap_t5, tmp_path / "out", data=tmp_path / "few.csv", progress=False)
        assert len(made.figures()) == 3
    ranks = made.tables["ranks"]
    assert ranks["n"].groupby([ranks["exit"], ranks["word"]]).sum().eq(3).all()
    task = ms.tasks.memotrap(tmp_path / "few.csv")
    prompts = [trap.prompt for trap in task.samples]
    groups = ["obeyed" if flag else "trapped" for flag in ms.evaluate(trap_t5, task)["correct"]]
    for word in ("target", "trap"):
        lens = ms.logit_lens(trap_t5, prompts, [[getattr(trap, word).strip(" .")] for trap in task.samples])
        wanted = (
            lens.assign(group=[groups[place] for place in lens["prompt"]]).groupby(["group", "exit"])["rank"].median()
        )
        found = ranks[ranks["word"] == word].set_index(["group", "exit"])["rank"]
        assert found.sort_index().tolist() == wanted.sort_index().tolist()
    assert min(made.summary["n"]) == 1 and "nan" not in str(report.found(made.summary))


def test_what_it_refuses(tiny: Callable, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="about cross-attention"):
        inside.run(tiny("gpt2"), tmp_path, progress=False)
    with pytest.raises(ms.MechsteerError, match="n must be"):
        inside.run(tiny("t5"), tmp_path, n=0, progress=False)


@pytest.mark.parametrize("width", [None, 3.3])
def test_legends_are_beside_all_panels_and_titles_differ(study: inside.Result, width: float | None) -> None:
    with ms.plots.paper(width):
        made = study.figures()
    for name in ("cross_attention", "updates"):
        figure = made[name]
        titles = [axes.get_title() for axes in figure.axes]
        assert len(set(titles)) == len(titles) and all(titles)
        assert [text.get_text() for text in figure.legends[0].texts] == ["self-attention", "cross-attention", "MLP"]
        assert all(axes.get_legend() is None for axes in figure.axes[:-1])
        assert width is None or figure.get_figheight() <= 9
