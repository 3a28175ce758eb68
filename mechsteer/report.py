"""Tables for people: how a result is printed in a terminal."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PROVENANCE = ("model_", "version_", "data_hash")
"""How the names of columns begin that say where a row came from, not what it says."""

_P_VALUE = re.compile(r"(^|[_ ])p[_ ](value|adjusted|by[_ ]topic)$")


def show(table: "pd.DataFrame", *, decimals: int = 1) -> str:
    """The table as aligned text: provenance columns left out, numbers rounded, missing values as a dash.

    p-values have two significant digits, however many decimals that takes.
    """
    kept = table[[c for c in table.columns if not str(c).startswith(PROVENANCE)]].copy()
    text = kept.copy().astype(object)
    for column in kept.columns:
        form = ".2g" if _P_VALUE.search(str(column)) else f".{decimals}f"
        text[column] = [_cell(value, form) for value in kept[column]]
    numeric = {c for c in kept.columns if kept[c].dtype.kind in "fiu"}
    widths = {c: max(len(str(c)), *(len(v) for v in text[c])) if len(text) else len(str(c)) for c in text.columns}
    lines = ["  ".join(_pad(str(c), widths[c], c in numeric) for c in text.columns)]
    lines.append("  ".join("-" * widths[c] for c in text.columns))
    lines += ["  ".join(_pad(row[c], widths[c], c in numeric) for c in text.columns) for _, row in text.iterrows()]
    return "\n".join(line.rstrip() for line in lines)


def titled(title: str, table: "pd.DataFrame", *, decimals: int = 1) -> str:
    """The table under a title, with an empty line before each."""
    return f"\n{title}\n\n{show(table, decimals=decimals)}"


def worded(name: str) -> str:
    """A column's name as people say it: no ``_percent`` at its end, no underscores."""
    return name.removesuffix("_percent").replace("_", " ")


def _cell(value: object, form: str) -> str:
    if value is None or str(value) in {"nan", "<NA>", "NaT"}:
        return "-"
    return format(value, form) if isinstance(value, float) else str(value)


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
