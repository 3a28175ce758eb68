"""The figure of a comparison of methods: adherence with intervals, and how much collapsed."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mechsteer.plots.bars import ERRORS
from mechsteer.plots.base import COLOURS, figure, grid_lines, leftmost, style
from mechsteer.plots.labels import need, one_each
from mechsteer.stats import in_percent, share_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def comparison_figure(summary: "pd.DataFrame", scores: Iterable[float] = ()) -> "Figure":
    """A line for each method, the first on top: adherence in percent, and the share of answers that collapsed.

    A score of one's own that is no share, such as a count of words, is drawn as it is.

    Args:
        summary: One row a method: name, n, adherence, adherence_low, adherence_high, adherence_uncollapsed and
            collapsed (NaN where it was not measured), as shares. Rows whose ``reference`` is true are black, with a
            dotted line beside what follows them; without that column, the first.
        scores: What the summary is of, where that is known; see :func:`mechsteer.stats.in_percent`.

    Raises:
        MechsteerError: for a missing column, an empty table, or a method that is there twice.
    """
    need(summary, "name", "n", "adherence", "adherence_low", "adherence_high", "adherence_uncollapsed", "collapsed")
    one_each(summary, ["name"], "method")
    measured = summary["collapsed"].notna().any()
    share = in_percent(summary, scores)
    unit, axis = (100, "Adherence (%)") if share else (1, "Adherence (the score as it is)")
    with style():
        made, panels = figure(2 if measured else 1, width=3.4, height=0.9 + 0.34 * len(summary))
        places = range(len(summary))
        left, names = panels[0], [str(name) for name in summary["name"]]
        starts: list[int] = []
        for place, row in zip(places, summary.to_dict("records"), strict=True):
            reference = row.get("reference", not place)
            starts += [place] if reference else []
            colour = COLOURS[6] if reference else COLOURS[0]
            mean, ends = row["adherence"], (row["adherence_low"], row["adherence_high"])
            errors = [[unit * abs(mean - ends[0])], [unit * abs(ends[1] - mean)]]
            left.errorbar(unit * mean, place, xerr=errors, fmt="o", color=colour, markersize=5, capsize=2.5)
            if measured and row["adherence_uncollapsed"] == row["adherence_uncollapsed"]:
                left.plot(unit * row["adherence_uncollapsed"], place, "D", mfc="none", color=COLOURS[1], markersize=7)
        for place, after in pairwise([*starts, len(summary)]):
            value = unit * float(summary["adherence"].iloc[place])
            left.plot([value] * 2, [place - 0.5, after - 0.5], ":", color="0.7", linewidth=0.8, zorder=0)
        left.set(xlabel=f"{axis}, {_counts(summary)}", ylim=(len(summary) - 0.5, -0.5))
        if share:
            left.set(xlim=(-3, 103))
        left.set_yticks(list(places), names, parse_math=False)
        grid_lines(left, "x")
        if measured:
            if summary["adherence_uncollapsed"].notna().any():
                left.plot([], [], "D", mfc="none", color=COLOURS[1], markersize=7, label="without collapsed answers")
                made.legend(loc="outside lower left")
            right = panels[1]
            shares = summary["collapsed"].astype(float)
            ends = [_ends(share, int(n)) for share, n in zip(shares, summary["n"], strict=True)]
            look: dict[str, Any] = {"height": 0.5, "color": COLOURS[1], "error_kw": ERRORS}
            right.barh(list(places), 100 * shares, xerr=[list(side) for side in zip(*ends, strict=True)], **look)
            right.set(xlim=(0, 103), xlabel="Collapsed answers (%)", ylim=(len(summary) - 0.5, -0.5))
            right.set_yticks(list(places), names if leftmost(right) else [""] * len(summary))
            grid_lines(right, "x")
    return made


def _ends(share: float, n: int) -> tuple[float, float]:
    """How far the interval of a share reaches below and above, in percentage points."""
    if math.isnan(share) or not n:  # of no prompts that have a score
        return 0.0, 0.0
    low, high = share_interval(round(share * n), n)
    return 100 * max(0.0, share - low), 100 * max(0.0, high - share)


def _counts(summary: "pd.DataFrame") -> str:
    counts = sorted({int(n) for n in summary["n"]})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
