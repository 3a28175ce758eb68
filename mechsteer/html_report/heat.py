"""Heat maps of a page: every cell says its number, and shows examples under the pointer or the keyboard's focus."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.html_report.values import heading, plain, text
from mechsteer.page_data import holder, packed

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 4
"""Examples of a cell."""

LETTERS = 400
"""Letters of an example's prompt or answer."""


@dataclass(frozen=True)
class Heat:
    """A heat map.

    Attributes:
        title: What it shows.
        table: One row a cell.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        value: Column of the colour.
        signed: Whether the colours have 0 in their middle.
        examples: For a cell ``(x, y)``, some of its answers: each a mapping of what it is to its text.
    """

    title: str
    table: "pd.DataFrame"
    x: str
    y: str
    value: str
    signed: bool = False
    examples: Mapping[tuple[float, float], Sequence[Mapping[str, str]]] = field(default_factory=dict)


def heat_of(name: str, heat: Heat) -> str:
    """The part of a page with one heat map.

    Raises:
        MechsteerError: if a cell is given twice.
    """
    if heat.table.duplicated([heat.x, heat.y]).any():
        raise MechsteerError(f"The table has several rows for one ({heat.x}, {heat.y}) cell of the heat map.")
    grid = heat.table.pivot(index=heat.y, columns=heat.x, values=heat.value).sort_index()
    values = [[plain(value) for value in row] for row in grid.itertuples(index=False)]
    most = max((abs(value) for row in values for value in row if value is not None), default=0.0) or 1.0
    head = "".join(f"<th scope=col>{html.escape(text(plain(x)))}</th>" for x in grid.columns)
    lines, shown = [], {}
    for y, row in zip(grid.index, values, strict=True):
        cells = []
        for x, value in zip(grid.columns, row, strict=True):
            key, found = f"{plain(x)},{plain(y)}", heat.examples.get((_number(x), _number(y)), ())
            if found:
                shown[key] = [{what: _cut(said) for what, said in one.items()} for one in found[:EXAMPLES]]
            cells.append(_cell(heat, key, value, most, bool(found)))
        lines.append(f"<tr><th scope=row>{html.escape(text(plain(y)))}</th>{''.join(cells)}</tr>")
    corner = f"{html.escape(heading(heat.y))} ↓ {html.escape(heading(heat.x))} →"
    hint = "Point at a cell, or move to it with the Tab key, for examples." if shown else ""
    return (
        f'<figure class=heat data-heat="{html.escape(name)}"><figcaption>{html.escape(heat.title)}</figcaption>'
        f'<div class=scroll tabindex=0 role=region aria-label="{html.escape(heat.title)}">'
        f"<table><thead><tr><th class=corner>{corner}</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f"<div class=examples aria-live=polite>{hint}</div>{holder(name, packed(shown))}</figure>"
    )


def _cell(heat: Heat, key: str, value: Any, most: float, examples: bool) -> str:
    if value is None:
        return "<td></td>"
    share = min(1.0, abs(value) / most)
    colour = "0,114,178" if value >= 0 or not heat.signed else "213,94,0"
    said = f"{value:+.1f}" if heat.signed else f"{value:.4g}"
    focus = f' tabindex=0 data-cell="{html.escape(key)}"' if examples else ""
    return f'<td class=number style="background:rgba({colour},{0.75 * share:.2f})"{focus}>{said}</td>'


def _number(value: Any) -> float:
    return round(float(value), 6)


def _cut(said: str) -> str:
    return said if len(said) <= LETTERS else f"{said[:LETTERS]}…"
