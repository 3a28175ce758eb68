"""A diagnosis for people: plain text, and a page that needs nothing else."""

import html
from textwrap import wrap
from typing import Any

from mechsteer.comparison.html_report import STYLE
from mechsteer.html_report import Report, provenance_of, samples_of
from mechsteer.html_report.samples import verdict_of

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


READING = (
    "Each p is of a two-sided exact test (that of followed against ignored prompts is Mann and Whitney's, that of the "
    "probe counts its shuffles), adjusted where several forms, layers or methods were tried; each interval is of its "
    "own comparison alone, so that it may leave out 0 where the test, of few prompts, finds no evidence."
)


def text(found: Any) -> str:
    """The verdict and the findings, by question."""
    lines = [found.title, "", f"Verdict: {found.verdict}"]
    for about, sentences in _grouped(found):
        lines += ["", HEADINGS[about], *(f"  {sentence}" for sentence in sentences)]
    return "\n".join([*lines, "", *wrap(READING, 120)])


def part(found: Any) -> str:
    """The part for a notebook."""
    parts = [f"<p><b>Verdict: {html.escape(found.verdict)}</b></p>"]
    for about, sentences in _grouped(found):
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
        parts.append(f"<h3>{html.escape(HEADINGS[about])}</h3><ul>{items}</ul>")
    parts.append(f"<p>{html.escape(READING)}</p>")
    return f'<div class="mechsteer"><style>{STYLE}</style><h2>{html.escape(found.title)}</h2>{"".join(parts)}</div>'


def report_of(found: Any, command: str = "") -> Report:
    """What the page of a :class:`mechsteer.diagnosis.Diagnosis` says; ``command`` made it, where a terminal did."""
    tables = {name: table for name, table in found.tables.items() if name not in ("findings", "answers")}
    answers = found.tables.get("answers")
    samples = None if answers is None else samples_of(answers, "arm", verdict_of(answers, "passed"), key=("case",))
    return Report(
        title=f"Diagnosis of {found.title}",
        asked=[
            "Why is the instruction not followed, where it is not? Is it attended to and decodable where the answer "
            "begins, and what happens when attention to it is cut, each beside a control.",
            READING,
        ],
        found={"": [f"Verdict: {found.verdict}"], **{HEADINGS[about]: said for about, said in _grouped(found)}},
        figures={"Attention, probes and cuts": found.plot()} if "mass" in found.tables else {},
        tables=tables,
        samples=samples,
        provenance=provenance_of([] if answers is None else [answers]),
        command=command or f"ms.diagnose(model, task)  # {found.title}",
    )


def _grouped(found: Any) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for one in found.findings:
        if one.about == "verdict":
            continue
        groups.setdefault(one.about, []).append(one.sentence)
    return sorted(groups.items(), key=lambda item: list(HEADINGS).index(item[0]))
