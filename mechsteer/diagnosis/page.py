"""A diagnosis for people: plain text, and a page that needs nothing else."""

import html
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.page import STYLE, image
from mechsteer.display import document
from mechsteer.report import show

if TYPE_CHECKING:
    import pandas as pd

ROWS = 60
"""Rows of a table on the page; all are in ``.tables``."""

HEADINGS = {
    "reading": "Can it read the instruction?",
    "how often": "How often is it followed?",
    "where": "Where is it, and what differs where it is followed?",
    "form": "Does another form help?",
    "push": "Does more attention help?",
    "attended": "Is it attended to at the answer?",
    "decodable": "Is it decodable there?",
    "cut": "What if attention to it is cut?",
    "lens": "Where is the decision made?",
    "sinks": "Are there attention sinks?",
    "methods": "Which mild method moves the decision most?",
}


def text(found: Any) -> str:
    """The verdict and the findings, by question."""
    lines = [found.title, "", f"Verdict: {found.verdict}"]
    for about, sentences in _grouped(found):
        lines += ["", HEADINGS[about], *(f"  {sentence}" for sentence in sentences)]
    return "\n".join(lines)


def page(found: Any, *, whole: bool = True) -> str:
    """The page; a part for a notebook where it is not to be whole."""
    parts = [f"<p><b>Verdict: {html.escape(found.verdict)}</b></p>"]
    for about, sentences in _grouped(found):
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
        parts.append(f"<h3>{html.escape(HEADINGS[about])}</h3><ul>{items}</ul>")
    if whole:
        parts += [image(found.plot(), "Attention, probes and cuts")] * ("mass" in found.tables)
        parts += [f"<h3>{name}</h3>{_table(table)}" for name, table in found.tables.items() if name != "findings"]
    body = f'<div class="mechsteer"><style>{STYLE}</style><h2>{html.escape(found.title)}</h2>{"".join(parts)}</div>'
    return document(f"Diagnosis of {found.title}", body) if whole else body


def _grouped(found: Any) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for one in found.findings:
        if one.about == "verdict":
            continue
        groups.setdefault(one.about, []).append(one.sentence)
    return sorted(groups.items(), key=lambda item: list(HEADINGS).index(item[0]))


def _table(table: "pd.DataFrame") -> str:
    rest = f"\n... and {len(table) - ROWS} more rows" if len(table) > ROWS else ""
    return f"<pre>{html.escape(show(table.head(ROWS), decimals=3) + rest)}</pre>"
