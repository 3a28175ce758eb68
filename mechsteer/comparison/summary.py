"""The summary of a comparison: adherence with its interval, what was repaired and broken, quality and speed."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.errors import MechsteerError, nearest, shown
from mechsteer.stats import holm, mean_interval

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("adherence", "strict", "correct", "found", "score", "success")
"""What counts as following, the first that a task has."""


def score_column(rows: "pd.DataFrame", score: str | None) -> str:
    """The column that counts.

    Raises:
        MechsteerError: for a column that is not there or holds no numbers, or if there is none to choose.
    """
    numbers = [str(name) for name in rows.columns if rows[name].dtype.kind in "biuf"]
    if score is not None:
        if score not in numbers:
            raise MechsteerError(f"The task has no score {score!r}.{nearest(score, numbers)}")
        return score
    known = [name for name in SCORES if name in numbers]
    columns = [str(name) for name in rows.columns]
    after = columns[columns.index("output") + 1 :] if "output" in columns else []
    chosen = [*known, *(name for name in after[:1] if name in numbers)]
    if not chosen:
        raise MechsteerError("This task has no score that says how well its prompts were followed; give score=...")
    return chosen[0]


def shares(rows: "pd.DataFrame", score: str) -> "pd.Series":
    """A score as numbers from 0 (not followed) to 1 (followed).

    Raises:
        MechsteerError: for other numbers, or NaN.
    """
    values = rows[score].astype(float)
    wrong = values[~values.between(0, 1)]
    if len(wrong):
        raise MechsteerError(
            f"The score {score!r} must be from 0 (not followed) to 1 (followed), but is {wrong.iloc[0]:g} for the "
            f"output {shown(rows['output'][wrong.index[0]])} ({len(wrong)} of {len(rows)} are not)."
        )
    return values


def repeats(rows: "pd.DataFrame") -> str:
    """What is to be said of prompts that are there before, and answered alike; empty where there are none.

    Args:
        rows: The rows of one method.
    """
    count = int(rows.duplicated(["prompt", "output"]).sum()) if {"prompt", "output"} <= set(rows) else 0
    if not count:
        return ""
    return (
        f"{count} of the {len(rows)} prompts {'repeats' if count == 1 else 'repeat'} another one and its answer: "
        "intervals and p-values count them as further evidence, which they are not."
    )


def summarise(rows: "pd.DataFrame", score: str, seconds: Mapping[str, float]) -> "pd.DataFrame":
    """One row a method, in order.

    Args:
        rows: The rows of all methods; the column ``name`` tells them apart. The first method is the reference.
        score: The column that counts as adherence.
        seconds: How long each method took; empty where nobody knows.

    Returns:
        name, n, adherence with adherence_low and adherence_high (95 %), adherence_uncollapsed and n_uncollapsed (rows
        that have not collapsed), repaired and broken (prompts whose score rose or fell against the first method),
        p_value (exact McNemar test, two-sided; of other scores than True and False the sign test) and p_adjusted
        (Holm), collapsed, empty, truncated, changed (shares), n_tokens, repetition, surprise (means),
        tokens_per_second.
    """
    import pandas as pd

    names = list(dict.fromkeys(rows["name"]))
    first = _scores(rows[rows["name"] == names[0]], score)
    made = [_row(name, rows[rows["name"] == name], score, first, seconds.get(name, math.nan)) for name in names]
    made[0] |= {"repaired": 0, "broken": 0, "p_value": math.nan}
    table = pd.DataFrame(made)
    table.insert(table.columns.get_loc("p_value") + 1, "p_adjusted", holm(list(table["p_value"])))  # type: ignore[arg-type]
    return table


def _scores(rows: "pd.DataFrame", score: str) -> list[float]:
    return [float(value) for value in rows[score]]


def _row(name: str, rows: "pd.DataFrame", score: str, first: list[float], seconds: float) -> dict[str, Any]:
    now = _scores(rows, score)
    found = mean_interval(now)
    sound = mean_interval(_scores(rows[~rows["collapsed"]], score)) if "collapsed" in rows else found
    repaired = sum(b > a for a, b in zip(first, now, strict=True))
    broken = sum(b < a for a, b in zip(first, now, strict=True))
    tokens = float(rows["n_tokens"].sum()) if "n_tokens" in rows else math.nan

    def mean(column: str) -> float:
        return float(rows[column].astype(float).mean()) if column in rows else math.nan

    return {
        "name": name,
        "n": found.n,
        "adherence": found.mean,
        "adherence_low": found.low,
        "adherence_high": found.high,
        "adherence_uncollapsed": sound.mean,
        "n_uncollapsed": sound.n,
        "repaired": repaired,
        "broken": broken,
        "p_value": exact_p(repaired, broken),
        **{column: mean(column) for column in ("collapsed", "empty", "truncated", "changed")},
        **{column: mean(column) for column in ("n_tokens", "repetition", "surprise")},
        "tokens_per_second": tokens / seconds if seconds > 0 else math.nan,
    }
