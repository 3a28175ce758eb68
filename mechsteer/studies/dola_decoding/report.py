"""What the command line prints of the study :mod:`mechsteer.studies.dola_decoding`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result


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
