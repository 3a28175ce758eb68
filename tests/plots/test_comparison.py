"""The figure of a comparison: intervals of both shares, and what is compared with."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.container import BarContainer

from mechsteer.plots.comparison import comparison_figure
from mechsteer.stats import share_interval

SUMMARY = pd.DataFrame(
    {
        "name": ["asked", "asked, steered", "not asked"], "n": 20, "adherence": [0.5, 0.7, 0.0],
        "adherence_low": [0.3, 0.5, 0.0], "adherence_high": [0.7, 0.9, 0.2],
        "adherence_uncollapsed": float("nan"), "collapsed": [0.1, float("nan"), 1.0],
    }
)  # fmt: skip


def test_collapsed_shares_have_their_intervals() -> None:
    _, right = comparison_figure(SUMMARY).axes
    bars: Any = next(one for one in right.containers if isinstance(one, BarContainer))
    drawn = [segment[:, 0].tolist() for segment in bars.errorbar.lines[2][0].get_segments() if len(segment)]
    ends = [[100 * end for end in share_interval(successes, 20)] for successes in (2, 20)]
    assert np.allclose(drawn, ends), "none where nothing was measured"


def test_what_is_compared_with_is_black() -> None:
    def blacks(summary: pd.DataFrame) -> list[bool]:
        left: Any = comparison_figure(summary).axes[0]
        return [container.lines[0].get_color() == "#000000" for container in left.containers]

    assert blacks(SUMMARY) == [True, False, False]
    assert blacks(SUMMARY.assign(reference=[True, False, True])) == [True, False, True]
    assert not comparison_figure(SUMMARY).legends


def test_a_dotted_line_stands_beside_what_follows_each_reference() -> None:
    def dotted(summary: pd.DataFrame) -> list[list[list[float]]]:
        left: Any = comparison_figure(summary).axes[0]
        return [np.array(line.get_data()).tolist() for line in left.lines if line.get_linestyle() == ":"]

    assert dotted(SUMMARY) == [[[50.0, 50.0], [-0.5, 2.5]]]
    assert dotted(SUMMARY.assign(reference=[True, False, True])) == [
        [[50.0, 50.0], [-0.5, 1.5]], [[0.0, 0.0], [1.5, 2.5]],
    ]  # fmt: skip


def test_the_legend_names_only_what_is_there() -> None:
    assert not comparison_figure(SUMMARY).legends
    assert comparison_figure(SUMMARY.assign(adherence_uncollapsed=0.5)).legends
