"""Where a report's numbers came from: model, data, versions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {"model_name": "model", "data_hash": "data", "task": "task"}
_MOST = 6
"""So many values of a column are named."""


def provenance_of(tables: "Iterable[pd.DataFrame]") -> dict[str, str]:
    """What the columns of provenance say, each value once: model, fingerprint, number format, data, versions.

    Of many values the first ones, and how many more there are.
    """
    found: dict[str, dict[str, None]] = {}
    for table in tables:
        for column in map(str, table.columns):
            if column.startswith(("model_", "version_")) or column in _NAMES:
                values = [str(value) for value in table[column].dropna().unique() if str(value)]
                found.setdefault(column, {}).update(dict.fromkeys(values))
    order = sorted(found, key=lambda name: (name.startswith("version_"), name != "model_name"))
    return {
        _NAMES.get(name, name.removeprefix("version_").replace("_", " ")): _listed(list(found[name]))
        for name in order
        if found[name]
    }


def _listed(values: list[str]) -> str:
    more = len(values) - _MOST
    return ", ".join(values[:_MOST]) + (f" and {more} more" if more > 0 else "")
