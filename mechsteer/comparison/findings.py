"""What a comparison found, in sentences."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mechsteer.stats import in_percent

if TYPE_CHECKING:
    import pandas as pd


def findings(summary: "pd.DataFrame", scores: Iterable[float] = ()) -> list[str]:
    """One sentence a method of a summary (see :func:`mechsteer.comparison.summary.summarise`), the reference first.

    Args:
        summary: The summary.
        scores: What it is of, where that is known; see :func:`mechsteer.stats.in_percent`.
    """
    first, *others = summary.to_dict("records")
    known = [float(score) for score in scores]
    told, among = (_share, "of") if in_percent(summary, known) else (_mean, "on")
    test = sign_test(known)
    start = f"{first['name']}: adherence {told(first)} {among} {first['n']} prompts{_collapsed(first)}."
    return [start, *(_against(row, first, told, test) for row in others)]


def sign_test(scores: Iterable[float]) -> str:
    """What the test of repaired against broken is called: McNemar's is of scores that are 0 or 1; NaN is left out."""
    return "exact McNemar" if all(score in (0, 1) for score in scores if score == score) else "exact sign test,"


def _share(row: dict[Any, Any]) -> str:
    if not row["n"]:
        return "not known, for no answer has a score,"
    low, high = row["adherence_low"], row["adherence_high"]
    return f"{100 * row['adherence']:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


def _mean(row: dict[Any, Any]) -> str:
    if not row["n"]:
        return _share(row)
    ends = f"95 % interval {row['adherence_low']:.3g} to {row['adherence_high']:.3g}"
    return f"{row['adherence']:.3g} ({'one value has no interval' if math.isnan(row['adherence_low']) else ends})"


def _against(row: dict[Any, Any], first: dict[Any, Any], adherence: Callable[[dict[Any, Any]], str], test: str) -> str:
    p = row["p_adjusted"] if not math.isnan(row["p_adjusted"]) else row["p_value"]
    told = "no prompt changed sides" if math.isnan(p) else f"{test} p = {p:.2g}, adjusted for all methods"
    sure = "" if math.isnan(p) or p < 0.05 else "; these prompts cannot tell it from chance"
    among = "of" if adherence is _share else "on"
    scored = f" {among} {row['n']} prompts" * bool(row["n"] != first["n"])  # a check may give some answers no score
    changed = f"against {first['name']} {row['repaired']} repaired and {row['broken']} broken ({told}{sure})"
    return f"{row['name']}: adherence {adherence(row)}{scored}; {changed}{_collapsed(row)}."


def _collapsed(row: dict[Any, Any]) -> str:
    value = row["collapsed"]
    return "" if math.isnan(value) else f"; {100 * value:.0f} % of the answers collapsed"
