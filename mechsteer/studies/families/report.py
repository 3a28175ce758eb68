"""What the command line prints of the study :mod:`mechsteer.studies.families`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result


def report(result: Result) -> str:
    """The tables that say most, as text."""
    name = result.summary["model_name"].iloc[0]
    kept = [column for column in result.summary if not str(column).endswith(("_low", "_high"))]
    title = f"Steering families on {name}, mean over kinds of instructions (percent)"
    scopes = "Vectors at all positions and at the prompt's last one only, strength 1 (percent, 95 % interval)"
    parts = [titled(title, result.summary[kept], decimals=2), titled(scopes, result.tables["scopes"])]
    return "\n".join(parts)
