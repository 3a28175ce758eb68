"""Values of tables on a page: as JSON for the script, and as text where there is none."""

import html
import math
from typing import TYPE_CHECKING, Any

from mechsteer.report import PROVENANCE, worded

if TYPE_CHECKING:
    import pandas as pd

HIDDEN = (*PROVENANCE, "generation_config")


def plain(value: Any) -> Any:
    """A cell as a JSON value: numbers with six digits, yes or no, texts; None where there is none."""
    if isinstance(value, str):
        return value
    if value is None or str(value) in ("nan", "<NA>", "NaT"):
        return None
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return str(value)


def text(value: Any) -> str:
    """A JSON value as it is shown: four digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def escaped(value: Any) -> str:
    """The same as HTML."""
    return html.escape(text(value))


def columns_of(table: "pd.DataFrame") -> list[str]:
    """The columns that are shown: not where it came from, and none that is empty."""
    kept = [str(name) for name in table.columns if not str(name).startswith(HIDDEN)]
    return [name for name in kept if not table[name].isna().all()] if len(table) else kept


def heading(column: str) -> str:
    """A column's name as people say it, with its unit."""
    unit = " (%)" if "_percent" in column else " (points)" if column.endswith("_pp") else ""
    return f"{worded(column.replace('_percent', '').removesuffix('_pp'))}{unit}"
