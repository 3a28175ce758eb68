"""What the explorer shows, as HTML: answers, probabilities, Influence, a grid of strengths. Everything is escaped."""

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.html_report.changes import changes
from mechsteer.plots.base import png

if TYPE_CHECKING:
    import pandas as pd

CSS = """
:host { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; overflow-wrap: anywhere; }
.answer { white-space: pre-wrap; margin: 0; min-height: 3em; }
pre { font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; margin: 0; }
.faint { color: #666; }
.error { color: #a02000; }
ins { background: #cdeccd; text-decoration: none; }
del { background: #f6d5d0; color: #7a3b32; margin-right: .15em; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; padding: .15em .5em .15em 0; border-bottom: 1px solid #ccc; }
td { padding: .15em .5em .15em 0; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.token { font-family: ui-monospace, monospace; white-space: pre-wrap; width: 45%; }
.room { display: inline-block; width: 4em; margin-right: .5em; }
.bar { display: inline-block; height: .7em; background: #0072b2; }
.says { font-size: 12px; line-height: 1.3; }
.bar.steered { background: #d55e00; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 12px; }
.card { border: 1px solid #ccc; border-radius: 6px; padding: 8px 12px; }
.card h3 { font-size: 14px; margin: 0 0 .3em; }
.card p { font-size: 14px; }
img { width: 100%; max-width: 560px; height: auto; display: block; }
"""
"""How the pieces look; for the page's panes, which no style of the page reaches."""


def answer_view(text: str, before: str | None = None) -> str:
    """An answer; beside another one, with what changed marked."""
    body = html.escape(text) if before is None else changes(before, text)
    return f'<p class="answer">{body or _faint("nothing was written")}</p>'


def _faint(text: str) -> str:
    return f'<span class="faint">{html.escape(text)}</span>'


def code_view(code: str) -> str:
    """Python."""
    return f"<pre>{html.escape(code)}</pre>"


def note_view(text: str) -> str:
    """What went wrong, in a line; empty for nothing."""
    return f'<span class="error" role="alert">{html.escape(text)}</span>' if text else ""


def token_table(table: "pd.DataFrame") -> str:
    """The most likely next tokens, with their probability unsteered and steered.

    Args:
        table: As :func:`mechsteer.explorer.desk.next_tokens` makes it: token, unsteered and steered.
    """
    largest = max(float(table[["unsteered", "steered"]].max().max()), 1e-9)
    rows = [
        f'<tr><td class="token">{html.escape(repr(row["token"]))}</td>'
        f"{_bar(float(row['unsteered']), largest, '')}{_bar(float(row['steered']), largest, ' steered')}</tr>"
        for row in table.to_dict("records")
    ]
    head = "<tr><th>first token</th><th>unsteered</th><th>steered</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _bar(value: float, largest: float, kind: str) -> str:
    bar = f'<span class="bar{kind}" style="width:{4 * value / largest:.2f}em"></span>'
    return f'<td><span class="room">{bar}</span>{value:.1%}</td>'


def influence_view(table: "pd.DataFrame") -> str:
    """Influence of the instruction at the position that predicts, over layers; one line unsteered, one steered.

    Args:
        table: Columns layer, answer and influence.
    """
    with plots.style():
        figure, (axes,) = plots.figure(width=5.2, height=2.6)
        plots.curves(axes, table, y="influence", by="answer", ylabel="Influence of the instruction", legend=False)
        figure.legend(loc="outside upper center", ncols=2)
        image = base64.b64encode(png(figure)).decode()
    said = html.escape("Influence of the instruction by layer, unsteered and steered")
    return f'<img alt="{said}" src="data:image/png;base64,{image}">'


def grid_view(name: str, cards: Sequence[tuple[float, str]], before: str) -> str:
    """Answers at several strengths, each with its changes from the unsteered one."""
    made = "".join(
        f'<section class="card"><h3>{html.escape(name)} = {strength:g}</h3>{answer_view(text, before)}</section>'
        for strength, text in cards
    )
    return f'<div class="cards">{made}</div>'
