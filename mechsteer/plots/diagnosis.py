"""The figure of a diagnosis: attention, decodability and the cuts, each beside its control."""

from typing import TYPE_CHECKING

from mechsteer.errors import MechsteerError
from mechsteer.plots.bars import grouped_bars
from mechsteer.plots.base import figure, lines, style
from mechsteer.plots.labels import need

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPAN, OTHER = "instruction", "other text"


def diagnosis_figure(tables: "Mapping[str, pd.DataFrame]") -> "Figure":
    """Three panels: attention mass by layer, probes by layer, and what the cuts change by group of layers.

    Args:
        tables: Of a diagnosis: ``mass``, ``decodable`` and ``cut``.

    Raises:
        MechsteerError: if one is missing, as where no prompt could be read.
    """
    for name in ("mass", "decodable", "cut"):
        if name not in tables:
            raise MechsteerError(f"The figure needs the table {name!r}, and no prompt was measured.")
    from matplotlib.ticker import MaxNLocator

    with style():
        made, (left, middle, right) = figure(3)
        _mass(left, tables["mass"])
        _probes(middle, tables["decodable"])
        _cuts(right, tables["cut"])
        for axes in (left, middle):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, middle, right):
            if axes.get_legend_handles_labels()[0]:  # few prompts have no probes
                axes.legend()
    return made


def _mass(axes: "Axes", mass: "pd.DataFrame") -> None:
    need(mass, "layer", "span", "mass")
    kept = mass[(mass["span"] == SPAN) | mass["span"].str.startswith("control")]
    means = kept.assign(span=_named(kept)).groupby(["span", "layer"])["mass"].mean().reset_index()
    labels = {"xlabel": "Layer", "ylabel": "Attention at the answer", "title": "Attended?"}
    lines(axes, means, x="layer", y="mass", by="span", **labels)


def _probes(axes: "Axes", table: "pd.DataFrame") -> None:
    columns = {"accuracy": "with or without", "accuracy_cut": "attention cut", "shuffled": "shuffled labels"}
    if len(table):
        long = table.melt("layer", list(columns), "probe", "share")
        long = long.assign(probe=long["probe"].map(columns), share=100 * long["share"])
        labels = {"xlabel": "Layer", "ylabel": "Held-out accuracy (%)", "title": "Decodable?"}
        lines(axes, long, x="layer", y="share", by="probe", **labels)
    axes.set_ylim(0, 104)


def _cuts(axes: "Axes", cut: "pd.DataFrame") -> None:
    need(cut, "layers", "span", "answer")
    groups = list(dict.fromkeys(cut["layers"]))
    table = cut.assign(span=_named(cut), answer=cut["answer"].abs())
    means = table.groupby(["span", "layers"])["answer"].mean()
    keys = [(span, name) for span in (SPAN, OTHER) for name in groups]
    grouped_bars(axes, means.loc[keys].reset_index(), x="layers", y="answer", by="span")
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel="Layers where attention is cut", ylabel="Change (nats a token)", title="Cut?")


def _named(table: "pd.DataFrame") -> "pd.Series":
    return table["span"].where(table["span"] == SPAN, OTHER)
