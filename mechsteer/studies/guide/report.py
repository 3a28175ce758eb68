"""What the command line prints of the study :mod:`mechsteer.studies.guide`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result


def report(result: Result) -> str:
    """The tables that say most, as text."""
    name = result.summary["model_name"].iloc[0]
    summary = result.summary.rename(columns=lambda name: name.removesuffix("_percent"))
    aucs = result.tables["prediction"].pivot(index=["task", "predictor"], columns="within", values="auc")
    parts = [
        titled(f"GUIDE on {name}, mean over lengths (percent)", summary),
        titled("What predicts success: AUC over all prompts, and within a length", aucs.reset_index(), decimals=3),
    ]
    if "choice" in result.tables:
        columns = ["length", "unit", "target", "delta", "score_percent", "unbiased_percent", "best_percent"]
        title = "The delta with as much Influence as a target, chosen without generating, and its score (percent)"
        parts.append(titled(title, result.tables["choice"].reindex(columns=columns), decimals=2))
    return "\n".join(parts)
