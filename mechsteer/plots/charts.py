"""Charts over layers: curves with intervals, ranks of tokens, bars by sublayer."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.plots.bars import grouped_bars
from mechsteer.plots.base import COLOURS, grid_lines, legend_columns, look, looks, points
from mechsteer.plots.labels import SUBLAYERS, interval, need, numeric, one_each, quantity, token_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def curves(
    axes: "Axes",
    table: "pd.DataFrame",
    *,
    y: str,
    x: str = "layer",
    by: str | None = None,
    low: str | None = None,
    high: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str = "",
    legend: bool = True,
) -> None:
    """A quantity over layers: one line for each value of ``by``, with a shaded interval where the table has one.

    Args:
        axes: Where to draw.
        table: One row a point.
        y: Column of the quantity.
        x: Column of the horizontal axis.
        by: Column that tells lines apart; None for one line.
        low: Column of the interval's lower end. Default: ``<y>_low``, or ``low`` if that is of this quantity.
        high: Column of its upper end; default likewise.
        xlabel: Label of the horizontal axis; default by column.
        ylabel: Label of the vertical axis, with its unit; default by column.
        title: Title of the panel.
        legend: With ``by``, name the lines.

    Raises:
        MechsteerError: for a missing column, an empty table, or several rows for one point.
    """
    need(table, x, y, *([by] if by else []))
    table = numeric(table, x, y)
    ends = interval(table, y, low, high)
    one_each(table, [by, x] if by else [x], "point")
    groups = list(table.groupby(by, sort=False, dropna=False)) if by else [(None, table)]
    for line, (name, part) in zip(looks([name for name, _ in groups]), groups, strict=True):
        ordered = part.sort_values(x)
        if ends is not None:
            below, above = (ordered[end] for end in ends)
            axes.fill_between(ordered[x], below, above, color=line["color"], alpha=0.2, linewidth=0)
        axes.plot(ordered[x], ordered[y], **line, label="" if name is None else str(name).replace("_", " "))
    _finish(axes, quantity(x) if xlabel is None else xlabel, quantity(y, table) if ylabel is None else ylabel, title)
    _whole_numbers(axes, table[x].tolist())
    if by and legend:
        axes.legend(loc="best")


def rank_trajectories(
    axes: "Axes",
    table: "pd.DataFrame",
    *,
    x: str = "exit",
    y: str = "rank",
    by: str = "token",
    xlabel: str | None = None,
    title: str = "",
) -> None:
    """The rank of named tokens by exit: a log scale with rank 1 on top, and each token's name at the end of its line.

    Args:
        axes: Where to draw.
        table: One row a token and exit.
        x: Column of the exits.
        y: Column of the ranks, from 1.
        by: Column of the tokens.
        xlabel: Label of the horizontal axis; default by column.
        title: Title of the panel.

    Raises:
        MechsteerError: for a missing column, an empty table, several rows for one point, or a rank below 1.
    """
    need(table, x, y, by)
    table = numeric(table, x, y)
    one_each(table, [by, x], "point")
    wrong = table.loc[~(table[y] >= 1), y]
    if len(wrong):
        raise MechsteerError(f"Ranks begin at 1, but the column {y!r} has {wrong.iloc[0]}.")
    ends: list[tuple[str, float, str]] = []
    for place, (name, part) in enumerate(table.groupby(by, sort=False, dropna=False)):
        ordered, line, label = part.sort_values(x), look(place), token_label(str(name))
        axes.plot(ordered[x], ordered[y], **line, label=label)
        ends.append((label, float(ordered[y].iloc[-1]), line["color"]))
    deepest = float(table[y].max())
    axes.set_yscale("log")
    axes.set_ylim(max(deepest, 10.0) * 1.4, 0.8)
    powers = [10**power for power in range(math.ceil(math.log10(max(deepest, 10.0))) + 1)]
    axes.set_yticks([p for p in powers if p <= max(deepest, 10.0) * 1.4])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter("")
    _finish(axes, quantity(x) if xlabel is None else xlabel, "Rank (log scale)", title)
    _whole_numbers(axes, table[x].tolist())
    _label_ends(axes, ends)


def _label_ends(axes: "Axes", ends: Sequence[tuple[str, float, str]]) -> None:
    """Write names to the right of the panel, at their heights, moved apart where they would overlap."""
    bottom, top = (math.log10(limit) for limit in axes.get_ylim())
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    gap = min(10 / height, 1 / max(len(ends), 1))
    order = sorted(ends, key=lambda end: end[1], reverse=True)
    heights: list[float] = []
    for _, rank, _ in order:
        wanted = (math.log10(rank) - bottom) / (top - bottom)
        heights.append(max(wanted, heights[-1] + gap) if heights else wanted)
    for place in range(len(heights) - 1, -1, -1):  # what was pushed above the panel comes down again
        ceiling = 0.98 if place == len(heights) - 1 else heights[place + 1] - gap
        heights[place] = min(heights[place], ceiling)
    for (name, _, colour), fraction in zip(order, heights, strict=True):
        axes.text(
            1.02,
            fraction,
            name,
            transform=axes.transAxes,
            color=colour,
            va="center",
            fontsize=points(8),
            parse_math=False,
        )


def sublayer_bars(
    axes: "Axes",
    table: "pd.DataFrame",
    *,
    y: str,
    x: str = "layer",
    by: str = "sublayer",
    low: str | None = None,
    high: str | None = None,
    stacked: bool = False,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str = "",
    legend: bool = True,
) -> None:
    """Bars by layer and sublayer, side by side with their intervals, or stacked.

    Args:
        axes: Where to draw.
        table: One row a bar.
        y: Column of the quantity.
        x: Column of the layers.
        by: Column of the sublayers, drawn in their order in a block; others after them.
        low: Column of the interval's lower end. Default: ``<y>_low``, or ``low`` if that is of this quantity.
        high: Column of its upper end; default likewise.
        stacked: On top of each other, without intervals: for shares, none of them negative.
        xlabel: Label of the horizontal axis; default by column.
        ylabel: Label of the vertical axis, with its unit; default by column.
        title: Title of the panel.
        legend: Name the sublayers.

    Raises:
        MechsteerError: for a missing column, an empty table, several rows for one bar, or bars that cannot be stacked.
    """
    need(table, x, y, by)
    table = numeric(table, y)
    one_each(table, [x, by], "bar")
    interval(table, y, low, high)
    if stacked and (low is not None or (table[y] < 0).any()):
        raise MechsteerError("Stacked bars have no intervals and cannot be negative; draw them with stacked=False.")
    layers, names = sorted(table[x].unique()), sorted(table[by].unique(), key=_place_in_block)
    labels = {name: SUBLAYERS.get(str(name), str(name).replace("_", " ")) for name in names}
    if stacked:
        _stacked(axes, table.pivot(index=x, columns=by, values=y).reindex(layers)[names], labels)
    else:
        ordered = table.sort_values(by, key=lambda column: column.astype(object).map(_place_in_block), kind="stable")
        grouped_bars(axes, ordered, x=x, y=y, by=by, groups=layers, low=low, high=high, labels=labels)
    if (table[y] < 0).any():
        axes.axhline(0, color="0.3", linewidth=0.8)
    _finish(axes, quantity(x) if xlabel is None else xlabel, quantity(y, table) if ylabel is None else ylabel, title)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    if legend:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=legend_columns(min(len(names), 4)))


def _stacked(axes: "Axes", heights: "pd.DataFrame", labels: Mapping[Any, str]) -> None:
    floor: Any = 0.0  # not of the first bars: where one of them is missing, the others still stand somewhere
    for colour, name in zip(itertools.cycle(COLOURS), heights, strict=False):
        look: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.4, "label": labels[name]}
        axes.bar(range(len(heights)), heights[name], 0.8, bottom=floor, **look)
        floor = floor + heights[name].fillna(0.0)


def _place_in_block(sublayer: Any) -> int:
    order = list(dict.fromkeys(SUBLAYERS.values()))
    return order.index(SUBLAYERS[sublayer]) if sublayer in SUBLAYERS else len(order)


def _finish(axes: "Axes", xlabel: str, ylabel: str, title: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    grid_lines(axes)


def _whole_numbers(axes: "Axes", values: Sequence[float]) -> None:
    """Ticks at whole numbers where all values are."""
    from matplotlib.ticker import MaxNLocator

    if all(float(value).is_integer() for value in values):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
