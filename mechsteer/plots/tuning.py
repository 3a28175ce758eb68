"""The figure of a tuning: adherence against quality with its front, and adherence by divergence."""

from typing import TYPE_CHECKING, Any

from mechsteer.plots.base import COLOURS, MARKERS, figure, grid_lines, legend_columns, style
from mechsteer.plots.labels import need

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def tuning_figure(curve: "pd.DataFrame", best: "pd.DataFrame") -> "Figure":
    """Two panels; candidates that did not answer all prompts are pale.

    Args:
        curve: One row a candidate, the unsteered model first: method, n, adherence, quality, divergence.
        best: The best of each method: method, adherence, quality, chosen.

    Raises:
        MechsteerError: for a missing column or an empty table.
    """
    need(curve, "method", "n", "adherence", "quality", "divergence")
    total = int(curve["n"].iloc[0])
    with style():
        made, (left, right) = figure(2, width=3.6, height=3.2)
        for place, (name, part) in enumerate(curve.groupby("method", sort=False)):
            look: dict[str, Any] = {
                "color": COLOURS[(place - 1) % len(COLOURS)] if place else "0.3",
                "marker": MARKERS[place % len(MARKERS)],
            }
            for panel, column, factor in ((left, "quality", 100), (right, "divergence", 1)):
                for whole in (False, True):
                    points = part[(part["n"] == total) == whole]
                    panel.scatter(
                        factor * points[column],
                        100 * points["adherence"],
                        s=42 if whole else 16,
                        alpha=0.9 if whole else 0.3,
                        linewidths=0,
                        label=str(name) if whole and panel is left else None,
                        **look,
                    )
        _front(left, curve[curve["n"] == total])
        for row in best.to_dict("records") if len(best) else []:
            if row["chosen"]:
                ring: dict[str, Any] = {"s": 150, "facecolors": "none", "edgecolors": "black", "linewidths": 1.2}
                left.scatter(100 * row["quality"], 100 * row["adherence"], **ring)
        left.set(xlabel=f"Quality (%), n = {total}", ylabel="Adherence (%)", xlim=(-3, 103), ylim=(-3, 103))
        right.set(xlabel="Divergence from unsteered (nats, 95th percentile)", ylim=(-3, 103))
        right.axhline(100 * float(curve["adherence"].iloc[0]), color="0.6", linewidth=0.8, linestyle=":")
        for panel in (left, right):
            grid_lines(panel, "both")
        made.legend(loc="outside lower center", ncols=legend_columns(4))
    return made


def _front(panel: Any, whole: "pd.DataFrame") -> None:
    """The line through the candidates that no other beats in both."""
    ordered = whole.sort_values(["quality", "adherence"], ascending=False)
    front, top = [], -1.0
    for row in ordered.to_dict("records"):
        if row["adherence"] > top:
            front.append((100 * row["quality"], 100 * row["adherence"]))
            top = row["adherence"]
    panel.plot(*zip(*front, strict=True), color="0.5", linewidth=1.0, drawstyle="steps-post", zorder=0)
