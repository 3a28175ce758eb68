"""Figures come from the tables alone, the same bytes every time."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import mechsteer as ms
from mechsteer.files import write_table
from mechsteer.plots import COLOURS
from mechsteer.studies.core.result import redraw
from mechsteer.studies.registry import STUDIES
from mechsteer.studies.t5_dola.figures import control_strip, heatmap, published, side_effects
from mechsteer.studies.t5_dola.study import Result

NAMES = ["controls", "heatmap_absolute", "heatmap_relative", "side_effects"]


@pytest.fixture
def tables_alone(study: Result, tmp_path: Path) -> Path:
    """A folder with nothing but the study's tables."""
    for path in study.folder.glob("*.parquet"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_figures_are_drawn_from_tables_alone_byte_for_byte(study: Result, tables_alone: Path) -> None:
    made = redraw(STUDIES["t5-dola"], tables_alone)
    assert sorted(path.name for path in made) == sorted(f"{name}.{kind}" for name in NAMES for kind in ("pdf", "png"))
    for path in made:
        start = path.read_bytes()[:8]
        assert start.startswith(b"%PDF-") if path.suffix == ".pdf" else start == b"\x89PNG\r\n\x1a\n"
        assert path.read_bytes() == (study.folder / "figures" / path.name).read_bytes()


def test_a_published_table_gets_a_figure(tables_alone: Path) -> None:
    paper = pd.DataFrame({"layer": [0, 1], "strength": [500, 500], "improvement_pp": [1.0, -20.0]})
    write_table(paper, tables_alone / "published")
    assert {path.name for path in redraw(STUDIES["t5-dola"], tables_alone)} >= {"published.pdf", "published.png"}


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_or_missing_table_is_named(tables_alone: Path, damage: bytes | None) -> None:
    path = tables_alone / "controls.parquet"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(ms.MechsteerError, match=str(path)):
        redraw(STUDIES["t5-dola"], tables_alone)
    assert not (tables_alone / "figures").exists()


def test_the_heat_map_shows_the_evaluation_cells(study: Result) -> None:
    grid = study.tables["grid"]
    for kind, axis_label in (("relative", "Strength (mean residual norms)"), ("absolute", "Strength (absolute)")):
        made = heatmap(grid, kind)
        cells = grid.query("split == 'evaluation' and kind == @kind").sort_values("layer")
        for axes, column in zip(made.axes, ("improvement_pp", "success_improvement_pp"), strict=False):
            assert axes.images[0].get_array().ravel().tolist() == cells[column].tolist()
            assert (axes.get_xlabel(), axes.get_ylabel()) == (axis_label, "Decoder layer")


def test_controls_show_every_random_direction(study: Result) -> None:
    controls = study.tables["controls"]
    axes = control_strip(controls).axes[0]
    mined, random, flipped = (points.get_offsets()[:, 1].tolist() for points in axes.collections)
    of = controls.groupby("control")["correct_percent"].apply(list)
    assert (mined, random, flipped) == (of["mined"], of["random"], of["mined, flipped"])
    assert axes.lines[0].get_ydata()[0] == of["unsteered"][0]
    ends = controls.set_index("control")[["correct_percent_low", "correct_percent_high"]]
    assert [list(line.get_ydata()) for line in axes.lines[1:]] == ends.loc[
        ["mined", "mined, flipped"]
    ].to_numpy().tolist()


def test_side_effects_start_at_strength_zero_in_safe_colours(study: Result) -> None:
    made = side_effects(study.tables["side_effects"], study.tables["grid"])
    axes = made.axes[0]
    assert axes.get_legend() is None and len(made.legends[0].texts) == 3, "above the panel, not on the lines"
    unsteered = study.summary["correct_percent"].iloc[0]
    assert [line.get_xdata()[0] for line in axes.lines] == [0.0] * 3
    assert axes.lines[0].get_ydata()[0] == pytest.approx(unsteered)
    assert [line.get_color() for line in axes.lines] == list(COLOURS[:3])
    assert len({line.get_marker() for line in axes.lines}) == 3
    assert len(axes.collections) == 3, "a band of its interval for each"


def test_published_and_own_cells_share_one_scale(study: Result) -> None:
    paper = pd.DataFrame({"layer": [0, 1], "strength": [500, 500], "improvement_pp": [1.0, -80.0]})
    left, right = published(study.tables["grid"], paper).axes[:2]
    assert left.images[0].get_array().ravel().tolist() == [1.0, -80.0]
    ours = study.tables["grid"].query("kind == 'absolute' and split == 'evaluation'").sort_values("layer")
    assert right.images[0].get_array().ravel().tolist() == ours["success_improvement_pp"].tolist()
    assert left.images[0].get_clim() == right.images[0].get_clim()


def test_a_result_gives_its_figures_without_files(study: Result, tmp_path: Path) -> None:
    moved = replace(study, folder=tmp_path / "nowhere")
    assert sorted(moved.figures()) == NAMES
    assert list(tmp_path.iterdir()) == []
