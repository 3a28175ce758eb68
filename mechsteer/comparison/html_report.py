"""Answers side by side, with what changed marked: a page that needs nothing else, and plain text."""

import html
import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.findings import findings
from mechsteer.comparison.summary import repeats
from mechsteer.display import ROWS, STRIP
from mechsteer.html_report import Report, provenance_of, samples_of
from mechsteer.html_report.changes import changes
from mechsteer.html_report.samples import verdict_of
from mechsteer.stats import in_percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STYLE = """
.mechsteer { font: 14px/1.45 system-ui, sans-serif; max-width: 1200px; }
.mechsteer table { border-collapse: collapse; margin: 0 0 1.5em; }
.mechsteer th, .mechsteer td { padding: .35em .7em; text-align: left; vertical-align: top; }
.mechsteer th, .mechsteer td { border-bottom: 1px solid rgba(128,128,128,.4); }
.mechsteer td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.mechsteer .answers { table-layout: fixed; width: 100%; }
.mechsteer .answers td { white-space: pre-wrap; overflow-wrap: anywhere; }
.mechsteer .prompt { background: rgba(128,128,128,.12); }
.mechsteer ins { background: rgba(0,158,115,.25); text-decoration: none; }
.mechsteer del { background: rgba(213,94,0,.22); opacity: .8; }
.mechsteer .mark { font-size: 12px; opacity: .75; display: block; white-space: normal; }
"""
"""For a part of a notebook, on light and dark pages."""

LETTERS, LEAST = 60_000, 40
"""Letters of all prompts and answers in a notebook, and the fewest of each to which they are cut for its bytes."""

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
ADHERENCE = ("adherence", "adherence_uncollapsed", "interval")
SHARES = ("collapsed", "empty", "truncated", "repetition")


def part(rows: "pd.DataFrame", summary: "pd.DataFrame", score: str, limit: int) -> str:
    """A part for a notebook, with so many prompts."""
    share = in_percent(summary, rows[score])
    table, more = (
        _table(summary.head(ROWS), share=share),
        f"… and {len(summary) - ROWS} more rows" if len(summary) > ROWS else "",
    )
    shown = answers(rows, score, limit, STRIP - len(table.encode()))
    return f'<div class="mechsteer"><style>{STYLE}</style>{table}{more}{shown}</div>'


def report_of(rows: "pd.DataFrame", summary: "pd.DataFrame", score: str, figure: "Figure", command: str = "") -> Report:
    """What the page of a comparison says; ``command`` is what made it, where a terminal did."""
    task, model = str(rows["task"].iloc[0]), str(rows["model_name"].iloc[0])
    names = list(dict.fromkeys(map(str, rows["name"])))
    asked = (
        f"How often does {model} follow the instructions of {task} under {len(names)} ways to steer? "
        f"{len(rows) // len(names)} prompts, the same for all; what counts is {score.replace('_', ' ')}."
    )
    return Report(
        title=f"Comparison on {task}, {model}",
        asked=[asked],
        found={"": [*findings(summary, rows[score]), *filter(None, [repeats(rows[rows["name"] == names[0]])])]},
        figures={"Adherence by method": figure},
        tables={"summary": summary},
        samples=samples_of(rows, "name", verdict_of(rows, score), key=()),
        provenance=provenance_of([rows]),
        command=command or f"ms.compare(ms.load({model!r}), task, methods)  # {task}; {', '.join(names)}",
    )


def _table(summary: "pd.DataFrame", *, share: bool) -> str:
    kept = [name for name in HEADINGS if name == "interval" or not summary[name].isna().all()]
    head = "".join(f"<th>{HEADINGS[name]}</th>" for name in kept)
    shares = (*SHARES, *(ADHERENCE if share else ()))
    lines = [
        "".join(f"<td{'' if name == 'name' else ' class=number'}>{_cell(row, name, shares)}</td>" for name in kept)
        for row in summary.to_dict("records")
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(row: dict[Any, Any], name: str, shares: Collection[str]) -> str:
    """A cell; ``shares`` are the columns that are said in percent."""
    if name == "interval":
        ends = row["adherence_low"], row["adherence_high"]
        return " to ".join(map(_percent if name in shares else _number, ends))
    value = row[name]
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if name in shares:
        return _percent(value)
    return f"{value:.2g}" if name.startswith("p_") else f"{value:.1f}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def answers(rows: "pd.DataFrame", score: str, limit: int, room: int = STRIP) -> str:
    """A table with a column for each method and two lines for each prompt, cut until it has so many bytes."""
    if "output" not in rows:
        return ""
    most = LETTERS // (limit * (1 + rows["name"].nunique()))
    while len((made := _answers(rows, score, limit, most)).encode()) > room and limit:
        most, limit = (most // 2, limit) if most > LEAST else (most, limit // 2)
    return made


def _answers(rows: "pd.DataFrame", score: str, limit: int, most: int) -> str:
    """The same with so many prompts, and so many letters of each text."""
    names = list(dict.fromkeys(rows["name"]))
    said = verdict_of(rows, score)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for prompt, group in _prompts(rows, limit):
        texts = [_cut(str(row["output"]), most) for row in group]
        cells = [
            f'<td><span class="mark">{html.escape(said(row)[0])}</span>'
            f"{html.escape(text) if place == 0 else changes(texts[0], text)}</td>"
            for place, (row, text) in enumerate(zip(group, texts, strict=True))
        ]
        lines.append(f'<tr><td class="prompt" colspan="{len(names)}">{html.escape(_cut(prompt, most))}</td></tr>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="answers"><tr>{head}</tr>{"".join(lines)}</table>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _prompts(rows: "pd.DataFrame", limit: int) -> Iterator[tuple[str, list[dict[Any, Any]]]]:
    """Each prompt with its rows, one a method, in order."""
    names = list(dict.fromkeys(rows["name"]))
    tables = [rows[rows["name"] == name].to_dict("records") for name in names]
    for place, group in enumerate(zip(*tables, strict=True)):
        if place >= limit:
            return
        yield str(group[0].get("prompt", f"sample {place}")), list(group)


def side_by_side(rows: "pd.DataFrame", score: str, limit: int) -> str:
    """The first answers as text: below each prompt, every method's."""
    if "output" not in rows:
        return ""
    said = verdict_of(rows, score)
    width = max(len(str(name)) for name in rows["name"])
    lines = []
    for prompt, group in _prompts(rows, limit):
        asked = " ".join(prompt.split())
        lines.append(f"> {asked if len(asked) <= 100 else '…' + asked[-99:]}")
        for row in group:
            answer = " ".join(str(row["output"]).split())[:160]
            lines.append(f"  {row['name']!s:<{width}}  [{said(row)[0]}] {answer}")
    left = len(rows) // len(set(rows["name"])) - limit
    return "\n".join([*lines, *([f"... and {left} more prompts in .rows"] if left > 0 else [])])
