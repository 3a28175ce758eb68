"""The figures of the study :mod:`mechsteer.studies.compose`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.bars import interval_rows
from mechsteer.plots.base import grid_lines, leftmost, legend_above, points, written_map
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
    "sparse": "sparse vector",
    "guide": "GUIDE",
    "directer": "DIRECTER",
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
    """Adherence, fidelity and interference of every pair; on the diagonal, framed, one way alone.

    Interference is how far the pair's change of the first token's logits is from the sum of the two: 0, they add up.
    """
    start = summary[summary["first"] == ""].iloc[0]
    made, axes = plots.figure(3, rows=len(SETTINGS), width=3.3, height=3.4)
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
            unsteered = f"\n(unsteered: {start[measure]:.0f})" if measure in start else ""
            _map(ax, matrix(table, measure), "{:.0f}" if unsteered else "{:.2f}", 100.0 if unsteered else most)
            ax.set_title(f"{name}, {label}{unsteered}", fontsize=points(9))
            if not leftmost(ax):
                ax.set_yticklabels([])
    return made


def _map(ax: "Axes", table: "pd.DataFrame", form: str, top: float) -> None:
    """A matrix with its values written in."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    colours = mpl.colormaps[SEQUENTIAL].with_extremes(bad="0.95")
    written_map(ax, table, colours, (0.0, top), form.format, white=lambda value: value <= 0.6 * top)
    labels = [NAMES[str(name)] for name in table.columns]
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    for place in range(len(labels)):
        ax.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.6))


def gains(table: "pd.DataFrame") -> "Figure":
    """What a pair adds to the better of its two: differences on the same prompts with intervals."""
    measures = list(dict.fromkeys(table["measure"]))
    names = list(dict.fromkeys(zip(table["first"], table["second"], strict=True)))
    made, axes = plots.figure(len(measures), width=3.1, height=0.9 + 0.3 * len(names))
    for ax, measure in zip(axes, measures, strict=True):
        for number, (setting, label) in enumerate(SETTINGS.items()):
            part = table[(table["measure"] == measure) & (table["setting"] == setting)]
            look = plots.MARKERS[number], plots.COLOURS[number]
            ends = {"low": "gain_low_pp", "high": "gain_high_pp"}
            interval_rows(ax, part, "gain_pp", 0.28 * number - 0.14, look, label=label, **ends)
        ax.axvline(0, color="0.4", linewidth=0.8)
        labels = [f"{NAMES[a]} + {NAMES[b]}" for a, b in names]
        ax.set_yticks(range(len(names)), labels if leftmost(ax) else [""] * len(names))
        ax.invert_yaxis()
        ax.set(xlabel="Pair − better single (pp)", title=measure.capitalize())
        grid_lines(ax, "x")
    legend_above(made, axes[0], 2)
    return made
