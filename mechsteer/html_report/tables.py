"""Tables that sort and filter: the first rows stand in the page, all of them in its data."""

import html
from typing import TYPE_CHECKING, Any

from mechsteer.html_report.values import columns_of, escaped, heading, plain
from mechsteer.page_data import holder, packed

if TYPE_CHECKING:
    import pandas as pd

FIRST = 25
"""Rows that are shown at once."""

MOST = 300_000
"""Bytes of a table's data; of a longer one the first rows are in the page."""


def table_of(name: str, title: str, table: "pd.DataFrame", *, unfolded: bool = False) -> str:
    """A table under its title, folded away unless told not to."""
    columns = columns_of(table)
    rows = [[plain(value) for value in row] for row in table[columns].itertuples(index=False)]
    data = packed({"rows": rows})
    kept = rows
    while len(data) > MOST and len(kept) > FIRST:
        kept = kept[: max(FIRST, int(len(kept) * 0.9 * MOST / len(data)))]
        data = packed({"rows": kept})
    numeric = [
        all(row[place] is None or isinstance(row[place], int | float) for row in rows) for place in range(len(columns))
    ]
    cut = (
        ""
        if len(kept) == len(rows)
        else "<p class=note>Not all rows are on this page; they are in the table's file.</p>"
    )
    head = "".join(map(_head, columns, numeric))
    body = "".join(_row(row, numeric) for row in rows[:FIRST])
    label = html.escape(title)
    summary = f"<summary>{label} <span class=note>{len(rows)} rows</span></summary>"
    return (
        f"<details{' open' if unfolded else ''}>{summary}{cut}"
        f'<div class=table data-table="{html.escape(name)}">{_controls(label, len(kept))}'
        f'<div class=scroll tabindex=0 role=region aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{holder(name, data)}</div></details>"
    )


def _controls(label: str, count: int) -> str:
    """The filter, and the pages of a long table; the script shows them."""
    return (
        f'<div class=controls hidden><input type=search placeholder="Filter rows" aria-label="Filter rows: {label}">'
        f"<button type=button data-turn=-1>Previous</button><button type=button data-turn=1>Next</button>"
        f"<output aria-live=polite>{count} rows</output></div>"
    )


def _head(column: str, numeric: bool) -> str:
    kind = " class=number" if numeric else ""
    return f"<th scope=col aria-sort=none{kind}><button type=button>{html.escape(heading(column))}</button></th>"


def _row(row: list[Any], numeric: list[bool]) -> str:
    cells = "".join(
        f"<td{' class=number' if number else ''}>{escaped(value)}</td>"
        for value, number in zip(row, numeric, strict=True)
    )
    return f"<tr>{cells}</tr>"
