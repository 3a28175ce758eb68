"""Words of a figure that are too wide for it: titles and labels are broken into lines, ticks are turned."""

import textwrap
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mechsteer.plots.paper import current

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 3
"""Pixels between a legend and what it would have lain on."""

ROUNDS = 6
"""The layout moves when words do, so fitting is done again."""


def fit(figure: "Figure") -> None:
    """Fit the words of a figure to its width, in place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    for _ in range(ROUNDS):
        with warnings.catch_warnings():  # panels that have no room for their words before these are broken
            warnings.filterwarnings("ignore", "constrained_layout not applied")
            canvas.draw()
        renderer = canvas.get_renderer()
        changed = [_of_whole(figure, renderer)]
        changed += [act(axes, renderer) for axes in figure.axes for act in (_wrapped, _turned, _apart)]
        if not any(changed):
            return


def _wrapped(axes: Any, renderer: Any) -> bool:
    """Titles and axis labels longer than their axis are broken."""
    box = axes.get_window_extent(renderer)
    middle, whole = (box.x0 + box.x1) / 2, axes.get_figure().bbox.width
    below = 1.15 * box.width
    if current().width is not None:  # what is beyond the figure's edge would be cut
        below = min(below, 2 * min(middle, whole - middle))
    rooms = ((axes.title, box.width), (axes.xaxis.label, below), (axes.yaxis.label, 1.1 * box.height))
    return any([_broken(text, room, renderer, up=text is axes.yaxis.label) for text, room in rooms])


def _of_whole(figure: "Figure", renderer: Any) -> bool:
    """What is written across a whole figure is broken too."""
    texts = [getattr(figure, name, None) for name in ("_suptitle", "_supxlabel")]
    return any([_broken(text, 0.95 * figure.bbox.width, renderer) for text in texts if text is not None])


def _broken(text: Any, room: float, renderer: Any, *, up: bool = False) -> bool:
    """Break a text that is longer than its room; whether it was."""
    said, size = text.get_text(), text.get_window_extent(renderer)
    long = size.height if up else size.width
    if not said or long <= room or room <= 0 or " " not in said:
        return False
    width = max(8, int(max(map(len, said.split("\n"))) * room / long))
    made = textwrap.fill(" ".join(said.split()), width, break_long_words=False, break_on_hyphens=False)
    lines = made.count("\n") - said.count("\n")
    if not up and lines > 0:  # the figure grows by what its panels would lose
        beside = text.axes.get_gridspec().ncols if text.axes is not None and text.axes.get_subplotspec() else 1
        figure = text.get_figure()
        figure.set_figheight(figure.get_figheight() + lines * text.get_fontsize() * 1.2 / 72 / beside)
    text.set_text(made)
    return made != said


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
    if not any(a.x1 + 1 > b.x0 for a, b in pairwise(boxes)) or axes.get_xscale() != "linear":
        return False
    turn = labels[0].get_rotation()
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
