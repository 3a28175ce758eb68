"""What the command line prints of the study :mod:`mechsteer.studies.directer`."""

from mechsteer.report import titled, worded
from mechsteer.studies.core.result import Result

HEADS = ["method", "heads", "adherence_percent", "fidelity_percent", "average_percent", "validation_percent", "chosen"]


def report(result: Result) -> str:
    """The tables that say most, as text."""
    summary, tables = result.summary, result.tables
    columns = ["notes", "method", "setting", "strength", "adherence_percent", "fidelity_percent", "average_percent"]
    shown = summary[columns].rename(columns=worded)
    name, prompts = summary["model_name"].iloc[0], int(summary["n"].iloc[0])
    changes = tables["differences"].query("measure != 'average'")
    changes = changes[["method", "against", "measure", "difference_pp", "low_pp", "high_pp", "verdict"]]
    costs, paper = tables["cost"], tables["published"]
    about = f"{costs['device'].iloc[0]}, {costs['threads'].iloc[0]} of {costs['cores'].iloc[0]} cores"
    columns = ["method", "first_token_ms", "token_ms", "tokens_per_second", "peak_mb"]
    columns += ["first_token_ms_times", "token_ms_times"]
    title = f"DIRECTER and others on {name}, {prompts} prompts (percent; p of adherence)"
    return "\n".join(
        [
            titled(title, shown, decimals=2),
            titled("On the same prompts: percentage points, 95 % interval", changes),
            titled("PASTA on the best heads, chosen one by one on other prompts", tables["profiled"][HEADS]),
            titled(f"One prompt at a time ({about})", costs[columns], decimals=2),
            titled(
                f"Published, on {paper['published_model'].iloc[0]}",
                paper[["part", "variant", "published_measure", "published", "unit"]],
            ),
        ]
    )
