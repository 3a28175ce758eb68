"""Which setting of a method, on prompts that the table does not report: the mildest that the best cannot be told from.

Twenty prompts say little, so the rule counts them. All comparisons are of the same prompts, by the exact one-sided form
of McNemar's test (:func:`mechsteer.analysis.mcnemar.one_sided_p`):

1. A setting is *sound* unless more of its answers collapse than of the unsteered model's: by more than 5 points
   (:data:`MORE_COLLAPSED`), and by more than chance would (p at most .05). Of 20 prompts one answer is 5 points.
2. The *best* is the sound one that follows most prompts (loose, then strict).
3. Chosen is the mildest sound one that the best does not follow more prompts than (p above .05, times the settings that
   it is compared with, for the best of several is partly luck). A stronger one is not called better where these prompts
   cannot tell.

The table says beside it what the rule of points alone would choose (``by_points``: the best whose share of collapsed
answers is within 5 points, whatever the number of prompts), so that one sees how much hangs on the rule.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import one_sided_p
from mechsteer.stats import paired_interval
from mechsteer.studies.core.choose import best
from mechsteer.studies.ifeval.methods import Method
from mechsteer.studies.ifeval.tables import differences, shares

if TYPE_CHECKING:
    import pandas as pd

MORE_COLLAPSED = 0.05
"""So many more collapsed answers than the unsteered model's, as a share, are let pass."""

LEVEL = 0.05
"""A difference whose one-sided p is larger is called none."""


def choose(method: Method, tried: "Sequence[pd.DataFrame]", unsteered: "pd.DataFrame") -> "pd.DataFrame":
    """Every setting on the validation prompts, and which is chosen.

    Args:
        method: The method.
        tried: The rows of each setting of its ladder, the mildest first.
        unsteered: The unsteered model's rows of the same prompts.

    Returns:
        One row a setting: name, setting, n, prompt_strict, prompt_loose, collapsed (shares); unsteered_loose and
        unsteered_collapsed; gain (loose, against unsteered) and more_collapsed with ``_low`` and ``_high`` (95 %,
        paired) and more_collapsed_p; sound; behind_p (of the best being no better than this one; NaN for those that are
        not sound); chosen, by_points and edge (the strongest of the ladder). Where none is sound, the mildest is
        chosen.
    """
    import pandas as pd

    plain = shares(unsteered)
    rows = [_row(s, rows, unsteered, plain) for s, rows in zip(method.ladder, tried, strict=True)]
    by_points = _best(rows, [r["collapsed"] <= plain["collapsed"] + MORE_COLLAPSED + 1e-9 for r in rows])
    top = _best(rows, [r["sound"] for r in rows])
    for row, answered in zip(rows, tried, strict=True):
        row["behind_p"] = _behind(answered, tried[top], len(rows) - 1) if row["sound"] else float("nan")
    chosen = next((place for place, row in enumerate(rows) if row["behind_p"] > LEVEL), 0)
    table = pd.DataFrame(rows)
    table.insert(0, "name", method.name)
    return table.assign(
        chosen=[place == chosen for place in range(len(rows))],
        by_points=[place == by_points for place in range(len(rows))],
        edge=[method.at_edge(s) for s in method.ladder],
    )


def _row(setting: float, rows: "pd.DataFrame", unsteered: "pd.DataFrame", plain: dict[str, float]) -> dict[str, Any]:
    """A setting beside the unsteered model."""
    made: dict[str, Any] = {"setting": setting, **shares(rows)}
    made |= {f"unsteered_{name}": plain[column] for name, column in _COMPARED.items()}
    gain, more = (differences(unsteered, rows, column) for column in ("loose", "collapsed"))
    for name, values in (("gain", gain), ("more_collapsed", more)):
        found = paired_interval(values)
        made |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    p = one_sided_p(sum(d > 0 for d in more), sum(d < 0 for d in more))
    sound = made["more_collapsed"] <= MORE_COLLAPSED + 1e-9 or p > LEVEL
    return made | {"more_collapsed_p": p, "sound": sound}


_COMPARED = {"loose": "prompt_loose", "collapsed": "collapsed"}


def _best(rows: Sequence[dict[str, Any]], passes: Sequence[bool]) -> int:
    """The place of the one that follows most, of equals the mildest; the mildest where none passes."""
    found = best(
        range(len(rows)),
        lambda place: (rows[place]["prompt_loose"], rows[place]["prompt_strict"]),
        passes=lambda place: passes[place],
    )
    return 0 if found is None else found


def _behind(rows: "pd.DataFrame", top: "pd.DataFrame", others: int) -> float:
    """The p of the best following no more prompts than this one."""
    ahead = differences(rows, top, "loose")
    return min(1.0, max(1, others) * one_sided_p(sum(d > 0 for d in ahead), sum(d < 0 for d in ahead)))
