"""Bars side by side, and points, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.plots.base import looks
from mechsteer.plots.labels import interval
from mechsteer.plots.own import line_width, marker_size

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ERRORS: dict[str, Any] = {"elinewidth": 0.8, "ecolor": "0.2"}
"""The look of a bar's interval."""


def errors(table: "pd.DataFrame", y: str, low: str | None = None, high: str | None = None) -> list[Any] | None:
    """How far the interval reaches below and above, for ``yerr``; None where the table has no interval.

    Rounding may put an end on the wrong side by a hair; that counts as 0, which matplotlib asks for.
    """
    ends = interval(table, y, low, high)
    if ends is None:
        return None
    return [(table[y] - table[ends[0]]).clip(lower=0), (table[ends[1]] - table[y]).clip(lower=0)]


def grouped_bars(
    axes: "Axes",
    table: "pd.DataFrame",
    *,
    x: str,
    y: str,
    by: str,
    groups: Sequence[Any] | None = None,
    low: str | None = None,
    high: str | None = None,
    colours: Sequence[str] | None = None,
    labels: Mapping[Any, str] | None = None,
    bottom: float = 0.0,
) -> dict[Any, Any]:
    """A group of bars for each value of ``x``, in it a bar for each of ``by``, in the table's order.

    Args:
        axes: Where to draw.
        table: One row a bar; intervals are drawn where it has them, as in :func:`errors`.
        x: Column of the groups; they stand at 0, 1, 2, ...
        y: Column of the heights.
        by: Column that tells the bars of a group apart.
        groups: Another order of the groups.
        low: Column of the interval's lower end; default by name.
        high: Column of its upper end.
        colours: One for each value of ``by``; default: grey for what is not steered, and the house's in order.
        labels: What the legend calls them; default: their names.
        bottom: Where the bars begin.

    Returns:
        matplotlib's bars, by the value of ``by``.
    """
    groups, ends = list(dict.fromkeys(table[x])) if groups is None else groups, interval(table, y, low, high)
    parts: dict[Any, Any] = dict(iter(table.groupby(by, sort=False, dropna=False, observed=True)))
    names = list(parts)
    colours = [one["color"] for one in looks(names)] if colours is None else colours
    width, made = 0.8 / len(names), {}
    for place, (name, rows) in enumerate(parts.items()):
        part = rows.set_index(x).reindex(groups)
        made[name] = axes.bar(
            [spot + (place - (len(names) - 1) / 2) * width for spot in range(len(groups))],
            part[y] - bottom,
            width,
            bottom=bottom,
            yerr=errors(part, y, *ends) if ends else None,
            color=colours[place % len(colours)],
            error_kw=ERRORS,
            edgecolor="white",
            linewidth=0.4,
            label=str((labels or {}).get(name, name)),
        )
    return made


def interval_rows(
    axes: "Axes", table: "pd.DataFrame", x: str, shift: float, look: tuple[str, str], *, label: str, **ends: str
) -> None:
    """A point with its interval for each row of the table, at the heights shift, shift + 1, ...

    Args:
        axes: Where to draw.
        table: One row a point.
        x: Column of the points.
        shift: The first one's height.
        look: Marker and colour.
        label: For the legend.
        ends: ``low`` and ``high``, the columns of the interval's ends; default by name.
    """
    axes.errorbar(
        table[x],
        [spot + shift for spot in range(len(table))],
        xerr=errors(table, x, **ends),
        fmt=look[0],
        markersize=marker_size(4),
        linewidth=line_width(1),
        color=look[1],
        label=label,
    )
