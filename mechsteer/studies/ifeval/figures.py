"""The figure: prompts that were followed, and answers that collapsed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer.plots.comparison import comparison_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TABLES = ("summary",)


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Prompts whose instructions were all followed (loosely checked), with intervals; and answers that collapsed."""
    summary = tables["summary"]
    shares = summary.assign(
        adherence=summary["prompt_loose_percent"] / 100,
        adherence_low=summary["prompt_loose_low"] / 100,
        adherence_high=summary["prompt_loose_high"] / 100,
        adherence_uncollapsed=summary["uncollapsed_loose_percent"] / 100,
        collapsed=summary["collapsed"] / 100,
    )
    return {"prompts": comparison_figure(shares)}


DRAWN = {"prompts": draw}
"""The functions of the figures that are called otherwise."""
