"""From rows of answers to shares and paired differences with intervals.

``followed`` is the strict checker (``sound``); ``quality`` is fidelity where the model knows the bundled world, else
whether the answer has not collapsed; ``value`` is their product. Where a prompt was answered several times (draws,
seeds), its answers are averaged first. The prompts of a topic count as one sample.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.stats import cluster_interval, paired_interval

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("followed", "quality", "value")


def scored(rows: "pd.DataFrame", knows: bool) -> "pd.DataFrame":
    """Kind, topic, output and the measures of each row, as numbers from 0 to 1."""
    followed = rows["sound"].astype(float)
    quality = rows["fidelity"].astype(float) if knows else 1.0 - rows["collapsed"].astype(float)
    return rows[["kind", "topic", "output"]].assign(followed=followed, quality=quality, value=followed * quality)


def averaged(tables: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    """The mean of several tables of the same prompts, row by row."""
    first = tables[0][["kind", "topic"]]
    return first.assign(**{name: sum(t[name].to_numpy() for t in tables) / len(tables) for name in MEASURES})


def shares(table: "pd.DataFrame") -> dict[str, Any]:
    """The means in percent with 95 % intervals, topics being the samples, and n."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        one = cluster_interval(table[name], table["topic"])
        found |= {f"{name}_percent": 100 * one.mean, f"{name}_low": 100 * one.low, f"{name}_high": 100 * one.high}
    return found | {"n": len(table)}


def differences(first: "pd.DataFrame", second: "pd.DataFrame", suffix: str) -> dict[str, float]:
    """Paired differences of two tables of the same prompts, in percentage points; topics are the samples."""
    found = {}
    for name in MEASURES:
        one = paired_interval(first[name].to_numpy() - second[name].to_numpy(), first["topic"])
        column = f"{name}_{suffix}"
        found |= {column: 100 * one.mean, f"{column}_low": 100 * one.low, f"{column}_high": 100 * one.high}
    return found


def finding(
    question: str, claim: str, found: Sequence[float], unit: str, note: str = "", *, reference: float = 0.0
) -> dict[str, Any]:
    """A claim with its number; the report says "not shown" where the interval holds the reference.

    Args:
        question: The part of the study.
        claim: What the number would show.
        found: The estimate and the ends of its 95 % interval.
        unit: What it counts.
        note: What else the sentence has to say.
        reference: The number that would mean that there is nothing to claim.
    """
    estimate, low, high = (float(value) for value in found)
    shown = low > reference or high < reference  # NaN is neither
    made = {"question": question, "claim": claim, "estimate": estimate, "low": low, "high": high, "unit": unit}
    return made | {"reference": reference, "shown": shown, "note": note}


def with_ends(row: Any, name: str) -> list[float]:
    """A number of a row and the ends of its interval."""
    return [float(row[column]) for column in (name, f"{name}_low", f"{name}_high")]
