"""Figures that can go into a paper as they are: pure functions of tables, colour-blind-safe, PDF and PNG.

Every function returns a matplotlib Figure or draws into one; :func:`save` writes it. Nothing here computes a result.
"""

from mechsteer.plots.base import COLOURS, MARKERS, figure, heatmap, lines, save, style

__all__ = ["COLOURS", "MARKERS", "figure", "heatmap", "lines", "save", "style"]
