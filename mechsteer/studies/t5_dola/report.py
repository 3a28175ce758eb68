"""What the command line prints of the study :mod:`mechsteer.studies.t5_dola`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result


def report(result: Result) -> str:
    """The tables that say most, as text."""
    summary = result.summary
    side = result.tables["side_effects"].pivot(index="task", columns="strength", values="percent").reset_index()
    name = summary["model_name"].iloc[0]
    parts = [
        titled(f"MemoTrap on {name}, gradient steering (percent of evaluation traps)", summary),
        titled("Side effects (percent right), by strength in mean residual norms", side),
    ]
    if "published" in result.tables:
        paper = result.tables["published"].pivot(index="layer", columns="strength", values="improvement_pp")
        title = "Published improvement of greedy success (percentage points), for this model"
        parts.append(titled(title, paper.reset_index()))
    return "\n".join(parts)
