"""Answers side by side, with what changed marked: a page that needs nothing else, and plain text."""

import base64
import difflib
import html
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mechsteer.display import document
from mechsteer.plots.base import png

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STYLE = """
.mechsteer { font: 14px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1200px; }
.mechsteer table { border-collapse: collapse; margin: 0 0 1.5em; }
.mechsteer th, .mechsteer td { padding: .35em .7em; text-align: left; vertical-align: top; }
.mechsteer th, .mechsteer td { border-bottom: 1px solid #ddd; }
.mechsteer td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.mechsteer .answers { table-layout: fixed; width: 100%; }
.mechsteer .answers td { white-space: pre-wrap; overflow-wrap: anywhere; }
.mechsteer .prompt { background: #f5f5f5; color: #444; }
.mechsteer ins { background: #d7f0e3; text-decoration: none; }
.mechsteer del { background: #fbe3d6; color: #8a4b2a; }
.mechsteer .mark { font-size: 12px; color: #555; display: block; white-space: normal; }
.mechsteer img { max-width: 100%; }
"""

HEADINGS = {
    "name": "method",
    "adherence": "adherence",
    "interval": "95 %",
    "adherence_uncollapsed": "without collapsed",
    "repaired": "repaired",
    "broken": "broken",
    "p_value": "p",
    "p_adjusted": "p, Holm",
    "collapsed": "collapsed",
    "empty": "empty",
    "truncated": "cut off",
    "n_tokens": "tokens",
    "repetition": "repetition",
    "surprise": "surprise (nats)",
    "tokens_per_second": "tokens/s",
}
SHARES = ("adherence", "adherence_uncollapsed", "collapsed", "empty", "truncated", "repetition")


def page(
    rows: "pd.DataFrame", summary: "pd.DataFrame", score: str, figure: "Figure | None", *, limit: int | None = None
) -> str:
    """The page; with ``limit``, a part for a notebook with so many prompts."""
    drawn = "" if figure is None else image(figure, "Adherence by method")
    body = f'<div class="mechsteer"><style>{STYLE}</style>{_table(summary)}{drawn}{answers(rows, score, limit)}</div>'
    if figure is None:
        return body
    title = f"Comparison on {rows['task'].iloc[0]}, {rows['model_name'].iloc[0]}"
    return document(title, f'<h1 class="mechsteer">{html.escape(title)}</h1>{body}')


def image(figure: "Figure", alt: str) -> str:
    """A figure as a part of a page."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'


def _table(summary: "pd.DataFrame") -> str:
    kept = [name for name in HEADINGS if name == "interval" or not summary[name].isna().all()]
    head = "".join(f"<th>{HEADINGS[name]}</th>" for name in kept)
    lines = [
        "".join(f"<td{'' if name == 'name' else ' class=number'}>{_cell(row, name)}</td>" for name in kept)
        for row in summary.to_dict("records")
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(row: dict[Any, Any], name: str) -> str:
    if name == "interval":
        return f"{_percent(row['adherence_low'])} to {_percent(row['adherence_high'])}"
    value = row[name]
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if name in SHARES:
        return _percent(value)
    return f"{value:.2g}" if name.startswith("p_") else f"{value:.1f}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def answers(rows: "pd.DataFrame", score: str, limit: int | None) -> str:
    """A table with a column for each method and two lines for each prompt."""
    if "output" not in rows:
        return ""
    names = list(dict.fromkeys(rows["name"]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for prompt, group in _prompts(rows, limit):
        first = str(group[0]["output"])
        cells = [
            f"<td>{_mark(row, score)}{html.escape(first) if place == 0 else changes(first, str(row['output']))}</td>"
            for place, row in enumerate(group)
        ]
        lines.append(f'<tr><td class="prompt" colspan="{len(names)}">{html.escape(prompt)}</td></tr>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="answers"><tr>{head}</tr>{"".join(lines)}</table>'


def _prompts(rows: "pd.DataFrame", limit: int | None) -> Iterator[tuple[str, list[dict[Any, Any]]]]:
    """Each prompt with its rows, one a method, in order."""
    names = list(dict.fromkeys(rows["name"]))
    tables = [rows[rows["name"] == name].to_dict("records") for name in names]
    for place, group in enumerate(zip(*tables, strict=True)):
        if limit is not None and place >= limit:
            return
        yield str(group[0].get("prompt", f"sample {place}")), list(group)


def _mark(row: dict[Any, Any], score: str) -> str:
    return f'<span class="mark">{html.escape(verdict(row, score))}</span>'


def verdict(row: dict[Any, Any], score: str) -> str:
    """What a row came to, in words."""
    value = row[score]
    said = ("followed" if value else "not followed") if str(value) in ("True", "False") else f"{score} {value:.2f}"
    reason = row.get("collapse_reason")
    return f"{said}; collapsed: {reason}" if isinstance(reason, str) and reason else said


def changes(before: str, after: str) -> str:
    """The second text as HTML, words that are new in <ins>, words that are gone in <del>; everything escaped."""
    old, new = _pieces(before), _pieces(after)
    made = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = html.escape("".join(old[a:b])), html.escape("".join(new[c:d]))
        if kind == "equal":
            made.append(come)
        else:
            made += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{come}</ins>"] * bool(come)
    return "".join(made)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def side_by_side(rows: "pd.DataFrame", score: str, limit: int) -> str:
    """The first answers as text: below each prompt, every method's."""
    if "output" not in rows:
        return ""
    width = max(len(str(name)) for name in rows["name"])
    lines = []
    for prompt, group in _prompts(rows, limit):
        asked = " ".join(prompt.split())
        lines.append(f"> {asked if len(asked) <= 100 else '…' + asked[-99:]}")
        for row in group:
            said = " ".join(str(row["output"]).split())[:160]
            lines.append(f"  {row['name']!s:<{width}}  [{verdict(row, score)}] {said}")
    left = len(rows) // len(set(rows["name"])) - limit
    return "\n".join([*lines, *([f"... and {left} more prompts in .rows"] if left > 0 else [])])
