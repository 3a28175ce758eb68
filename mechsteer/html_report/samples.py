"""Answers side by side: a block for each prompt, a column for each way, what changed against another one marked."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechsteer.html_report.changes import changes
from mechsteer.page_data import holder, packed
from mechsteer.stats import are_shares

if TYPE_CHECKING:
    import pandas as pd

FIRST = 5
"""Prompts that are shown at once."""

MOST = 3_000_000
"""Bytes of the data of all answers; longer ones are cut until it fits."""

SCORES = ("adherence", "strict", "correct", "found", "score", "success")
"""What counts as following, the first that a task has."""

STILL = 1500
"""Letters of an answer where no script runs."""

LIMITS = (None, 4000, 2000, 1000, 500, 250, 120)
"""Letters of an answer that are tried, one after another."""


@dataclass(frozen=True)
class Samples:
    """Answers.

    Attributes:
        names: The ways.
        prompts: One text a prompt.
        answers: For each prompt one ``(answer, verdict, good)`` a way; ``good`` is None where nothing says it.
        against: For each way the place of the one that it is compared with; its own for none.
    """

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    answers: tuple[tuple[tuple[str, str, bool | None], ...], ...]
    against: tuple[int, ...]


def samples_of(
    rows: "pd.DataFrame",
    by: str,
    verdict: Callable[[dict[Any, Any]], tuple[str, bool | None]],
    *,
    key: Sequence[str] = ("sample",),
    against: Callable[[str], str] = lambda name: "",
) -> Samples | None:
    """The answers of a table with one row a prompt and way; None where it has no answers.

    Args:
        rows: With ``output``, ``prompt`` where there is one, the column ``by``, and ``key``.
        by: The column that names the way.
        verdict: What a row came to, in words, and whether that is good.
        key: The columns that say which prompt it is. Without them the rows of each way are in the same order.
        against: The way that one is compared with; where there is none of that name, it is the first.
    """
    if "output" not in rows or rows.empty:
        return None
    names = list(dict.fromkeys(map(str, rows[by])))
    found: dict[Any, dict[str, dict[Any, Any]]] = {}
    counts: dict[str, int] = {}
    for row in rows.to_dict("records"):
        name = str(row[by])
        place = counts[name] = counts.get(name, -1) + 1
        same = tuple(str(row[column]) for column in key if column in row) or place
        found.setdefault(same, {}).setdefault(name, row)
    whole = [group for group in found.values() if len(group) == len(names)]
    answers = tuple(tuple((str(group[name]["output"]), *verdict(group[name])) for name in names) for group in whole)
    prompts = tuple(str(group[names[0]].get("prompt", f"sample {place}")) for place, group in enumerate(whole))
    others = tuple(names.index(other) if (other := against(name)) in names else 0 for name in names)
    return Samples(tuple(names), prompts, answers, others)


def score_of(rows: "pd.DataFrame") -> str | None:
    """The column that says how well an answer is, the first that is known."""
    return next((name for name in SCORES if name in rows and rows[name].dtype.kind in "biuf"), None)


def verdict_of(rows: "pd.DataFrame", score: str | None = None) -> Callable[[dict[Any, Any]], tuple[str, bool | None]]:
    """What a row of a table came to, in words, and whether that is good, by its score.

    Of a score that is no share (a count of words, say) the number is said, and not whether it is good.
    """
    column = score or score_of(rows)
    share = column in rows and are_shares(rows[column].dropna())

    def said(row: dict[Any, Any]) -> tuple[str, bool | None]:
        value: Any = row.get(column) if column else None
        number = None if value is None or value != value else float(value)
        text = "" if number is None else f"{column} {number:.2f}"
        if share and number in (0.0, 1.0):
            text = "followed" if number else "not followed"
        reason = row.get("collapse_reason")
        collapsed = f"collapsed: {reason}" if isinstance(reason, str) and reason else ""
        good = number >= 0.5 if share and number is not None else None
        return "; ".join(part for part in (text, collapsed) if part), good

    return said


def answers_of(samples: Samples) -> str:
    """The part of a page with all answers."""
    limit, data = None, ""
    for limit in LIMITS:
        data = packed(_data(samples, limit))
        if len(data) <= MOST:
            break
    count = len(samples.prompts)
    cut = (
        f"<p class=note>Answers are cut after {limit} letters here; the rows' file has all of them.</p>"
        if limit
        else ""
    )
    blocks = "".join(_block(samples, place) for place in range(min(FIRST, count)))
    shows = "".join(
        f"<option value={value}>{said}</option>"
        for value, said in (
            ("all", "all prompts"),
            ("changed", "a changed answer"),
            ("better", "repaired"),
            ("worse", "broken"),
        )
    )
    return (
        f"<div data-answers>{cut}<div class=controls hidden>"
        f'<input type=search placeholder="Find in prompts and answers" aria-label="Find in prompts and answers">'
        f"<label>Show <select>{shows}</select></label>"
        f"<button type=button data-turn=-1>Previous</button><button type=button data-turn=1>Next</button>"
        f"<output aria-live=polite>{count} prompts</output></div>"
        f"<div data-blocks>{blocks}</div>{holder('answers', data)}</div>"
    )


def _data(samples: Samples, limit: int | None) -> dict[str, Any]:
    def cut(text: str) -> str:
        return text if limit is None else _cut(text, limit)

    # Every kind of text in a list of its own: what is alike lies together, and compresses better.
    return {
        "names": list(samples.names),
        "against": list(samples.against),
        "prompts": [cut(prompt) for prompt in samples.prompts],
        "answers": [[cut(answer) for answer, _, _ in row] for row in samples.answers],
        "said": [[said for _, said, _ in row] for row in samples.answers],
        "good": [[good for _, _, good in row] for row in samples.answers],
    }


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _block(samples: Samples, number: int) -> str:
    texts = [_cut(answer, STILL) for answer, _, _ in samples.answers[number]]
    marked = [
        html.escape(text) if place == other else changes(texts[other], text)
        for place, (text, other) in enumerate(zip(texts, samples.against, strict=True))
    ]
    cells = [
        f"<div class=answer><h3>{html.escape(name)}</h3><p class={_class(good)}>{html.escape(said)}</p>"
        f"<div class=text>{text}</div></div>"
        for name, (_, said, good), text in zip(samples.names, samples.answers[number], marked, strict=True)
    ]
    prompt = html.escape(samples.prompts[number])
    return f"<article><div class=prompt>{prompt}</div><div class=side>{''.join(cells)}</div></article>"


def _class(good: bool | None) -> str:
    return "mark" if good is None else "mark-good" if good else "mark-bad"
