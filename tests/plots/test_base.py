"""Figures: safe colours, honest heat maps, and the same bytes every time."""

import pickle
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from mechsteer import plots
from mechsteer.errors import MechsteerError
from mechsteer.plots.bars import grouped_bars, interval_rows
from mechsteer.plots.base import PLAIN, leftmost, legend_above, points

OKABE_ITO = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"}
LABELS = {"xlabel": "x", "ylabel": "y", "title": "t"}
CELLS = pd.DataFrame(
    {"layer": [1, 0, 1, 0], "strength": [0.5, 0.5, 2.0, 2.0], "change": [10.0, -2.5, -60.0, float("nan")]}
)


def test_colours_are_from_the_colour_blind_safe_list() -> None:
    assert set(plots.COLOURS) <= OKABE_ITO
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == len(set(plots.MARKERS)) == len(plots.MARKERS)


def test_a_heat_map_places_colours_and_prints_each_number() -> None:
    _, (axes,) = plots.figure()
    image = plots.heatmap(axes, CELLS, x="strength", y="layer", value="change", limit=80.0, **LABELS)
    assert image.get_clim() == (-80.0, 80.0)
    shown = image.get_array()
    assert shown[0, 0] == -2.5 and shown[1].tolist() == [10.0, -60.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    texts = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert texts == {(0, 0): ("−2.5", "black"), (0, 1): ("+10.0", "black"), (1, 1): ("−60.0", "white")}
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("x", "y", "t")


def test_a_cell_given_twice_is_refused() -> None:
    _, (axes,) = plots.figure()
    twice = pd.concat([CELLS, CELLS.iloc[:1]])
    with pytest.raises(MechsteerError, match=r"several rows for one \(strength, layer\) cell"):
        plots.heatmap(axes, twice, x="strength", y="layer", value="change", limit=1.0, **LABELS)


def test_lines_are_sorted_named_and_told_apart() -> None:
    table = pd.DataFrame({"x": [2, 1, 1, 2], "y": [4.0, 3.0, 1.0, 2.0], "who": ["b", "b", "a", "a"]})
    _, (axes,) = plots.figure()
    plots.lines(axes, table, x="x", y="y", by="who", **LABELS)
    assert [line.get_label() for line in axes.lines] == ["b", "a"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 4.0], [1.0, 2.0]]
    assert [line.get_color() for line in axes.lines] == list(plots.COLOURS[:2])
    assert [line.get_marker() for line in axes.lines] == list(plots.MARKERS[:2])


def test_a_line_has_one_number_a_point() -> None:
    table = pd.DataFrame({"x": [0, 0, 1], "y": [1.0, 2.0, 3.0], "who": "a", "seed": [1, 2, 1]})
    _, (axes,) = plots.figure()
    with pytest.raises(MechsteerError, match=r"several rows for one point \(who, x\)\. They differ in seed"):
        plots.lines(axes, table, x="x", y="y", by="who", **LABELS)
    with pytest.raises(MechsteerError, match="The column 'y' has no numbers, e"):
        plots.lines(axes, table.assign(y=["1.0", "2.0", "10.0"]), x="seed", y="y", by="x", **LABELS)


def test_more_lines_than_colours_begin_again() -> None:
    count = len(plots.COLOURS) + 1
    table = pd.DataFrame({"x": [0] * count, "y": [1.0] * count, "who": range(count)})
    _, (axes,) = plots.figure()
    plots.lines(axes, table, x="x", y="y", by="who", **LABELS)
    assert axes.lines[-1].get_color() == plots.COLOURS[0]


def test_the_house_style_ends_with_its_block() -> None:
    before = mpl.rcParams["axes.spines.top"]
    with plots.style():
        assert mpl.rcParams["axes.spines.top"] is False
    assert mpl.rcParams["axes.spines.top"] == before


def test_figures_have_panels_of_the_asked_size() -> None:
    made, axes = plots.figure(3, width=2.0, height=1.5)
    assert len(axes) == 3
    assert made.get_size_inches().tolist() == [6.0, 1.5]


def test_saving_writes_pdf_and_png_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    def written(name: str) -> list[bytes]:
        made, (axes,) = plots.figure(width=1.5, height=1.0)
        plots.heatmap(axes, CELLS, x="strength", y="layer", value="change", limit=80.0, **LABELS)
        paths = plots.save(made, tmp_path / name / "f.1")
        assert [path.name for path in paths] == ["f.1.pdf", "f.1.png"]
        return [path.read_bytes() for path in paths]

    pdf, png = written("a")
    assert [pdf, png] == written("b")
    assert pdf.startswith(b"%PDF-") and png.startswith(b"\x89PNG")
    assert b"CreationDate" not in pdf and b"Date" not in png


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made, _ = plots.figure()
    with pytest.raises(MechsteerError, match=r"Cannot write .*f\.pdf"):
        plots.save(made, tmp_path / "file" / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_figure_shows_itself_without_pyplot() -> None:
    from IPython.core.formatters import DisplayFormatter

    made, panels = plots.figure()
    panels[0].plot([0, 1], [1, 0])
    data, _ = DisplayFormatter().format(made)
    assert data["image/png"][:8] == b"\x89PNG\r\n\x1a\n"
    assert pickle.loads(pickle.dumps(made)).axes


def wide_figure() -> Any:
    made, axes = plots.figure(3, width=3.0, height=2.4)
    for axis in axes:
        axis.plot([0, 1], label="a line of some length")
        axis.set(title="A title that is far too long for one narrow column", ylabel="Share", xlabel="Strength (norms)")
        axis.set_xticks([0, 0.5, 1], ["no steering", "some steering", "much steering"])
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    made.suptitle("What is written above all panels is longer than the page is wide, and would be cut at both ends")
    return made


def overlaps(made: Any) -> list[tuple[str, str]]:
    """Texts of a figure that lie on each other or stick out of it."""
    renderer = FigureCanvasAgg(made).get_renderer()
    made.draw(renderer)
    found: list[Text] = [made._suptitle]
    for axis in made.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_legend().texts, *axis.get_xticklabels()]
    boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in found]
    whole = made.bbox.padded(1)
    inside = [(name, "the edge") for name, box in boxes if box.x0 < whole.x0 or box.x1 > whole.x1]
    inside += [(name, "top or bottom") for name, box in boxes if box.y0 < whole.y0 or box.y1 > whole.y1]
    straight = [pair for pair, text in zip(boxes, found, strict=True) if text.get_rotation() in (0, 90)]
    return inside + [(a, b) for (a, x), (b, y) in combinations(straight, 2) if x.overlaps(y)]


@pytest.mark.parametrize("width", [3.3, 6.75])
def test_figures_fit_a_column(width: float, tmp_path: Path) -> None:
    with plots.paper(width, formats=["svg"]), plots.style():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert overlaps(wide_figure()), "as it is, it would not do"
        made = wide_figure()
        paths = plots.save(made, tmp_path / "f")
        again = plots.save(wide_figure(), tmp_path / "again")
    assert [path.suffix for path in paths] == [".svg"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert f'width="{72 * width:g}pt"' in paths[0].read_text()
    columns = {axis.get_subplotspec().colspan.start for axis in made.axes}
    assert len(columns) == (1 if width == 3.3 else 3) and overlaps(made) == []


def test_panels_are_not_squeezed_to_nothing_by_their_words(tmp_path: Path) -> None:
    def made(rows: int) -> Any:
        figure, panels = plots.figure(rows=rows, width=3.0, height=2.5)
        for axis in panels:
            axis.bar(range(6), range(6))
            axis.set(title="A title of the panel", ylabel="Outputs (%)")
            axis.set_xticks(range(6), [f"a long name of a task and a file, {number}" for number in range(6)])
        return figure

    with mpl.rc_context({"font.size": 11}), plots.paper(3.3, formats=["png"]), plots.style():
        for rows in (1, 2):
            figure = made(rows)
            plots.save(figure, tmp_path / "f")
            heights = [axis.get_position().height * figure.get_figheight() for axis in figure.axes]
            assert min(heights) > 1 and figure.get_figheight() > 2.5 * rows
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw(renderer)
            labels = [label for axis in figure.axes for label in axis.get_xticklabels()]
            assert all(label.get_window_extent(renderer).y0 >= -1 for label in labels)
    with mpl.rc_context({"font.size": 70}), plots.paper(3.3), plots.style():
        with pytest.raises(MechsteerError, match=r"3\.3 inches wide has no room for its panels.*larger width"):
            plots.save(made(1), tmp_path / "refused")
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


def test_a_figure_in_no_format_is_refused() -> None:
    with pytest.raises(MechsteerError, match="needs a format to be written in: some of pdf"), plots.paper(formats=[]):
        pass


def test_numbers_in_a_map_stay_in_their_cells(tmp_path: Path) -> None:
    def numbers(columns: int, size: float) -> tuple[list[Text], float]:
        cells = pd.DataFrame({"layer": 0, "strength": range(columns), "change": -33.3})
        with mpl.rc_context({"font.size": size}), plots.paper(3.3, formats=["png"]):
            with plots.style():
                figure, (axes,) = plots.figure(width=3.0, height=2.0)
                plots.heatmap(axes, cells, x="strength", y="layer", value="change", limit=80.0, **LABELS)
            plots.save(figure, tmp_path / "f")
        return list(axes.texts), axes.get_window_extent().width / columns

    texts, _ = numbers(3, 9)
    assert {text.get_fontsize() for text in texts} == {8.0}, "as the house has them, where they fit"
    texts, cell = numbers(6, 14)
    renderer = FigureCanvasAgg(texts[0].get_figure(root=True)).get_renderer()
    assert all(text.get_visible() and text.get_window_extent(renderer).width < cell for text in texts)
    assert len({text.get_fontsize() for text in texts}) == 1 and texts[0].get_fontsize() < 14 * 8 / 9
    texts, _ = numbers(24, 9)
    assert not any(text.get_visible() for text in texts)


def test_stacked_panels_share_the_height_of_a_page() -> None:
    with plots.paper(3.3):
        assert plots.figure(2, rows=2, width=3.3, height=3.0)[0].get_size_inches().tolist() == [3.3, 8.6]
        assert plots.figure(2, width=3.3, height=3.0)[0].get_size_inches().tolist() == [3.3, 6.0]
    assert plots.figure(2, rows=4, width=3.3, height=3.0)[0].get_size_inches().tolist() == [6.6, 12.0]


def test_what_is_higher_than_a_page_says_shared_labels_once(tmp_path: Path) -> None:
    sheet = tmp_path / "large.mplstyle"
    sheet.write_text("font.size: 12\n", encoding="utf-8")
    with plots.paper(3.3, formats=["svg"], style=sheet), plots.style():
        made, axes = plots.figure(3, rows=2, width=3.3, height=2.7)
        for place, axis in enumerate(axes):
            axis.plot([0, 1] if place < 4 else [0, 5], [0, 1])
            axis.set(
                title="A title of two lines\nin every panel", ylabel="Score", xlabel="Tokens" if place else "Notes"
            )
        plots.save(made, tmp_path / "f")
    assert made.get_size_inches()[1] < 9.1
    assert [axis.get_xlabel() for axis in axes] == ["Notes", "", "", "", "", "Tokens"]
    shown = [any(label.get_visible() for label in axis.get_xticklabels()) for axis in axes]
    assert shown == [True, False, False, True, False, True]  # where the panel below has other numbers, they stay
    heights = [axis.get_position().height * made.get_size_inches()[1] for axis in axes]
    assert min(heights) > 0.6


def test_panels_of_any_number_leave_no_gaps_when_they_go_below() -> None:
    made, axes = plots.figure(3, panels=5, width=2.0, height=1.5)
    assert len(axes) == len(made.axes) == 5 and made.get_size_inches().tolist() == [6.0, 3.0]
    assert plots.figure(4, panels=2, width=2.0, height=1.5)[0].get_size_inches().tolist() == [4.0, 1.5]
    with plots.paper(3.3):
        made, axes = plots.figure(3, panels=5, width=2.0, height=1.5)
    places = [(axis.get_subplotspec().rowspan.start, axis.get_subplotspec().colspan.start) for axis in axes]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)] and made.get_size_inches().tolist() == [3.3, 4.5]


def test_slanted_labels_are_not_put_upright_where_they_have_room(tmp_path: Path) -> None:
    turned = {}
    for count in (7, 24):
        with plots.paper(3.3, formats=["svg"]), plots.style():
            figure, (axes,) = plots.figure(width=3.3, height=2.0)
            axes.bar(range(count), range(count))
            axes.set_xticks(range(count), [f"keyword {place}" for place in range(count)])
            plots.save(figure, tmp_path / "f")
        turned[count] = {label.get_rotation() for label in axes.get_xticklabels()}
    assert turned == {7: {40.0}, 24: {90.0}}


def test_names_at_the_side_leave_room_for_the_panel(tmp_path: Path) -> None:
    widths = {}
    for count in (3, 12):
        with plots.paper(3.3, formats=["svg"]), plots.style():
            figure, (axes,) = plots.figure(width=3.3, height=2.0)
            axes.barh(range(count), range(count))
            axes.set_yticks(range(count), [f"several of them, with instructions, steered {n}" for n in range(count)])
            plots.save(figure, tmp_path / "f")
        widths[count] = axes.get_position().width
    assert widths[3] > 0.5 > widths[12], "of many names none is broken"


def test_what_is_not_steered_is_grey_and_bars_come_first_in_even_rows() -> None:
    table = pd.DataFrame({"x": [0, 1] * 3, "y": range(6), "way": ["unsteered"] * 2 + ["a"] * 2 + ["b"] * 2})
    with plots.style():
        made, (left, right) = plots.figure(2)
        plots.lines(left, table, x="x", y="y", by="way", **LABELS)
        left.plot([0], [0], "D", label="fidelity")
        bars = grouped_bars(right, table, x="x", y="y", by="way")
        legend_above(made, right, 5)
        legend_above(made, [right, left], 3)
    colours = [PLAIN, *plots.COLOURS[:2]]
    assert [line.get_color() for line in left.lines[:3]] == colours
    assert [to_rgba(bar[0].get_facecolor()) for bar in bars.values()] == [to_rgba(colour) for colour in colours]
    first, second = made.legends
    assert first._ncols == 3 and second._ncols == 2  # four labels, at most three beside each other
    assert [text.get_text() for text in second.texts] == ["unsteered", "a", "b", "fidelity"]


def test_panels_keep_their_order_when_they_go_below() -> None:
    with plots.paper(5.0):
        made, axes = plots.figure(3, rows=2, width=3.0, height=2.0)
    places = [(axis.get_subplotspec().rowspan.start, axis.get_subplotspec().colspan.start) for axis in axes]
    assert places == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)] and made.get_size_inches().tolist() == [5.0, 8.0]
    assert [leftmost(axis) for axis in axes] == [True, False, True] * 2


def test_the_users_settings_win(tmp_path: Path) -> None:
    style = tmp_path / "mine.mplstyle"
    style.write_text("font.size: 6.5\naxes.spines.top: True  # a frame\n")
    with plots.paper(style=style), plots.style():
        assert mpl.rcParams["font.size"] == 6.5 and mpl.rcParams["axes.spines.top"] and points(9) == 6.5
        assert mpl.rcParams["legend.frameon"] is False
    with mpl.rc_context({"font.size": 14}), plots.style():
        assert mpl.rcParams["font.size"] == 14 and mpl.rcParams["axes.titlesize"] == 10
    with plots.style():
        assert mpl.rcParams["font.size"] == 9


def drawn_lines() -> tuple[list[Any], list[Any]]:
    """The lines of the charts that have some, and the colours of bars."""
    three = pd.DataFrame({"layer": [0, 1] * 3, "y": [1.0, 2.0] * 3, "who": [w for w in "abc" for _ in range(2)]})
    with plots.style():
        _, axes = plots.figure(5)
        plots.lines(axes[0], three, x="layer", y="y", by="who", **LABELS)
        plots.curves(axes[1], three, y="y", by="who")
        plots.rank_trajectories(axes[2], three, x="layer", y="y", by="who")
        interval_rows(axes[3], three[:2], "y", 0.0, (plots.MARKERS[0], plots.COLOURS[0]), label="a")
        bars = grouped_bars(axes[4], three, x="layer", y="y", by="who")
    lines = [line for ax in axes[:4] for line in ax.lines if line.get_marker() not in ("None", "")]
    return lines, [bar[0].get_facecolor() for bar in bars.values()]


def test_lines_colours_and_markers_are_the_users_where_he_sets_them(tmp_path: Path) -> None:
    lines, bars = drawn_lines()
    assert [line.get_color() for line in lines] == [*plots.COLOURS[:3] * 3, plots.COLOURS[0]]
    assert {line.get_markersize() for line in lines} == {4}
    assert [line.get_linewidth() for line in lines[:9]] == [1.4] * 9
    assert bars == [to_rgba(colour) for colour in plots.COLOURS[:3]]
    style = tmp_path / "mine.mplstyle"
    cycle = "cycler(color=['k', '0.5'], marker=['x', '+'])"
    style.write_text(f"lines.linewidth: 0.7\nlines.markersize: 2.5\naxes.prop_cycle: {cycle}\n")
    with plots.paper(style=style):
        inside = drawn_lines()
        assert list(plots.COLOURS) == ["k", "0.5"] * 4 and plots.COLOURS[6] == "k"
    with mpl.rc_context(dict(mpl.rc_params_from_file(style, use_default_template=False))):
        elsewhere = drawn_lines()
    for lines, bars in (inside, elsewhere):
        assert [line.get_color() for line in lines] == [*["k", "0.5", "k"] * 3, "k"]
        assert [line.get_marker() for line in lines] == [*["x", "+", "x"] * 3, "x"]
        assert {line.get_markersize() for line in lines} == {2.5}
        assert {line.get_linewidth() for line in lines} == {0.7}
        assert bars == [to_rgba(colour) for colour in ("k", "0.5", "k")]
    assert plots.COLOURS[0] == "#0072B2" and plots.MARKERS[0] == "o"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width": 0.2}, "at least 1.*got 0.2"),
        ({"width": float("nan")}, "width"),
        ({"formats": ["pfd"]}, "Did you mean 'pdf'"),
        ({"style": "nowhere.mplstyle"}, "No such style sheet"),
        ({"style": "wrong.mplstyle"}, "sets 'font.sise'"),
        ({"style": "bad.mplstyle"}, "bad.mplstyle is not a style sheet"),
    ],
)
def test_paper_that_makes_no_sense(given: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.mplstyle").write_text("font.sise: 7\n")
    Path("bad.mplstyle").write_text("font.size: big\n")
    with pytest.raises(MechsteerError, match=said), plots.paper(**given):
        pass
