"""Words of a figure that are too wide for it: titles and labels are broken into lines, ticks are turned."""

import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS = 3
"""The layout moves when words do, so fitting is done again."""


def fit(figure: "Figure") -> None:
    """Fit the words of a figure to its width, in place."""
    for _ in range(ROUNDS):
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        changed = [act(axes, renderer) for axes in figure.axes for act in (_wrapped, _turned)]
        if not any(changed):
            return


def _wrapped(axes: Any, renderer: Any) -> bool:
    """Titles and axis labels longer than their axis are broken."""
    box = axes.get_window_extent(renderer)
    changed = False
    for text, room in (
        (axes.title, box.width),
        (axes.xaxis.label, box.width * 1.15),
        (axes.yaxis.label, box.height * 1.1),
    ):
        said = text.get_text()
        size = text.get_window_extent(renderer)
        long = size.height if text is axes.yaxis.label else size.width
        if said and long > room > 0 and " " in said:
            longest = max(map(len, said.split("\n")))
            width = max(8, int(longest * room / long))
            broken = textwrap.fill(" ".join(said.split()), width, break_long_words=False, break_on_hyphens=False)
            if broken != said:
                text.set_text(broken)
                changed = True
    return changed


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
    elif turn == 40:
        for label in labels:
            label.set(rotation=90, ha="center", va="top", rotation_mode="default")
    else:
        return False
    return True
