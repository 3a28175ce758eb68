"""Figures that can go into a paper as they are: pure functions of tables, colour-blind-safe, PDF and PNG.

Every function returns a matplotlib Figure or draws into one; :func:`save` writes it. Nothing here computes a result.
"""

from mechsteer.plots.base import COLOURS, MARKERS, figure, heatmap, lines, save, style
from mechsteer.plots.charts import curves, rank_trajectories, sublayer_bars
from mechsteer.plots.maps import attention_map, token_map
from mechsteer.plots.paper import paper
from mechsteer.plots.strips import lens_view, token_view
from mechsteer.plots.views import View, attention_view

__all__ = [
    "COLOURS",
    "MARKERS",
    "View",
    "attention_map",
    "attention_view",
    "curves",
    "figure",
    "heatmap",
    "lens_view",
    "lines",
    "paper",
    "rank_trajectories",
    "save",
    "style",
    "sublayer_bars",
    "token_map",
    "token_view",
]
