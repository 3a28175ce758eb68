"""The figure of the study :mod:`mechsteer.studies.families`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.base import legend_above, look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LABELS = {
    "attention_bias": "GUIDE: bias Δ",
    "pasta": "PASTA: α",
    "spotlight": "SpotLight: target share",
    "scale_keys": "Key scaling: α",
    "add": "Vector add: steps",
    "project": "Projection: steps",
}
_MEASURES = {"adherence_percent": "adherence", "fidelity_percent": "fidelity"}

TABLES = ("summary",)


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        return {"by_strength": by_strength(tables["summary"])}


def by_strength(summary: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity by strength, one panel a method; dashed: adherence of the unsteered model there."""
    made, axes = plots.figure(3, width=2.4, height=2.3, rows=2)
    unsteered = summary[summary["method"] == "unsteered"].set_index("setting")["adherence_percent"]
    for ax, (method, label) in zip(axes, _LABELS.items(), strict=True):
        part = summary[summary["method"] == method]
        setting = str(part["setting"].iloc[0])
        places = range(len(part))
        for place, (measure, name) in enumerate(_MEASURES.items()):
            ax.plot(places, part[measure], **look(place), label=name)
        ax.axhline(float(unsteered[setting]), color="0.4", linewidth=1, linestyle="--")
        ax.set_xticks(list(places), [f"{s:g}" for s in part["strength"]])
        ax.set(xlabel=label, title=setting, ylim=(-4, 104), ylabel="Mean over kinds (%)")
    legend_above(made, axes[0], 2)
    return made
