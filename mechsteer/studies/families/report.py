"""What the command line prints of the study :mod:`mechsteer.studies.families`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result


def report(result: Result) -> str:
    """The tables that say most, as text."""
    name = result.summary["model_name"].iloc[0]
    return titled(f"Steering families on {name}, mean over kinds of instructions (percent)", result.summary, decimals=2)
