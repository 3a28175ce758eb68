"""What a table of percentages says, in sentences: the highest, the lowest and the unsteered row."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer.report import worded

if TYPE_CHECKING:
    import pandas as pd

MEASURES = 3
"""Measures that are told, the first of the table."""

_STARTS = ("unsteered", "zero-shot", "plain", "none", "greedy", "baseline")
_BESIDES = ("_low", "_high", "_unsteered", "published", "printed", "headline", "verdict")


def findings(table: "pd.DataFrame") -> list[str]:
    """Sentences about a summary: for each of its first measures in percent the highest, the lowest and the start.

    Args:
        table: One row a way to steer; the columns that end in ``_percent`` are measures, with their interval where the
            table has ``<measure>_low`` and ``<measure>_high``. What comes before the first measure says what a row is.

    Returns:
        One sentence a measure, without any where the table has none. Where several rows are unsteered, such as of
        several tasks, one for each of them and a measure.
    """
    names = [str(name) for name in table.columns]
    measures = [name for name in names if name.endswith("_percent") and not any(part in name for part in _BESIDES)]
    measures = [name for name in measures if table[name].dtype.kind in "fiu" and table[name].notna().any()]
    if not measures:
        return []
    before = names[: names.index(measures[0])]
    labels = [name for name in before if table[name].nunique(dropna=False) > 1 and not _counts(name)]
    rows = table.to_dict("records")
    apart = _apart([row for row in rows if _is_start(row, labels)], labels)
    if not apart:
        return [_sentence(rows, name, labels) for name in measures[:MEASURES]]
    groups: dict[str, list[dict[Any, Any]]] = {}
    for row in rows:
        groups.setdefault(_name(row, apart), []).append(row)
    rest = [name for name in labels if name not in apart]
    return [
        f"{where}: {said[:1].lower()}{said[1:]}"
        for where, some in groups.items()
        if len(some) > 1
        for said in (
            _sentence(some, name, rest) for name in measures[:MEASURES] if any(r[name] == r[name] for r in some)
        )
    ]


def _counts(name: str) -> bool:
    """Whether a column says how many there were, or is a number beside the measures."""
    return name in ("n", "kinds") or name.startswith("n_") or "_percent" in name


def _apart(starts: list[dict[Any, Any]], labels: list[str]) -> list[str]:
    """The labels by which the unsteered rows differ."""
    return [name for name in labels if len({str(row[name]) for row in starts}) > 1]


def _sentence(rows: list[dict[Any, Any]], measure: str, labels: list[str]) -> str:
    known = [row for row in rows if row[measure] == row[measure]]
    top, low = max(known, key=lambda row: row[measure]), min(known, key=lambda row: row[measure])
    start = next((row for row in known if _is_start(row, labels)), None)
    if len(known) > 1 and top[measure] == low[measure]:
        return f"{worded(measure).capitalize()} is the same in all rows: {_value(top, measure)}."
    said = f"{worded(measure).capitalize()} is highest {_with(top, labels)}: {_value(top, measure)}"
    if start is not None and start is not top:
        said += f", where {_name(start, labels)} has {_value(start, measure)}"
    if low is not top and low is not start:
        said += f"; lowest {_with(low, labels)}: {_value(low, measure)}"
    return f"{said}."


def _with(row: Mapping[Any, Any], labels: list[str]) -> str:
    """The name of a row after its preposition; some names begin with one."""
    name = _name(row, labels)
    return f"in “{name}”" if name.startswith("with") else f"with {name}"


def _is_start(row: Mapping[Any, Any], labels: list[str]) -> bool:
    known = any(str(row[name]).lower().startswith(_STARTS) or _is_none(name, row[name]) for name in labels)
    return known or (bool(labels) and not _parts(row, labels))


def _is_none(name: str, value: Any) -> bool:
    """Whether a column says that nothing steered: a flag, or no bias."""
    return (name == "steered" and value is False) or (name == "delta" and value == 0)


def _name(row: Mapping[Any, Any], labels: list[str]) -> str:
    """What a row is: texts as they are, numbers with the name of their column; unsteered where nothing is said."""
    return ", ".join(_parts(row, labels)) or ("unsteered" if labels else "the only row")


def _parts(row: Mapping[Any, Any], labels: list[str]) -> list[str]:
    parts = []
    for name in labels:
        value = row[name]
        if isinstance(value, str):
            parts += [value] if value else []
        elif isinstance(value, bool):
            parts.append(worded(name) if value else f"not {worded(name)}")
        elif value == value:
            parts.append(f"{worded(name)} {value:g}" if isinstance(value, int | float) else f"{worded(name)} {value}")
    return parts


def _value(row: Mapping[Any, Any], measure: str) -> str:
    stem = measure.removesuffix("_percent")
    for low, high in ((f"{measure}_low", f"{measure}_high"), (f"{stem}_low", f"{stem}_high")):
        if low in row and high in row and row[low] == row[low]:
            return f"{row[measure]:.1f} % (95 % interval {row[low]:.1f} to {row[high]:.1f})"
    return f"{row[measure]:.1f} %"
