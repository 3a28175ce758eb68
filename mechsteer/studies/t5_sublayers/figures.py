"""The figures of the study :mod:`mechsteer.studies.t5_sublayers`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.base import legend_above

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("summary", "frozen", "ranks", "volatility")
_WHICH = {"up_to": "this block and all below", "from": "this block and all above", "one": "this block alone"}


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        return {
            "cross_attention": cross_attention(tables["summary"], tables["frozen"]),
            "updates": updates(tables["summary"]),
            "volatility": volatility(tables["ranks"], tables["volatility"]),
        }


def _groups(table: "pd.DataFrame") -> list[str]:
    return list(dict.fromkeys(table["group"]))


def cross_attention(summary: "pd.DataFrame", frozen: "pd.DataFrame") -> "Figure":
    """What each sublayer adds to the decision, by group of prompts, and the decision with cross-attention frozen."""
    groups = _groups(summary)
    made, axes = plots.figure(len(groups) + 1, width=3.3, height=3.5)
    ends = summary[["logit_difference", "logit_difference_low", "logit_difference_high"]]  # one prompt has no interval
    low, high = ends.min().min(), ends.max().max()
    margin = 0.05 * (high - low)
    for ax, group in zip(axes, groups, strict=False):
        part = summary[summary["group"] == group]
        title = f"Who writes it: {group} (n = {int(part['n'].iloc[0])})"
        label = "Change of target − trap logit"
        plots.sublayer_bars(
            ax, part, y="logit_difference", xlabel="Decoder block", ylabel=label, title=title, legend=False
        )
        ax.set_ylim(low - margin, high + margin)
    _frozen(axes[-1], frozen)
    legend_above(made, axes[0], 3)
    return made


def _frozen(ax: "Axes", frozen: "pd.DataFrame") -> None:
    part = frozen[frozen["frozen"] != "none"]
    columns = ["accuracy", "accuracy_low", "accuracy_high"]
    part = part.assign(frozen=part["frozen"].map(_WHICH), **{name: 100 * part[name] for name in columns})
    label = f"Target likelier (% of {int(part['n'].iloc[0])})"
    title = "Cross-attention frozen at …"
    plots.curves(ax, part, y="accuracy", by="frozen", xlabel="Decoder block", ylabel=label, title=title, legend=False)
    whole = 100 * frozen[frozen["frozen"] == "none"]["accuracy"].to_numpy()[0]
    ax.axhline(whole, color="0.4", linewidth=0.8, linestyle="--", label="nowhere")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    ax.set_ylim(0, 103)
    ax.set_yticks(range(0, 101, 20))


def updates(summary: "pd.DataFrame") -> "Figure":
    """How far each sublayer moves the stream, and the lens's distribution."""
    groups = _groups(summary)
    made, axes = plots.figure(len(groups), width=3.3, height=3.0, rows=2)
    rows = {"relative_update": "Update / stream (norms)", "jsd": "JSD before − after (nats)"}
    titles = {"relative_update": "Size of the update", "jsd": "Change of the output"}
    places = [(y, group) for y in rows for group in groups]
    for ax, (y, group) in zip(axes, places, strict=True):
        part = summary[summary["group"] == group]
        title = f"{titles[y]}: {group}"
        plots.sublayer_bars(ax, part, y=y, xlabel="Decoder block", ylabel=rows[y], title=title, legend=False)
        ax.set_ylim(0, 1.05 * summary[[y, f"{y}_high"]].max().max())
    legend_above(made, axes[0], 3)
    return made


def volatility(ranks: "pd.DataFrame", volatile: "pd.DataFrame") -> "Figure":
    """Median ranks of target and trap by exit, and how often the most likely token changes at a block."""
    groups = _groups(ranks)
    made, axes = plots.figure(len(groups) + 2, width=3.0, height=2.8)
    for ax, group in zip(axes, groups, strict=False):
        plots.rank_trajectories(ax, ranks[ranks["group"] == group], by="word", title=f"Median rank: {group}")
    labels = {"flip_rate": ("Share of prompts", "Most likely token flips"), "rbo": ("Overlap (RBO)", "Top-50 overlap")}
    for ax, (y, (label, title)) in zip(axes[len(groups) :], labels.items(), strict=True):
        plots.curves(ax, volatile, x="exit", y=y, by="group", xlabel="Exit (blocks passed)", ylabel=label, title=title)
        ax.set_ylim(0, 1)
    return made
