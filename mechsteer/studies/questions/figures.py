"""The figures of the study :mod:`mechsteer.studies.questions`, from its tables alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mechsteer import plots
from mechsteer.plots.bars import ERRORS
from mechsteer.plots.base import PLAIN, leftmost, legend_above
from mechsteer.plots.own import line_width, marker_size
from mechsteer.studies.questions import linear, numbers, pools

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("summary",)
OPTIONAL = (
    "numbers_cosine",
    "numbers_fit",
    "numbers_steering",
    "architectures",
    "architectures_kinds",
    "compound",
    "linear_prediction",
    "linear_steering",
)
GOOD = "Followed and good (%)"


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """The figure of each part that was run, from its tables."""
    made: dict[str, Figure] = {}
    with plots.style():
        if "numbers_cosine" in tables:
            made["numbers"] = pairs_needed(*(tables[f"numbers_{name}"] for name in ("cosine", "fit", "steering")))
        if "architectures" in tables and len(tables["architectures"]):
            made["architectures"] = crossings(tables["architectures"], tables["architectures_kinds"])
        if "compound" in tables and len(tables["compound"]):
            made["compound"] = both(tables["compound"])
        if "linear_prediction" in tables:
            made["linear"] = shift_or_map(tables["linear_prediction"], tables["linear_steering"])
    return made


def pairs_needed(cosine: "pd.DataFrame", fit: "pd.DataFrame", steering: "pd.DataFrame") -> "Figure":
    """Cosine between two sides' vectors with the fitted curve, with the reference, and answers, by number of pairs."""
    made, axes = plots.figure(3, width=3.0, height=2.9)
    fits = fit[fit["kind"] == "all"].set_index("pool")
    for place, pool in enumerate((*pools.POOLS, numbers.SHUFFLED)):
        part = cosine[cosine["pool"] == pool]
        for ax, measure in zip(axes, ("repeat", "reference"), strict=False):
            means = part.groupby("pairs")[measure].mean()
            ax.plot(
                means.index,
                means,
                plots.MARKERS[place],
                color=plots.COLOURS[place],
                markersize=marker_size(4),
                label=pool,
            )
        n = np.geomspace(1, part["pairs"].max(), 60)
        curve = fits.loc[pool, "ceiling"] * n / (n + fits.loc[pool, "k"])
        axes[0].plot(n, curve, color=plots.COLOURS[place], linewidth=line_width(1))
        axes[0].set_title("Lines: fitted c · n / (n + k)")
        _steered(axes[2], steering[steering["pool"] == pool], place)
    plain = steering[steering["pool"] == "unsteered"].iloc[0]
    axes[2].axhline(plain["value_percent"], color="0.4", linestyle="--", linewidth=1, label="unsteered")
    for ax, label in zip(axes, ("Cosine of two sides' vectors", "Cosine with other topics' vector", GOOD), strict=True):
        ax.set_xscale("log", base=2)
        ticks = sorted(set(cosine["pairs"]))
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set(xlabel="Pairs", ylabel=label)
    axes[2].set_ylim(-4, 104)
    for ax in axes[:2]:
        ax.set_ylim(min(-0.1, ax.get_ylim()[0]), 1.04)
    legend_above(made, axes, 5)
    return made


def _steered(ax: "Axes", part: "pd.DataFrame", place: int) -> None:
    x = part["pairs"] * 2 ** (0.12 * (place - 1.5))  # beside each other
    ax.errorbar(
        x,
        part["value_percent"],
        yerr=_bars(part, "value_percent", "value"),
        fmt=plots.MARKERS[place],
        color=plots.COLOURS[place],
        markersize=marker_size(4),
        linewidth=line_width(1),
    )


def _bars(part: "pd.DataFrame", middle: str, name: str) -> list[Any]:
    """What matplotlib's error bars take."""
    return [
        (part[middle] - part[f"{name}_low"]).clip(lower=0).tolist(),
        (part[f"{name}_high"] - part[middle]).clip(lower=0).tolist(),
    ]


def crossings(table: "pd.DataFrame", kinds: "pd.DataFrame") -> "Figure":
    """Answers under own, mapped and control vectors, and R2 against cosine of the maps; a row a crossing."""
    groups = list(table.groupby(["source", "target"], sort=False))
    made, axes = plots.figure(2, rows=len(groups), width=4.2, height=2.5)
    for row, ((source, target), part) in enumerate(groups):
        left, right = axes[2 * row], axes[2 * row + 1]
        _bar(left, part["map"].tolist(), part)
        left.set_title(f"{_short(source)} → {_short(target)}")
        mine = kinds[(kinds["source"] == source) & (kinds["target"] == target)]
        for place, (name, some) in enumerate(mine.groupby("map", sort=False)):
            colour, marker = plots.COLOURS[place], plots.MARKERS[place]
            right.plot(
                some["r2"].clip(lower=-0.5),
                some["cosine"],
                marker,
                color=colour,
                markersize=marker_size(4),
                label=name,
            )
        right.axhline(0, color="0.8", linewidth=0.8)
        right.axvline(0, color="0.8", linewidth=0.8)
        right.set(xlabel="Held-out R² of states (below −0.5 at −0.5)", ylabel="Cosine with own vector")
        right.set(xlim=(-0.55, 1.04), ylim=(-1.04, 1.04))
    legend_above(made, axes[1], 4)
    return made


def _short(name: Any) -> str:
    return str(name).removeprefix("organism:").rstrip("/").rsplit("/", 1)[-1]


def _bar(ax: "Axes", names: Sequence[str], part: "pd.DataFrame") -> None:
    """Horizontal bars of what was followed and good."""
    places = range(len(names))
    colours = [plots.COLOURS[0] if name not in _CONTROLS else PLAIN for name in names]
    ends = _bars(part, "value_percent", "value")
    ax.barh(places, part["value_percent"], xerr=ends, color=colours, height=0.65, error_kw=ERRORS)
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.set(xlabel=GOOD, xlim=(0, 104))


_CONTROLS = {"unsteered", "shuffled", "random orthogonal", "random", "both in the prompt", "first", "second"}


def both(table: "pd.DataFrame") -> "Figure":
    """Each way's share of answers that follow both instructions and are good; a panel a pair, the mean first."""
    pairs = ["all", *(pair for pair in dict.fromkeys(table["pair"]) if pair != "all")]
    made, axes = plots.figure(len(pairs), width=2.3, height=3.2)
    for ax, pair in zip(axes, pairs, strict=True):
        part = table[table["pair"] == pair]
        _bar(ax, part["way"].tolist(), part)
        ax.set_title("all pairs" if pair == "all" else pair.replace("+", " + "))
        if not leftmost(ax):
            ax.set_yticklabels([])
    return made


def shift_or_map(predicted: "pd.DataFrame", steered: "pd.DataFrame") -> "Figure":
    """How much of a constant shift's error each way mends for new topics, and answers at equal divergence."""
    made, axes = plots.figure(2, width=4.4, height=3.4)
    every = predicted[(predicted["kind"] == "all") & (predicted["way"] != linear.SHIFT)]
    places = range(len(every))
    colours = [PLAIN if "shuffled" in way or way == "one state" else plots.COLOURS[0] for way in every["way"]]
    bars = [[100 * value for value in some] for some in _bars(every, "beyond_shift", "beyond_shift")]
    axes[0].barh(places, 100 * every["beyond_shift"], xerr=bars, color=colours, error_kw=ERRORS)
    axes[0].set_yticks(places, every["way"])
    axes[0].invert_yaxis()
    axes[0].axvline(0, color="0.4", linewidth=0.8)
    axes[0].set(xlabel="Mended of a constant shift's error (%)")
    targets = sorted(set(steered["target"]))
    ways = list(dict.fromkeys(steered["way"]))
    coloured = [way for way in ways if way not in (linear.RANDOM, linear.SHUFFLED)]
    for place, way in enumerate(ways):
        part = steered[steered["way"] == way]
        axes[1].errorbar(
            [targets.index(t) + 0.09 * (place - (len(ways) - 1) / 2) for t in part["target"]],
            part["value_percent"],
            yerr=_bars(part, "value_percent", "value"),
            fmt=plots.MARKERS[place % len(plots.MARKERS)],
            color=plots.COLOURS[coloured.index(way) % len(plots.COLOURS)] if way in coloured else PLAIN,
            markersize=marker_size(4),
            linewidth=line_width(1),
            label=str(way),
        )
    axes[1].set_xticks(range(len(targets)), [f"{t:g}" for t in targets])
    axes[1].set(xlabel="Divergence from the unsteered model (nats)", ylabel=GOOD, ylim=(-4, 104))
    legend_above(made, axes[1], 4)
    return made


DRAWN = {"numbers": pairs_needed, "architectures": crossings, "compound": both, "linear": shift_or_map}
"""The functions of the figures that are called otherwise."""
