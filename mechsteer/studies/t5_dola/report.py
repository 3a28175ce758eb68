"""What the command line prints of the study :mod:`mechsteer.studies.t5_dola`."""

from typing import TYPE_CHECKING

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd


def report(result: Result) -> str:
    """The tables that say most, as text."""
    summary = result.summary
    side = result.tables["side_effects"].pivot(index="task", columns="strength", values="percent").reset_index()
    name = summary["model_name"].iloc[0]
    parts = [
        titled(f"MemoTrap on {name}, gradient steering (percent of evaluation traps)", _short(summary)),
        titled("Vectors mined from contrasts that must not work, same norm", _short(result.tables["null_vectors"])),
        titled(
            "By trap word: is it that of a mining trap (of another proverb) too?", _short(result.tables["by_trap_word"])
        ),
        titled("Side effects (percent right), by strength in mean residual norms", side),
    ]
    if "published" in result.tables:
        paper = result.tables["published"].pivot(index="layer", columns="strength", values="improvement_pp")
        title = "Published improvement of greedy success (percentage points), for this model"
        parts.append(titled(title, paper.reset_index()))
    return "\n".join(parts)


def _short(table: "pd.DataFrame") -> "pd.DataFrame":
    """Without the ends of intervals, but for those of what the study is about."""
    hidden = [c for c in table.columns if c.endswith(("_low", "_high")) and not c.startswith("strict")]
    return table.drop(columns=hidden)
