"""The figure: prompts that were followed, unsteered and steered, and answers that collapsed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer.plots.comparison import comparison_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TABLES = ("summary",)


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Prompts whose instructions were all followed (loosely checked), with intervals; and answers that collapsed."""
    table = tables["summary"]
    names = [
        f"{s}{', steered' if steered else ''}" for s, steered in zip(table["setting"], table["steered"], strict=True)
    ]
    shares = table.assign(
        name=names,
        reference=~table["steered"],
        adherence=table["loose_percent"] / 100,
        adherence_low=table["loose_low"] / 100,
        adherence_high=table["loose_high"] / 100,
        adherence_uncollapsed=float("nan"),
        collapsed=table["collapsed_percent"] / 100,
    )
    return {"prompts": comparison_figure(shares)}


DRAWN = {"prompts": draw}
"""The functions of the figures that are called otherwise."""
