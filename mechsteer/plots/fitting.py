"""Words of a figure that are too wide for it: they are broken, turned, shrunk or left out, and panels keep a height."""

import math
import textwrap
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.plots.paper import TALLEST, current

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 3
"""Pixels between a legend and what it would have lain on."""

ROUNDS = 8
"""The layout moves when words do, so fitting is done again."""

KEPT = 0.45
"""The part of its row's height that a panel keeps; the figure grows by what its words would take of that."""

MOST = 3
"""How many times its height a figure may grow to."""

IN_CELL = "in a cell"
"""The label of numbers that must stay inside their cell of a map."""

BESIDE = 0.4
"""The part of a figure's width that names at the side of its panels may take."""

FEW = 8
"""More names than this in a panel are not broken: they would need too much of its height."""

READABLE = 4.5
"""Points below which such numbers are left out."""


def fit(figure: "Figure") -> None:
    """Fit the words of a figure to its width, in place.

    Raises:
        MechsteerError: if the words leave no room for the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    first = figure.get_figheight()
    _settled(figure, canvas, first)
    if figure.get_figheight() > TALLEST and current().width is not None:
        if _said_once(figure):
            figure.set_figheight(first)
            _settled(figure, canvas, first)
        _lowered(figure, _least(figure, canvas.get_renderer(), first))
    if figure.get_figheight() > MOST * first or not _laid_out(canvas):
        width, size = figure.get_figwidth(), figure.axes[0].xaxis.label.get_fontsize()
        raise MechsteerError(
            f"A figure {width:g} inches wide has no room for its panels beside letters of {size:g} points: "
            "give a larger width, or a smaller font.size in the style."
        )


def _settled(figure: "Figure", canvas: Any, first: float) -> None:
    """Fit words and panels to each other until nothing moves any more."""
    for _ in range(ROUNDS):
        laid = _laid_out(canvas)
        renderer = canvas.get_renderer()
        if any([_beside(axes, renderer) for axes in figure.axes]):
            continue  # the panels become wider, and what is above and below them may stay
        changed = [_of_whole(figure, renderer)]
        acts = (_wrapped, _turned, _apart, _numbers)
        changed += [act(axes, renderer) for axes in figure.axes for act in acts]
        if not laid:
            figure.set_figheight(1.25 * figure.get_figheight())
        elif not any(changed) and not _grown(figure, _least(figure, renderer, first)):
            break


def _least(figure: "Figure", renderer: Any, first: float) -> "dict[Any, float]":
    """The height in inches that each panel should have: a part of its first one, and room for the names at its side."""
    from matplotlib.ticker import FixedLocator

    found = {}
    for axes in figure.axes:
        if axes.get_subplotspec():
            names = axes.get_yticklabels() if isinstance(axes.yaxis.get_major_locator(), FixedLocator) else []
            tall = [one.get_window_extent(renderer).height for one in names if one.get_text()]
            named = len(tall) * max(tall, default=0.0) / figure.dpi
            found[axes] = max(KEPT * first / _rows(axes), named)
    return found


def _said_once(figure: "Figure") -> bool:
    """Take away the labels below a panel that the panel under it has as well; whether there were some."""
    done = False
    panels = {axes: spec for axes in figure.axes if (spec := axes.get_subplotspec())}
    for axes, spec in panels.items():
        below = [
            other
            for other, its in panels.items()
            if its.rowspan.start == spec.rowspan.stop and its.colspan == spec.colspan
        ]
        if not below or axes.get_legend() is not None or axes.get_xlabel() != below[0].get_xlabel():
            continue
        same = _ticks(axes) == _ticks(below[0])
        axes.set_xlabel("")
        axes.tick_params(labelbottom=not same)
        done = True
    return done


def _ticks(axes: Any) -> list[tuple[float, str]]:
    """Where the labels below a panel are, as shares of its width, and what they say."""
    low, high = axes.get_xlim()
    marks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=False)
    return [(round((place - low) / (high - low), 3), label.get_text()) for place, label in marks]


def _lowered(figure: "Figure", least: "dict[Any, float]") -> None:
    """Make a figure as low as a page, where its panels have the height to spare."""
    inches = figure.get_figheight()
    spare = [(axes.get_position().height * inches - height) * _rows(axes) for axes, height in least.items()]
    figure.set_figheight(max(TALLEST, inches - max(0.0, min(spare, default=0.0))))


def _laid_out(canvas: Any) -> bool:
    """Draw the figure; whether its panels had room beside their words."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        canvas.draw()
    return not any("constrained_layout not applied" in str(one.message) for one in found)


def _rows(axes: Any) -> int:
    return axes.get_subplotspec().get_gridspec().nrows


def _grown(figure: "Figure", least: "dict[Any, float]") -> bool:
    """Make a figure higher where a panel is lower than the least that it should be; whether it was."""
    inches = figure.get_figheight()
    lacks = [(height - axes.get_position().height * inches) * _rows(axes) for axes, height in least.items()]
    if max(lacks, default=0) < 0.05:
        return False
    figure.set_figheight(inches + max(lacks))
    return True


def _numbers(axes: Any, renderer: Any) -> bool:
    """Numbers in the cells of a map that are wider than these are shrunk together, or left out."""
    texts = [text for text in axes.texts if text.get_label() == IN_CELL and text.get_visible()]
    if not texts:
        return False
    (left, bottom), (right, top) = axes.transData.transform([(0, 0), (1, 1)])
    boxes = [text.get_window_extent(renderer) for text in texts]
    room = min(
        0.92 * abs(right - left) / max(box.width for box in boxes),
        abs(top - bottom) / max(box.height for box in boxes),
    )
    if room >= 1:
        return False
    size = texts[0].get_fontsize() * room
    for text in texts:
        text.set(fontsize=size, visible=size >= READABLE)
    return True


def _wrapped(axes: Any, renderer: Any) -> bool:
    """Titles and axis labels longer than their axis are broken."""
    box = axes.get_window_extent(renderer)
    middle, whole = (box.x0 + box.x1) / 2, axes.get_figure().bbox.width
    below = 1.15 * box.width
    if current().width is not None:  # what is beyond the figure's edge would be cut
        below = min(below, 2 * min(middle, whole - middle))
    rooms = ((axes.title, box.width), (axes.xaxis.label, below), (axes.yaxis.label, 1.1 * box.height))
    return any([_broken(text, room, renderer, up=text is axes.yaxis.label) for text, room in rooms])


def _beside(axes: Any, renderer: Any) -> bool:
    """Names at the side of a panel that take much of its width are broken, where they are few."""
    from matplotlib.ticker import FixedLocator

    if not isinstance(axes.yaxis.get_major_locator(), FixedLocator):
        return False
    room, labels = BESIDE * axes.get_figure().bbox.width, axes.get_yticklabels()
    names = [label.get_text() for label in labels]
    if len(names) > FEW:
        return False
    wide = [label.get_window_extent(renderer).width for label in labels]
    broken = [_in_lines(name, room, long) for name, long in zip(names, wide, strict=True)]
    if broken == names:
        return False
    axes.set_yticks(axes.get_yticks(), broken, parse_math=labels[0].get_parse_math())
    return True


def _of_whole(figure: "Figure", renderer: Any) -> bool:
    """What is written across a whole figure is broken too."""
    texts = [getattr(figure, name, None) for name in ("_suptitle", "_supxlabel")]
    return any([_broken(text, 0.95 * figure.bbox.width, renderer) for text in texts if text is not None])


def _broken(text: Any, room: float, renderer: Any, *, up: bool = False) -> bool:
    """Break a text that is longer than its room; whether it was."""
    said, size = text.get_text(), text.get_window_extent(renderer)
    long = size.height if up else size.width
    made = _in_lines(said, room, long)
    if made == said:
        return False
    lines = made.count("\n") - said.count("\n")
    if not up and lines > 0:  # the figure grows by what its panels would lose
        beside = text.axes.get_gridspec().ncols if text.axes is not None and text.axes.get_subplotspec() else 1
        figure = text.get_figure()
        figure.set_figheight(figure.get_figheight() + lines * text.get_fontsize() * 1.2 / 72 / beside)
    text.set_text(made)
    return True


def _in_lines(said: str, room: float, long: float) -> str:
    """A text in lines that fit into a room, by how long it is drawn now."""
    if not said or long <= room or room <= 0 or " " not in said:
        return said
    width = max(8, int(max(map(len, said.split("\n"))) * room / long))
    return textwrap.fill(" ".join(said.split()), width, break_long_words=False, break_on_hyphens=False)


def _apart(axes: Any, renderer: Any) -> bool:
    """A legend that lies outside its panel, and on the panel's title or label, goes farther out."""
    legend = axes.get_legend()
    if legend is None:
        return False
    box, panel = legend.get_window_extent(renderer), axes.get_window_extent(renderer)
    for text, outside, step in (
        (axes.xaxis.label, box.y1 <= panel.y0, box.y1 - axes.xaxis.label.get_window_extent(renderer).y0),
        (axes.title, box.y0 >= panel.y1, axes.title.get_window_extent(renderer).y1 - box.y0),
    ):
        if outside and text.get_text() and step > 0:
            below = text is axes.xaxis.label
            shift = (-step - GAP if below else step + GAP) / panel.height
            anchor = legend.get_bbox_to_anchor().transformed(axes.transAxes.inverted())
            legend.set_bbox_to_anchor((anchor.x0, anchor.y0 + shift), transform=axes.transAxes)
            return True
    return False


def _turned(axes: Any, renderer: Any) -> bool:
    """Labels below the horizontal axis that run into each other are turned; of numbers, every other one is left out."""
    labels = [label for label in axes.get_xticklabels() if label.get_text() and label.get_visible()]
    boxes = [label.get_window_extent(renderer) for label in labels]
    if len(labels) < 2 or axes.get_xscale() != "linear":
        return False
    turn = labels[0].get_rotation()
    if turn == 40:  # a box around slanted letters is wider than what they take
        lines = max(label.get_text().count("\n") for label in labels) + 1
        tall = 1.25 * lines * labels[0].get_fontsize() * axes.get_figure().dpi / 72
        near = any(b.x1 - a.x1 < tall / math.sin(math.radians(turn)) for a, b in pairwise(boxes))
    else:
        near = any(a.x1 + 1 > b.x0 for a, b in pairwise(boxes))
    if not near:
        return False
    if turn == 0:
        for label in labels:
            label.set(rotation=40, ha="right", rotation_mode="anchor")
        figure = axes.get_figure()
        figure.set_figheight(figure.get_figheight() + 0.6 * max(box.width for box in boxes) / figure.dpi / 2)
    elif turn == 40:
        for label in labels:
            label.set(rotation=90, ha="center", va="top", rotation_mode="default")
    else:
        return False
    return True
