"""What a tuning found, in sentences, each with its number and its uncertainty."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.summary import repeats
from mechsteer.tuning.held_out import ASKED, TUNED, UNSTEERED, WITHOUT
from mechsteer.tuning.side_effects import LIMIT

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
"""A difference whose exact test has a larger p-value is called none."""

FEW = 30
"""Below so many held-out prompts, small gains cannot be seen."""

Row = Mapping[Any, Any]


def findings(
    best: "pd.DataFrame", test: "pd.DataFrame", rows: "pd.DataFrame", unsteered: float, side_right: float
) -> list[str]:
    """The sentences.

    Args:
        best: The best candidate of each method on the validation prompts.
        test: The summary of the held-out prompts.
        rows: Their rows.
        unsteered: The unsteered model's adherence on the validation prompts.
        side_right: The share of unrelated questions that it answers well.
    """
    whole = rows["adherence"].isin((0, 1)).groupby(rows["name"]).all()
    arms = {str(row["name"]): {**row, "whole": whole[row["name"]]} for row in test.to_dict("records")}
    start = arms[UNSTEERED]
    tuned = next((row for name, row in arms.items() if name.startswith(f"{TUNED}: ")), None)
    said = [_ceiling(start, arms)]
    if tuned is None:
        said.append(_nothing(best, unsteered))
    else:
        chosen = next(row for row in best.to_dict("records") if row["chosen"])
        said += [_verdict(start, tuned), _gap(chosen, tuned), _worse(start, tuned), _against_asking(tuned, arms, rows)]
        if chosen["edge"]:
            said.append(
                f"Edge: nothing stronger than {tuned['name']} was tried, so a better setting may lie beyond it."
            )
    said += _side(best, side_right)
    said.append(repeats(rows[rows["name"] == UNSTEERED]))
    if start["n"] < FEW:
        said.append(_few(int(start["n"])))
    return [one for one in said if one]


def share(row: Row) -> str:
    """``7 of 10 (70 %, 95 % interval 35 to 92 %)``; of graded scores ``70 % (95 % interval 35 to 92 %)``."""
    n, mean = int(row["n"]), float(row["adherence"])
    ends = f"95 % interval {_percent(row['adherence_low'])} to {_percent(row['adherence_high'])} %"
    told = f"{round(mean * n)} of {n} ({_percent(mean)} %, " if row["whole"] else f"{_percent(mean)} % ("
    return f"{told}{ends})"


def _ceiling(start: Row, arms: Mapping[str, Row]) -> str:
    asked = [row for name, row in arms.items() if name in ASKED]
    text = f"Asked as it is, the unsteered model follows {share(start)} of the held-out prompts"
    if WITHOUT in arms:
        text += f", and {share(arms[WITHOUT])} when the instruction is left out"
    if not asked:
        return f"{text}. Other ways to ask could not be tried, so its ceiling is not known."
    top = max(asked, key=lambda row: row["adherence"])
    if top["adherence"] <= start["adherence"]:
        return f"{text}. No other way to ask does better ({top['name']}: {share(top)}): that is its ceiling when told."
    return f"{text}. Its ceiling when told otherwise is {share(top)} ({top['name']})."


def _nothing(best: "pd.DataFrame", unsteered: float) -> str:
    if not len(best):
        return "No setting of any method answered all validation prompts: all were dropped on the way."
    if not best["above_floor"].any():
        return "Every method's best setting falls below the floor of quality, so none is recommended."
    top = best[best["above_floor"]].iloc[0]
    if top["adherence"] > unsteered:
        return "Every setting that follows more often harms the answers to unrelated questions, so none is recommended."
    return (
        "On the validation prompts no setting above the floor of quality follows more often than the unsteered model "
        f"({_percent(top['adherence'])} % with {top['method']}, {_percent(unsteered)} % without): none is recommended."
    )


def _verdict(start: Row, tuned: Row) -> str:
    risen, more = tuned["adherence"] - start["adherence"], tuned["repaired"] > tuned["broken"]
    if tuned["p_value"] > ALPHA:
        verdict = "no difference that these prompts can tell from chance"
    elif risen > 0 and more:
        verdict = "an improvement"
    elif risen < 0 and not more:
        verdict = "a loss"
    else:  # graded scores: many small losses and a few large gains, say, of which the test counts the signs
        mean = "rises" if risen > 0 else "falls" if risen < 0 else "stays"
        verdict = f"{'more' if more else 'fewer'} prompts gain than lose, but the mean {mean}: neither better nor worse"
    test = "exact McNemar" if start["whole"] and tuned["whole"] else "exact sign test,"
    quality = f"quality {_percent(start['quality'])} -> {_percent(tuned['quality'])} %"
    return (
        f"With {_setting(tuned)} it follows {share(tuned)}: {verdict} ({int(tuned['repaired'])} repaired, "
        f"{int(tuned['broken'])} broken, {test} p = {tuned['p_value']:.2g}); {quality}."
    )


def _gap(chosen: Row, tuned: Row) -> str:
    promised, given = (
        _percent(row["adherence"]) for row in (chosen, tuned)
    )  # so that the gap is theirs as they are said
    gap = int(promised) - int(given)
    return f"Validation promised {promised} %, the held-out prompts gave {given} %: a gap of {gap:+d} points."


def _worse(start: Row, tuned: Row) -> str:
    return (
        f"Made worse: {int(tuned['broken'])} of {int(start['n'])} prompts ({_percent(tuned['broken'] / start['n'])} %)."
    )


def _against_asking(tuned: Row, arms: Mapping[str, Row], rows: "pd.DataFrame") -> str:
    """Beside the best other way to ask."""
    from mechsteer.analysis.mcnemar import exact_p

    asked = [row for name, row in arms.items() if name in ASKED]
    if not asked:
        return ""
    top = max(asked, key=lambda row: row["adherence"])
    ours, theirs = (list(rows.loc[rows["name"] == row["name"], "adherence"]) for row in (tuned, top))
    more, less = (sum(a > b for a, b in zip(x, y, strict=True)) for x, y in ((ours, theirs), (theirs, ours)))
    p = exact_p(more, less)
    name = f"the best other way to ask ({top['name']}, {share(top)})"
    if math.isnan(p) or p > ALPHA:
        return f"Steering and {name} cannot be told apart ({more} prompts for, {less} against, p = {p:.2g})."
    return (
        f"Steering does {'better' if more > less else 'worse'} than {name} ({more} for, {less} against, p = {p:.2g})."
    )


def _side(best: "pd.DataFrame", right: float) -> list[str]:
    """What the chosen setting does to unrelated answers, and which better ones were not chosen for what they do."""
    said, rows = [], best.to_dict("records")
    chosen = next((place for place, row in enumerate(rows) if row["chosen"]), None)
    for row in rows[:chosen]:
        if row["above_floor"] and row["side_kept"] < 1 - LIMIT:
            said.append(
                f"Not chosen: {row['method']} {row['strength']:g} makes {_percent(1 - row['side_kept'])} % of the "
                "answers to unrelated questions worse."
            )
    if chosen is not None:
        same, kept = rows[chosen]["side_same"], rows[chosen]["side_kept"]
        said.append(
            f"Side effects: {_percent(same)} % of the answers to unrelated questions stay the same text, and "
            f"{_percent(kept)} % are no worse."
        )
    if said and right < 0.5:
        said.append(
            f"But the unsteered model answers only {_percent(right)} % of the unrelated questions well, so that harm "
            "can hardly be seen: give side=, a task that it can do."
        )
    return said


def _few(n: int) -> str:
    needed = next((k for k in range(1, n + 1) if 2 * 0.5**k <= ALPHA), None)
    if needed is None:
        return f"With {n} held-out prompts no difference can be told from chance at all: give more prompts."
    return (
        f"{n} held-out prompts show large effects only: at least {needed} must be repaired, and none broken, before "
        "the exact test calls it an improvement."
    )


def _setting(tuned: Row) -> str:
    return str(tuned["name"]).removeprefix(f"{TUNED}: ")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}"
