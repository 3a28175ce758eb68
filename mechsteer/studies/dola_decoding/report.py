"""What the command line prints of the study :mod:`mechsteer.studies.dola_decoding`."""

from typing import TYPE_CHECKING

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd


def report(result: Result) -> str:
    """The tables that say most, as text."""
    summary = result.summary[result.summary["level"] != "instruction"]
    keys, parts = ["task", "group", "scoring"], []
    for model, part in summary.groupby("model_name", sort=False):
        shown = part.pivot(index=keys, columns="method", values="percent")
        shown = shown.reindex(index=list(dict.fromkeys(zip(*(part[k] for k in keys), strict=True))))
        shown = shown[list(dict.fromkeys(part["method"]))].reset_index()
        parts.append(titled(f"Decoding with DoLa on {model} (percent)", shown))
    return "\n".join(parts)


def found(summary: "pd.DataFrame") -> dict[str, list[str]]:
    """Each task's score without DoLa and with its forms, by model."""
    whole = summary[(summary["level"] == "task") & (summary["scoring"] != "success")]
    return {
        str(model): [_task(rows) for _, rows in part.groupby(["task", "group", "scoring"], sort=False)]
        for model, part in whole.groupby("model_name", sort=False)
    }


def _task(rows: "pd.DataFrame") -> str:
    names = dict.fromkeys(str(rows[column].iloc[0]) for column in ("task", "group", "scoring"))
    return f"{', '.join(names)}: {'; '.join(_score(row) for row in rows.to_dict('records'))}."


def _score(row: dict) -> str:
    said = f"{row['percent']:.1f} % {row['method']}"
    if row["p_value"] != row["p_value"]:  # what the others are compared with
        return said
    return f"{said} ({row['increased']:g} gained, {row['decreased']:g} lost, p = {row['p_value']:.2g})"
