"""The figures of the study :mod:`mechsteer.studies.layerwise`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.bars import errors, grouped_bars
from mechsteer.plots.base import grid_lines, leftmost, legend_above, look, points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("layers", "examples", "tradeoff", "sparse", "values")
OPTIONAL = ("calculus", "opinions")
EXACT = "Exact match (%)"
"""On test words."""


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        made = {
            "layers": layers(tables["layers"]),
            "examples": examples(tables["examples"]),
            "tradeoff": tradeoff(tables["tradeoff"], tables["sparse"]),
            "heads": heads(tables["values"]),
        }
        if "calculus" in tables:
            made["calculus"] = calculus(tables["calculus"])
        if "opinions" in tables:
            made["opinions"] = opinions(tables["opinions"])
        return made


def _names(table: "pd.DataFrame", column: str = "rule") -> list[str]:
    return list(dict.fromkeys(table[column]))


def _once(ax: "Axes") -> str:
    """The label of a line of panels, at the first of them."""
    return EXACT if leftmost(ax) else ""


def layers(table: "pd.DataFrame") -> "Figure":
    """Exact match by layer with unregularised vectors: the paper's Figure 1. Dashed: without a vector."""
    names = _names(table)
    made, axes = plots.figure(3, panels=len(names), width=2.7, height=2.3)
    for ax, rule in zip(axes, names, strict=True):
        part = table[table["rule"] == rule]
        plots.curves(ax, part, y="exact_match_percent", xlabel="Layer", ylabel=_once(ax), title=rule)
        ax.axhline(part["zero_shot_percent"].iloc[0], color="0.4", linewidth=0.9, linestyle="--")
        ax.set_ylim(-3, 103)
    return made


def examples(table: "pd.DataFrame") -> "Figure":
    """Exact match by the number of training words, a line a method."""
    names = _names(table)
    made, axes = plots.figure(3, panels=len(names), width=2.8, height=2.3)
    for ax, rule in zip(axes, names, strict=True):
        part = table[table["rule"] == rule]
        labels = {"xlabel": "Training words", "ylabel": _once(ax), "title": rule}
        plots.curves(ax, part, x="examples", y="exact_match_percent", by="method", **labels, legend=False)
        ax.set_xscale("log", base=2)
        ticks = sorted(part["examples"].unique())
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_ylim(-3, 103)
    legend_above(made, axes[0], min(len(_names(table, "method")), 5))
    return made


def tradeoff(table: "pd.DataFrame", sparse: "pd.DataFrame") -> "Figure":
    """Exact match against heads that are not zero, a line a share of the l1 weight; a star: a quarter of the heads."""
    names = _names(table)
    made, axes = plots.figure(4, panels=len(names), width=2.6, height=2.5)
    labels = {0.0: "groups only", 0.5: "half and half", 1.0: "entries only (l1)"}
    for ax, rule in zip(axes, names, strict=True):
        part = table[table["rule"] == rule]
        for place, (share, line) in enumerate(part.dropna(subset="l1_share").groupby("l1_share")):
            ordered = line.sort_values("weight", ascending=False)
            label = labels.get(float(str(share)), f"l1 share {share}")
            line = look(place, width=1.2, label=label, clip_on=False)
            ax.plot(ordered["heads"], ordered["exact_match_percent"], **line)
        dense = part[part["l1_share"].isna()]
        ax.plot(dense["heads"], dense["exact_match_percent"], "X", color="black", label="unregularised", clip_on=False)
        few = sparse[sparse["rule"] == rule]
        ax.errorbar(
            few["heads"], few["exact_match_percent"],
            yerr=errors(few, "exact_match_percent"),
            fmt="*", markersize=10, color=plots.COLOURS[3], elinewidth=1, label="chosen, at most a quarter", zorder=5,
        )  # fmt: skip
        allowed = few["heads_allowed"].iloc[0]
        ax.axvline(allowed, color="0.6", linewidth=0.8, linestyle=":", label="a quarter of the heads")
        ax.set(ylabel=_once(ax), title=rule, xlabel="Heads that are not zero (mean)", ylim=(-3, 103))
        ax.set_xlim(-0.2, few["heads_of_the_layer"].iloc[0] + 0.2)
        grid_lines(ax)
    legend_above(made, axes[0], 5)
    return made


def heads(table: "pd.DataFrame") -> "Figure":
    """The entries of the first seed's vectors across heads, without and with regularisation: the paper's Figure 2."""
    names, which = _names(table), _names(table, "vector")
    count = table["head"].max() + 1
    made, axes = plots.figure(len(names), rows=len(which), width=2.3, height=0.5 + 0.17 * min(count, 40))
    for row, vector in enumerate(which):
        for column, rule in enumerate(names):
            ax = axes[row * len(names) + column]
            part = table[(table["rule"] == rule) & (table["vector"] == vector)]
            grid = part.pivot(index="head", columns="dimension", values="value").to_numpy(dtype=float)
            limit = abs(grid).max() or 1.0
            image = ax.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            bar = made.colorbar(image, ax=ax, fraction=0.06, pad=0.03)
            bar.ax.tick_params(labelsize=points(6))
            ax.set_title(f"{rule}\n{vector}" if row == 0 else vector, fontsize=points(8))
            ax.set_yticks(range(0, count, max(1, count // 8)))
            ax.tick_params(length=0, labelsize=points(7))
            if column == 0:
                ax.set_ylabel("Head", fontsize=points(8))
            if row == len(which) - 1:
                ax.set_xlabel("Dimension", fontsize=points(8))
    return made


def calculus(table: "pd.DataFrame") -> "Figure":
    """Composed rules: bars a method with intervals."""
    return _bars(table, "rule", "exact_match_percent", EXACT)


def opinions(table: "pd.DataFrame") -> "Figure":
    """KL and total variation to each group's distribution, a bar a method."""
    made, axes = plots.figure(2, width=3.4, height=3.0)
    for ax, (column, label) in zip(
        axes, {"kl": "KL to the group (nats)", "tv": "Total variation"}.items(), strict=True
    ):
        _grouped(ax, table, "group", column, label)
    legend_above(made, axes[0], 2)
    return made


def _bars(table: "pd.DataFrame", rows: str, value: str, label: str) -> "Figure":
    made, axes = plots.figure(1, width=1.5 + 0.95 * table[rows].nunique(), height=3.6)
    _grouped(axes[0], table, rows, value, label)
    axes[0].set_ylim(0, 104)
    legend_above(made, axes[0], 5)
    return made


def _grouped(ax: "Axes", table: "pd.DataFrame", rows: str, value: str, label: str) -> None:
    """Bars side by side for each method, with the columns ``<value>_low`` and ``_high``."""
    grouped_bars(ax, table, x=rows, y=value, by="method")
    names = _names(table, rows)
    labels = [name.replace("+", "\n+ ").replace(" of the ", "\nof the ") for name in names]
    ax.set_xticks(range(len(names)), labels, fontsize=points(7))
    ax.set_ylabel(label)
    grid_lines(ax)
