"""Charts hold the numbers of their tables, and say what is wrong with a table that cannot be drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechsteer import plots
from mechsteer.errors import MechsteerError
from mechsteer.plots.labels import pitch, quantity, token_label, token_text

CURVES = pd.DataFrame(
    {
        "layer": [1, 0, 0, 1],
        "relation": ["same_query", "same_query", "other", "other"],
        "cosine": [0.5, 0.25, -0.5, 0.75],
        "low": [0.4, 0.2, -0.6, 0.7],
        "high": [0.6, 0.3, -0.4, 0.8],
    }
)
RANKS = pd.DataFrame(
    {
        "exit": [0, 1, 2] * 3,
        "token": ["▁wolf"] * 3 + ["Ġ$x$"] * 3 + ["</s>"] * 3,
        "rank": [700, 9, 1, 70, 5, 1, 3, 2, 40],
    }
)
BARS = pd.DataFrame(
    {
        "layer": [0, 0, 0, 1, 1, 1],
        "sublayer": ["self_attention", "cross_attention", "mlp"] * 2,
        "path_share": [0.2, 0.3, 0.5, 0.1, 0.2, 0.7],
        "path_share_low": [0.1, 0.2, 0.4, 0.0, 0.1, 0.6],
        "path_share_high": [0.4, 0.5, 0.7, 0.3, 0.4, 0.9],
    }
)


def axes(**options: Any) -> Any:
    with plots.style():
        return plots.figure(**options)[1][0]


def test_curves_are_sorted_named_and_shaded() -> None:
    ax = axes()
    plots.curves(ax, CURVES, y="cosine", by="relation", title="t")
    assert [line.get_label() for line in ax.lines] == ["same query", "other"]
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[0, 0.25], [1, 0.5]], [[0, -0.5], [1, 0.75]]]
    assert [line.get_color() for line in ax.lines] == list(plots.COLOURS[:2])
    first, second = (band.get_paths()[0].get_extents() for band in ax.collections)
    assert (first.ymin, first.ymax, second.ymin, second.ymax) == (0.2, 0.6, -0.6, 0.8)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("Layer", "Cosine similarity", "t")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["same query", "other"]
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_one_curve_has_no_legend_and_its_own_words() -> None:
    ax = axes()
    table = pd.DataFrame({"depth": [0.5, 0.0], "jsd": [0.1, 0.2]})
    plots.curves(ax, table, x="depth", y="jsd", xlabel="Depth", ylabel="JSD (nats)")
    assert ax.get_legend() is None and not ax.collections
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Depth", "JSD (nats)")


def test_an_interval_is_found_by_the_name_of_its_quantity_first() -> None:
    ax = axes()
    table = CURVES.iloc[:2].assign(cosine_low=[0.0, 0.1], cosine_high=[0.9, 0.8])
    plots.curves(ax, table, y="cosine")
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (0.0, 0.9)
    named = axes()
    plots.curves(named, table, y="cosine", low="low", high="high")
    assert named.collections[0].get_paths()[0].get_extents().ymax == 0.6


def test_ends_without_a_name_are_of_the_quantity_that_lies_between_them() -> None:
    probe = pd.DataFrame(
        {"layer": [0, 1], "accuracy": [0.9, 0.5], "low": [0.8, 0.4], "high": [0.95, 0.6], "shuffled": [0.85, 0.5]}
    )

    def bands(table: pd.DataFrame, y: str) -> int:
        ax = axes()
        plots.curves(ax, table, y=y)
        return len(ax.collections)

    assert bands(probe, "accuracy") == 1
    assert bands(probe, "shuffled") == 0, "an interval of another quantity"
    assert bands(probe.assign(percent=100 * probe["accuracy"]), "percent") == 0, "an interval in another unit"
    assert bands(probe[["layer", "low", "high", "accuracy"]], "accuracy") == 1
    assert bands(probe.rename(columns={"low": "accuracy_low", "high": "accuracy_high"}), "accuracy") == 1


def test_a_line_without_a_name_is_drawn_too() -> None:
    ax = axes()
    table = pd.DataFrame({"layer": [0, 1, 0, 1], "strength": [np.nan, np.nan, 2.0, 2.0], "score": [0.1, 0.2, 0.3, 0.4]})
    plots.curves(ax, table, y="score", by="strength")
    plots.lines(ax, table, x="layer", y="score", by="strength", xlabel="", ylabel="", title="")
    assert [line.get_label() for line in ax.lines] == ["nan", "2.0"] * 2
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.2]


def test_ranks_are_on_a_log_scale_with_rank_1_on_top_and_names_at_the_ends() -> None:
    ax = axes()
    plots.rank_trajectories(ax, RANKS)
    assert ax.get_yscale() == "log"
    bottom, top = ax.get_ylim()
    assert bottom > 700 and top < 1
    assert [line.get_ydata().tolist() for line in ax.lines] == [[700, 9, 1], [70, 5, 1], [3, 2, 40]]
    names = {text.get_text(): (text.get_position()[1], text.get_color()) for text in ax.texts}
    assert list(names) == ["</s>", "$x$", "wolf"] or list(names) == ["</s>", "wolf", "$x$"]
    assert [names[name][1] for name in ("wolf", "$x$", "</s>")] == list(plots.COLOURS[:3])
    heights = sorted(height for height, _ in names.values())
    assert heights[2] <= 1 and np.diff(heights).min() > 0.03  # the two at rank 1 do not cover each other
    ax.figure.draw_without_rendering()
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == ["1", "10", "100"]


@pytest.mark.parametrize("worst", [2, 5000])
def test_ranks_of_many_tokens_keep_their_names_in_the_panel(worst: int) -> None:
    ax = axes()
    rows = [(layer, f"t{i}", max(1, worst - i % 2)) for i in range(12) for layer in range(2)]
    plots.rank_trajectories(ax, pd.DataFrame(rows, columns=["exit", "token", "rank"]))
    heights = [text.get_position()[1] for text in ax.texts]
    assert np.diff(sorted(heights)).min() > 0.02
    assert min(heights) >= 0 and max(heights) < 1


def test_sublayers_stand_in_the_order_of_a_block() -> None:
    ax = axes()
    plots.sublayer_bars(ax, BARS.iloc[::-1].replace({"self_attention": "gate"}), y="path_share")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["cross-attention", "MLP", "gate"]


def bars(ax: Any) -> list[list[tuple[float, float, float]]]:
    return [
        [
            (round(bar.get_x() + bar.get_width() / 2, 4), round(bar.get_y(), 4), round(bar.get_height(), 4))
            for bar in group
        ]
        for group in ax.containers
        if hasattr(group, "patches")
    ]


def test_bars_stand_side_by_side_with_their_intervals() -> None:
    ax = axes()
    plots.sublayer_bars(ax, BARS, y="path_share")
    assert bars(ax) == [
        [(-0.2667, 0, 0.2), (0.7333, 0, 0.1)],
        [(0, 0, 0.3), (1, 0, 0.2)],
        [(0.2667, 0, 0.5), (1.2667, 0, 0.7)],
    ]
    ends = [[segment[:, 1].tolist() for segment in lines.get_segments()] for lines in ax.collections]
    assert np.allclose(ends, [[[0.1, 0.4], [0.0, 0.3]], [[0.2, 0.5], [0.1, 0.4]], [[0.4, 0.7], [0.6, 0.9]]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["self-attention", "cross-attention", "MLP"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]
    assert ax.get_ylabel() == "Share of the path"


def test_bars_of_categories_and_of_a_sublayer_without_a_name_are_drawn() -> None:
    sublayers = {"attention": 0, "mlp": 1}
    table = pd.DataFrame({"layer": [0, 0], "sublayer": list(sublayers), "path_share": [0.2, 0.3]})
    expected = [[0.2], [0.3]]
    for column in (
        pd.Categorical(table["sublayer"], ["other", *sublayers]),  # one of them has no rows
        pd.Series(["attention", None], dtype=object),
    ):
        ax = axes()
        plots.sublayer_bars(ax, table.assign(sublayer=column), y="path_share")
        assert [[bar.get_height() for bar in bars] for bars in ax.containers] == expected


def test_ends_without_a_name_belong_to_all_bars_or_none() -> None:
    # 0.5 lies between the ends of another quantity's interval by chance, 0.9 does not
    table = pd.DataFrame({"layer": [0, 0], "sublayer": ["attn", "mlp"], "path_share": [0.5, 0.9], "n": 3})
    table = table.assign(low=[0.4, 0.2], high=[0.6, 0.3])
    ax = axes()
    plots.sublayer_bars(ax, table, y="path_share")
    assert not ax.collections


@pytest.mark.parametrize("missing", [None, 0.3])
def test_pandas_own_numbers_are_drawn_as_numpys(missing: float | None, tmp_path: Path) -> None:
    own = pd.array([0.2, missing], dtype="Float64")
    table = pd.DataFrame({"layer": pd.array([0, 1], dtype="Int64"), "sublayer": "mlp", "path_share": own})
    table = table.assign(path_share_low=pd.array([0.1, None], dtype="Float64"), path_share_high=0.5)
    draws = (
        lambda ax: plots.sublayer_bars(ax, table, y="path_share"),
        lambda ax: plots.sublayer_bars(ax, table, y="path_share", stacked=True),
        lambda ax: plots.curves(ax, table, y="path_share"),
        lambda ax: plots.curves(ax, table.assign(layer=pd.array([0, None], dtype="Int64")), y="path_share"),
    )
    for place, draw in enumerate(draws):
        ax = axes()
        draw(ax)
        plots.save(ax.figure, tmp_path / str(place))
        if place < 2:
            assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]


def test_bars_are_stacked_and_a_missing_one_leaves_no_hole() -> None:
    ax = axes()
    plots.sublayer_bars(ax, BARS.drop(index=4), y="path_share", stacked=True)
    heights = {(x, low): height for group in bars(ax) for x, low, height in group if height == height}
    assert heights == {(0, 0): 0.2, (0, 0.2): 0.3, (0, 0.5): 0.5, (1, 0): 0.1, (1, 0.1): 0.7}
    assert not ax.collections
    first = axes()
    plots.sublayer_bars(first, BARS.drop(index=3), y="path_share", stacked=True)  # the lowest
    heights = {(x, low): height for group in bars(first) for x, low, height in group if height == height}
    assert heights == {(0, 0): 0.2, (0, 0.2): 0.3, (0, 0.5): 0.5, (1, 0): 0.2, (1, 0.2): 0.7}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plots.curves(ax, CURVES, y="cosin"), r"Unknown column \(of the table\) 'cosin'.*'cosine'"),
        (
            lambda ax: plots.curves(ax, CURVES, y="cosine"),
            r"several rows for one point \(layer\).*They differ in relation",
        ),
        (lambda ax: plots.curves(ax, CURVES.iloc[:0], y="cosine"), "no rows to draw"),
        (lambda ax: plots.curves(ax, CURVES, y="relation", x="layer"), "The column 'relation' has no numbers"),
        (lambda ax: plots.curves(ax, CURVES, y="cosine", by="relation", low="low"), "needs both ends"),
        (lambda ax: plots.curves(ax, CURVES, y="cosine", by="relation", low="low", high="hi"), "Unknown column.*'hi'"),
        (lambda ax: plots.rank_trajectories(ax, RANKS, x="layer"), "Unknown column.*'layer'"),
        (lambda ax: plots.rank_trajectories(ax, RANKS.assign(rank=0)), "Ranks begin at 1, .* has 0"),
        (lambda ax: plots.rank_trajectories(ax, RANKS.assign(rank=[np.nan, *[3] * 8])), "Ranks begin at 1, .* has nan"),
        (lambda ax: plots.rank_trajectories(ax, pd.concat([RANKS, RANKS])), "several rows for one point"),
        (lambda ax: plots.sublayer_bars(ax, BARS, y="share"), "Unknown column.*'share'.*'path_share'"),
        (lambda ax: plots.sublayer_bars(ax, pd.concat([BARS, BARS]), y="path_share"), "several rows for one bar"),
        (
            lambda ax: plots.sublayer_bars(ax, BARS.assign(path_share=-0.1), y="path_share", stacked=True),
            "cannot be negative",
        ),
        (
            lambda ax: plots.sublayer_bars(
                ax, BARS, y="path_share", low="path_share_low", high="path_share_high", stacked=True
            ),
            "no intervals",
        ),
    ],
)
def test_tables_that_cannot_be_drawn_are_named(draw: Callable[[Any], None], message: str) -> None:
    with pytest.raises(MechsteerError, match=message):
        draw(axes())


def test_every_chart_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    def written(name: str) -> list[bytes]:
        with plots.style():
            made, panels = plots.figure(3, width=2.0, height=1.6)
            plots.curves(panels[0], CURVES, y="cosine", by="relation")
            plots.rank_trajectories(panels[1], RANKS)
            plots.sublayer_bars(panels[2], BARS, y="path_share")
            return [path.read_bytes() for path in plots.save(made, tmp_path / name)]

    assert written("a") == written("b")


def test_tokens_are_written_for_people() -> None:
    given = ["▁wolf", "Ġthe", "Ċ", "a▁b", "▁", "</s>", "词", "x\ty", "abcdefghijklmnopqrs"]
    expected = ["wolf", "the", "↵", "a b", "␣", "</s>", "□", "x⇥y", "abcdefghijklmno…"]
    assert [token_label(token) for token in given] == expected
    assert token_text("▁词") == "词" and len(token_text("x" * 99)) == 40


def test_labels_thin_out_when_they_do_not_fit() -> None:
    assert pitch(400, 40) == (1, 8.0)
    step, size = pitch(400, 80)
    assert step == 2 and size == 8.0
    assert pitch(330, 55) == (1, pytest.approx(5.1))


def test_a_column_without_words_of_its_own_gets_its_name() -> None:
    assert quantity("flip_rate") == "Top-1 tokens that change" and quantity("my_thing") == "My thing"


def test_a_difference_of_logits_is_no_change_where_cross_attention_is_frozen() -> None:
    frozen, shift = axes(), axes()
    table = pd.DataFrame({"layer": [0, 1], "frozen": "one", "sublayer": "mlp", "logit_difference": [1.0, 2.0]})
    plots.curves(frozen, table, y="logit_difference", by="frozen")
    plots.sublayer_bars(shift, table.drop(columns="frozen"), y="logit_difference")
    assert frozen.get_ylabel() == "Target − trap logit" and shift.get_ylabel() == "Change of target − trap logit"
