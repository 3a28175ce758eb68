"""How objects show themselves in a notebook: small pieces of HTML, without scripts, for light and dark pages.

Colours are translucent, and text has the page's own colour, so that both read well. What came from a model or a file is
always escaped.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

COLOURS: Mapping[str, str] = {
    "blue": "0,114,178",
    "orange": "230,159,0",
    "green": "0,158,115",
    "purple": "204,121,167",
    "red": "213,94,0",
    "grey": "128,128,128",
}
"""Names of colours (Okabe and Ito's, which colour-blind people tell apart) and their parts."""

LONGEST = 3000
"""Tokens of one strip that are drawn."""

CELL = 200_000
"""Bytes that an object may take in a notebook."""

STRIP = 150_000
"""Bytes of the tokens of an object; what is longer is cut, and the cut is said."""

ROWS = 100
"""Rows of a table in a notebook."""


@dataclass(frozen=True)
class Piece:
    """A token in a strip.

    Attributes:
        text: Its text.
        colour: The name of its background's colour; none where empty.
        strength: How strong the background is, from 0 to 1.
        title: What is shown under the pointer.
        dim: Whether it is written faintly.
    """

    text: str
    colour: str = ""
    strength: float = 0.35
    title: str = ""
    dim: bool = False


def token_strip(pieces: Sequence[Piece], most: int = STRIP) -> str:
    """Tokens in a row that wraps, on their colours: as many as ``most`` bytes hold, at most :data:`LONGEST`."""
    drawn, size = [], 0
    for piece in pieces[:LONGEST]:
        made = _piece(piece)
        size += len(made.encode())
        if size > most:
            break
        drawn.append(made)
    shown, more = "".join(drawn), len(pieces) - len(drawn)
    tail = f'<span style="opacity:.6"> … {more} more tokens</span>' if more > 0 else ""
    style = "font:13px/1.7 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere"
    return f'<div style="{style}">{shown}{tail}</div>'


def _piece(piece: Piece) -> str:
    rules = []
    if piece.colour and piece.strength > 0:
        rules.append(f"background:rgba({COLOURS[piece.colour]},{min(1.0, piece.strength):.2f})")
    if piece.dim:
        rules.append("opacity:.55")
    style = f' style="{";".join(rules)}"' if rules else ""
    title = f' title="{html.escape(piece.title)}"' if piece.title else ""
    text = html.escape(piece.text).replace("\n", "↵\n").replace("\t", "⇥")
    return f"<span{style}{title}>{text}</span>" if style or title else text


def legend(entries: Mapping[str, str]) -> str:
    """What the colours mean: their names and what is said of them."""
    parts = [
        f'<span style="background:rgba({COLOURS[colour]},.35);padding:0 .5em">{html.escape(says)}</span>'
        for colour, says in entries.items()
    ]
    return f'<div style="font:12px system-ui,sans-serif;margin:.3em 0">{" ".join(parts)}</div>' if parts else ""


def rows_of(table: Iterable[Sequence[object]], heads: Sequence[str], *, rows: int = ROWS, most: int = STRIP) -> str:
    """A table of at most so many rows, as many as ``most`` bytes hold.

    Numbers are rounded to four digits, long texts are cut.
    """
    given = list(table)
    head = "".join(f'<th style="text-align:left;padding:.2em .8em">{html.escape(h)}</th>' for h in heads)
    cell = '<td style="text-align:left;vertical-align:top;padding:.2em .8em">{}</td>'
    drawn, size = [], len(head.encode())
    for row in given[:rows]:
        line = f"<tr>{''.join(cell.format(html.escape(_cell(value))) for value in row)}</tr>"
        size += len(line.encode())
        if size > most:
            break
        drawn.append(line)
    left = len(given) - len(drawn)
    more = f"… and {left} more rows" if left else ""
    return f'<table style="font:13px system-ui,sans-serif"><tr>{head}</tr>{"".join(drawn)}</table>{more}'


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shortened(str(value), 300)


def titled(title: str, *parts: str) -> str:
    """Parts under a line that says what they are."""
    head = f'<div style="font:13px system-ui,sans-serif;font-weight:600">{html.escape(title)}</div>'
    return f'<div style="margin:.2em 0">{head}{"".join(parts)}</div>'


def folded(title: str, body: str, *, unfolded: bool = False) -> str:
    """A body that is hidden until its title is clicked."""
    state = " open" if unfolded else ""
    style = "font:13px system-ui,sans-serif;cursor:pointer"
    return f'<details{state}><summary style="{style}">{html.escape(title)}</summary>{body}</details>'


def counted(number: int, what: str) -> str:
    """A number with what is counted: ``1 token``, ``2 tokens``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def shortened(text: str, limit: int = 70) -> str:
    """A text in one line, cut where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
