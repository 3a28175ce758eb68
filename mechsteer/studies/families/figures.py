"""The figure of the study :mod:`mechsteer.studies.families`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.bars import errors
from mechsteer.plots.base import grid_lines, legend_above, look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LABELS = {
    "attention_bias": ("GUIDE", "Bias Δ (nats)", "linear"),
    "pasta": ("PASTA", "α of other tokens (log scale)", "log"),
    "spotlight": ("SpotLight", "Target share of attention", "linear"),
    "scale_keys": ("Key scaling", "Factor α of the keys (log scale)", "log"),
    "add": ("Vector, added", "Norms of the vector (log scale)", "log"),
    "project": ("Vector, projected", "Norms of the vector (log scale)", "log"),
}
"""What stands for each method: its name, its strength, and the scale of that."""
_MEASURES = {"adherence_percent": "adherence", "fidelity_percent": "fidelity"}

TABLES = ("summary",)


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        return {"by_strength": by_strength(tables["summary"])}


def by_strength(summary: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity by strength with intervals, one panel a method; dashed: adherence unsteered."""
    made, axes = plots.figure(3, width=2.6, height=2.5, rows=2)
    unsteered = summary[summary["method"] == "unsteered"].set_index("setting")["adherence_percent"]
    for ax, (method, (name, label, scale)) in zip(axes, _LABELS.items(), strict=True):
        part = summary[summary["method"] == method]
        setting = str(part["setting"].iloc[0])
        for place, (measure, measured) in enumerate(_MEASURES.items()):
            line = look(place, elinewidth=0.8, label=measured)
            ax.errorbar(part["strength"], part[measure], yerr=errors(part, measure), **line)
        ax.axhline(float(unsteered[setting]), color="0.4", linewidth=1, linestyle="--", label="adherence, unsteered")
        ax.set_xscale(scale)
        ticks = [s for s in sorted(part["strength"]) if s != 1.5]  # no room for that on the log scale
        ax.set_xticks(ticks, [f"{s:g}" for s in ticks])
        ax.minorticks_off()
        if method == "pasta":  # 1 does nothing
            ax.invert_xaxis()
        ax.set(xlabel=label, title=f"{name}: {setting}", ylim=(-4, 104), ylabel="Mean over kinds (%)")
        grid_lines(ax)
    legend_above(made, axes[0], 3)
    return made
