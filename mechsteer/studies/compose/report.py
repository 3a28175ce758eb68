"""What the command line prints of the study :mod:`mechsteer.studies.compose`."""

from typing import TYPE_CHECKING

from mechsteer.report import titled
from mechsteer.studies.compose.tables import matrix
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd


def report(result: Result) -> str:
    """The tables that say most, as text."""
    summary = result.summary
    start = summary[summary["first"] == ""].iloc[0]
    prompts = f"{start['n']} prompts; on the diagonal one way alone"
    parts = [f"\nPairs of ways to steer {start['model_name']}, {prompts}"]
    for setting in ("chosen", "half"):
        for name in ("adherence", "fidelity", "interference"):
            percent = name != "interference"
            table = summary if percent else result.tables["interference"]
            found = matrix(table[table["setting"] == setting], f"{name}_percent" if percent else name)
            unsteered = f" (percent; unsteered {start[f'{name}_percent']:.1f})" if percent else ""
            title = f"{name.capitalize()}, {setting} strengths{unsteered}"
            parts.append(titled(title, found.reset_index(names=""), decimals=1 if percent else 2))
    parts += _gains(result.tables["gains"].query("measure != 'average'"))
    parts += _controls(result.tables["controls"].query("measure != 'average'"))
    order = "Order at the SAE's hook point: vector first minus features first"
    return "\n".join([*parts, titled(order, result.tables["orders"], decimals=3)])


def _controls(table: "pd.DataFrame") -> list[str]:
    """How many pairs differ from one way alone at the same dose, and which."""
    counts = table.groupby(["control", "measure", "verdict"], sort=False).size().unstack(fill_value=0).reset_index()
    columns = ["first", "second", "single", "control", "measure", "difference_pp", "low_pp", "high_pp", "p_adjusted"]
    apart = table[table["verdict"] != "not told apart"]
    title = "Pairs at half strength against the better single at the same dose: how many, by Holm's adjusted p"
    shown = titled("Those that differ (percentage points, 95 % interval by topic)", apart[columns], decimals=3)
    return [titled(title, counts), shown]


def _gains(gains: "pd.DataFrame") -> list[str]:
    apart = gains["gain_verdict"] != "not told apart"
    parts = []
    for label, about, part in (
        ("gain", "Pair minus better single, where the interval leaves out 0", gains[apart]),
        ("excess", "Beyond the sum of gains", gains[gains["setting"] == "half"]),
    ):
        columns = ["setting", "first", "second", "measure", f"{label}_pp", f"{label}_low_pp", f"{label}_high_pp"]
        shown = part[columns].rename(columns=lambda name: name.removesuffix("_pp").replace("_", " "))
        parts.append(titled(f"{about} (percentage points; {len(part)} of {len(gains)} rows)", shown))
    return parts
