"""The figures of the study :mod:`mechsteer.studies.compose`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.plots.maps import SEQUENTIAL
from mechsteer.studies.compose.tables import matrix

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("summary", "gains", "interference")

NAMES = {
    "means": "mean vector",
    "gradient": "gradient",
    "sparse": "sparse Δ",
    "guide": "GUIDE",
    "directer": "gated keys",
    "features": "SAE features",
}
"""The methods as figures have them."""

SETTINGS = {"chosen": "chosen strengths", "half": "half strengths"}


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        return {
            "pairs": pairs(tables["summary"], tables["interference"]),
            "gains": gains(tables["gains"]),
        }


def pairs(summary: "pd.DataFrame", interference: "pd.DataFrame") -> "Figure":
    """Adherence, fidelity and interference of every pair; on the diagonal, framed, one way alone."""
    start = summary[summary["first"] == ""].iloc[0]
    made, axes = plots.figure(3, rows=len(SETTINGS), width=3.3, height=3.2)
    most = max(1.0, float(interference["interference"].max()))
    for row, (setting, label) in enumerate(SETTINGS.items()):
        there, apart = (table[table["setting"] == setting] for table in (summary, interference))
        for column, (name, table, measure) in enumerate(
            (
                ("Adherence (%)", there, "adherence_percent"),
                ("Fidelity (%)", there, "fidelity_percent"),
                ("Interference", apart, "interference"),
            )
        ):
            ax = axes[3 * row + column]
            unsteered = f"; unsteered {start[measure]:.0f}" if measure in start else ""
            _map(ax, matrix(table, measure), "{:.0f}" if unsteered else "{:.2f}", 100.0 if unsteered else most)
            ax.set_title(f"{name}, {label}{unsteered}", fontsize=9)
            if column:
                ax.set_yticklabels([])
    return made


def _map(ax: "Axes", table: "pd.DataFrame", form: str, top: float) -> None:
    """A matrix with its values written in."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    values = table.to_numpy(dtype=float)
    colours = mpl.colormaps[SEQUENTIAL].with_extremes(bad="0.95")
    ax.imshow(values, cmap=colours, vmin=0.0, vmax=top)
    labels = [NAMES[str(name)] for name in table.columns]
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for row, column in ((r, c) for r in range(len(labels)) for c in range(len(labels))):
        value = float(values[row, column])
        if value == value:  # the diagonal of what only pairs have stays empty
            colour = "black" if value > 0.6 * top else "white"
            ax.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=8)
        if row == column:
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.6))


def gains(table: "pd.DataFrame") -> "Figure":
    """What a pair adds to the better of its two: differences on the same prompts with intervals."""
    measures = list(dict.fromkeys(table["measure"]))
    names = list(dict.fromkeys(zip(table["first"], table["second"], strict=True)))
    made, axes = plots.figure(len(measures), width=3.1, height=0.9 + 0.3 * len(names))
    for place, (ax, measure) in enumerate(zip(axes, measures, strict=True)):
        for number, (setting, label) in enumerate(SETTINGS.items()):
            part = table[(table["measure"] == measure) & (table["setting"] == setting)]
            _dots(ax, part.to_dict("records"), number, label)
        ax.axvline(0, color="0.4", linewidth=0.8)
        labels = [f"{NAMES[a]} + {NAMES[b]}" for a, b in names]
        ax.set_yticks(range(len(names)), labels if not place else [""] * len(names))
        ax.invert_yaxis()
        ax.set(xlabel="Pair − better single (pp)", title=measure.capitalize())
        ax.grid(axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[-1].legend(loc="lower right", bbox_to_anchor=(1.0, 1.04), ncols=2)
    return made


def _dots(ax: "Axes", rows: "list[Any]", number: int, label: str) -> None:
    """One setting's differences, a row a pair."""
    middle = [row["gain_pp"] for row in rows]
    below = [max(0.0, row["gain_pp"] - row["gain_low_pp"]) for row in rows]
    above = [max(0.0, row["gain_high_pp"] - row["gain_pp"]) for row in rows]
    ax.errorbar(
        middle,
        [place + 0.28 * number - 0.14 for place in range(len(rows))],
        xerr=[below, above],
        fmt=plots.MARKERS[number],
        markersize=4,
        linewidth=1,
        color=plots.COLOURS[number],
        label=label,
    )
