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
    parts += _longest(result)
    if "choice" in result.tables:
        columns = ["length", "unit", "target", "delta", "score_percent", "unbiased_percent", "best_percent"]
        columns += ["best_delta", "edge"]
        title = "The delta with as much Influence as a target, chosen without generating, and its score (percent)"
        parts.append(titled(title, result.tables["choice"].reindex(columns=columns), decimals=2))
    return "\n".join(parts)


def _longest(result: Result) -> list[str]:
    """What the bias costs at the longest context, and the simplest baseline beside it."""
    if "against_last" not in result.tables:
        return []
    every, last = result.tables["by_strength"], result.tables["against_last"]
    task, length = last["task"].iloc[0], last["length"].max()
    here = every[(every["task"] == task) & (every["length"] == length)]
    columns = ["form", "delta", "score_percent", "fidelity_percent", "true_sentences", "n"]
    apart = last[last["length"] == length]
    shown = ["delta", "measure", "guide", "last", "difference", "low", "high", "p_adjusted"]
    unit = last["unit"].iloc[0]
    return [
        titled(f"{length} {unit}: score, share and number of true sentences", here[columns]),
        titled(f"{length} {unit}: GUIDE minus the instruction behind the question", apart[shown], decimals=3),
    ]
