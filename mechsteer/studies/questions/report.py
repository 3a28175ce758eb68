"""What the command line prints of the study :mod:`mechsteer.studies.questions`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd

QUESTIONS = {
    "numbers": "How many pairs, how diverse?",
    "architectures": "Across architectures?",
    "compound": "Compound instructions?",
    "linear": "Linear?",
}
_SHOWN: dict[str, tuple[str, ...]] = {
    "numbers_steering": ("pool", "pairs", "followed_percent", "quality_percent", "value_percent", "value_low"),
    "architectures": ("source", "target", "map", "followed_percent", "value_percent", "value_gain", "share"),
    "compound": ("pair", "way", "first_percent", "second_percent", "followed_percent", "value_percent"),
    "linear_steering": ("target", "way", "kinds", "followed_percent", "quality_percent", "value_percent"),
}


def report(result: Result) -> str:
    """What was found, claim by claim, and the tables behind it."""
    name = result.tables["places"]["model_name"].iloc[0]
    parts = [f"\nFour questions about instruction vectors, on {name}"]
    for question, said in found(result.summary).items():
        parts += [f"\n{question}", *(f"- {one}" for one in said)]
    for about, columns in _SHOWN.items():
        if about in result.tables and len(result.tables[about]):
            table = result.tables[about][list(columns)]
            parts.append(titled(about.replace("_", ", ", 1), table, decimals=2 if "share" in columns else 1))
    return "\n".join(parts + _doubts(result.tables["places"]))


def _doubts(places: "pd.DataFrame") -> list[str]:
    """Kinds that no place was found for, and those whose strength may not be the best."""
    kinds = sorted(set(places["kind"]))
    nowhere = [kind for kind in kinds if not (places.loc[places["kind"] == kind, "value"] > 0).any()]
    edge = sorted({*places.loc[places["edge"], "kind"]} - {*nowhere})
    reasons = {
        "Followed at no place and strength that was tried, so the first ones were taken, which say nothing": nowhere,
        "Chosen at an end of the ladder of strengths, beyond which nothing was tried": edge,
    }
    return [f"\n{reason}: {', '.join(some)}." for reason, some in reasons.items() if some]


def found(summary: "pd.DataFrame") -> dict[str, list[str]]:
    """What was found, by question."""
    return {
        QUESTIONS[str(question)]: [sentence(row) for row in claims.to_dict("records")]
        for question, claims in summary.groupby("question", sort=False)
    }


def sentence(row: Mapping[Any, Any]) -> str:
    """A claim, whether it is shown, and its number."""
    digits = 1 if row["unit"] == "points" else 2
    if row["estimate"] != row["estimate"]:
        number = "not defined"
    else:
        number = f"{row['estimate']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}] {row['unit']}"
    said = row["note"] if isinstance(row["note"], str) else ""
    note = f" ({said})" if said else ""
    return f"{'Shown' if row['shown'] else 'Not shown'}: {row['claim']}: {number}{note}."
