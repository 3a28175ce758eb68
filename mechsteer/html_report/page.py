"""A report as one page."""

import base64
import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mechsteer.files import atomic_path
from mechsteer.html_report.heat import Heat, heat_of
from mechsteer.html_report.samples import Samples, answers_of
from mechsteer.html_report.tables import table_of
from mechsteer.plots.base import png

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
        title: What it is about.
        asked: What was asked, in sentences.
        found: What was found, in sentences; by question, where there are several.
        figures: Figures, or PNG files, by what they show.
        heats: Heat maps.
        tables: Tables by name; the first is unfolded.
        samples: Answers side by side.
        provenance: Where the numbers came from.
        command: What makes it again in a terminal.
    """

    title: str
    asked: Sequence[str]
    found: Mapping[str, Sequence[str]]
    figures: "Mapping[str, Figure | bytes]" = field(default_factory=dict)
    heats: Sequence[Heat] = ()
    tables: "Mapping[str, pd.DataFrame]" = field(default_factory=dict)
    samples: Samples | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def write(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page.

    Raises:
        MechsteerError: if it cannot be written.
    """
    text = page(report)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def page(report: Report) -> str:
    """The page, as one text that loads nothing."""
    title = html.escape(report.title)
    parts = {
        "Found": "".join(
            f"{f'<h3>{html.escape(name)}</h3>' if name else ''}{_list(said)}" for name, said in report.found.items()
        ),
        "Figures": "".join(_figure(name, figure) for name, figure in report.figures.items()),
        "Cell by cell": "".join(heat_of(f"heat-{place}", heat) for place, heat in enumerate(report.heats)),
        "Answers side by side": ""
        if report.samples is None or not report.samples.prompts
        else answers_of(report.samples),
        "Tables": "".join(
            table_of(f"table-{name}", name.replace("_", " "), table, unfolded=not place)
            for place, (name, table) in enumerate(report.tables.items())
        ),
        "Where the numbers came from": _facts(report.provenance),
        "Make it again": f"<pre tabindex=0><code>{html.escape(report.command)}</code></pre>" if report.command else "",
    }
    shown = {name: body for name, body in parts.items() if body}
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in shown)
    body = "".join(f"<section id={_anchor(name)}><h2>{name}</h2>{part}</section>" for name, part in shown.items())
    asked = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in report.asked)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_own("report.css")}</style></head>'
        f'<body class="mechsteer"><header><h1>{title}</h1>{asked}<nav aria-label="Sections">{links}</nav></header>'
        f"<main>{body}</main><script>{_own('report.js')}</script></body></html>\n"
    )


def _own(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _figure(name: str, figure: "Figure | bytes") -> str:
    shown = html.escape(name.replace("_", " "))
    data = base64.b64encode(figure if isinstance(figure, bytes) else png(figure)).decode()
    return f'<figure><img alt="{shown}" src="data:image/png;base64,{data}"><figcaption>{shown}</figcaption></figure>'


def _facts(facts: Mapping[str, str]) -> str:
    lines = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{lines}</dl>" if lines else ""
