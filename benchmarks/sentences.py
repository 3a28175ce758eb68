"""The numbers that README and docs claim: one list, ``tests/golden/sentences.toml``.

A ``[[sentence]]`` has ``#`` where its numbers stand, and says where each comes from: cells of a study's golden tables
(``study``), of other committed tables (``tables``, a folder), or what is measured when asked (``measured``, a function
of :mod:`benchmarks.measures`). A sentence may stand in any page, but must stand in one, and every page that has it must
have these numbers, rounded to the digits that it writes. ``[[no_claim]]`` lists numbers of README that claim nothing.
``python -m benchmarks.claims`` prints all of them.
"""

import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.golden import FOLDER, TABLES, path_of, read

ROOT = Path(__file__).parents[1]
LIST = FOLDER / "sentences.toml"
WORDS = {word: float(n) for n, word in enumerate("two three four five six seven eight nine ten".split(), 2)}
WORDS["half"] = 0.5
NUMBER = rf"([+−-]?\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{'|'.join(WORDS)})\b)"
_ALONE = re.compile(rf"(?<![\w.\x00-]){NUMBER}(?![\w\x00])(?!\.\d)", re.IGNORECASE)
_CODE = re.compile(r"^[ ]*```.*?^[ ]*```", re.MULTILINE | re.DOTALL)
_BEFORE_COMMENTS = re.compile(r"^[^#\n]*", re.MULTILINE)
_NOT_PROSE = re.compile(r"`[^`]*`|\]\([^)]*\)|<[^>]*>|\b\d{4}\.\d{5}\b")  # code, links, tags, numbers of arXiv


def listed() -> dict[str, list[dict[str, Any]]]:
    """The list: ``sentence`` and ``no_claim``."""
    return tomllib.loads(LIST.read_text(encoding="utf-8"))


def pages() -> dict[str, str]:
    """Each page as one line."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): one_line(path.read_text(encoding="utf-8")) for path in found}


def one_line(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


def pattern(text: str) -> re.Pattern[str]:
    """What finds a sentence of the list, and its numbers."""
    return re.compile(NUMBER.join(re.escape(part) for part in one_line(text).split("#")))


def said(text: str, page: str) -> Iterator[list[str]]:
    """The numbers that a page has in a sentence, each time that it has the sentence."""
    yield from (list(match.groups()) for match in pattern(text).finditer(page))


def cells(spec: str, tables: dict[str, pd.DataFrame]) -> list[float]:
    """The numbers of ``TABLE: ROWS: VALUE, VALUE``; of several rows the mean, and ``count`` is their number."""
    table, rows, values = spec.split(": ")
    part = tables[table].query(rows)
    if part.empty:
        raise ValueError(f"{table} has no row where {rows}")
    part = part.assign(count=float(len(part)))
    return [float(part.eval(value).mean()) for value in values.split(", ")]


def number(written: str) -> float:
    """A number as it is written: ``−1,024.5``, or a word of :data:`WORDS`."""
    word = WORDS.get(written.lower())
    return float(written.replace("−", "-").replace(",", "")) if word is None else word


def agree(written: str, value: float, tolerance: float = 0.0) -> bool:
    """Whether the number is the value, rounded to the digits that are written.

    Args:
        written: The number in the page.
        value: What it should be.
        tolerance: By what part of the number it may be another one, where machines differ.
    """
    digits = 9 if written.lower() in WORDS else len(written.partition(".")[2])
    return abs(number(written) - value) <= max(0.5 * 10**-digits, tolerance * abs(number(written))) + 1e-9


@functools.cache
def committed(source: str) -> dict[str, pd.DataFrame]:
    """The committed tables of a study, by its name, or of a folder."""
    if source in TABLES:
        paths = {name: path_of(source, name) for name in TABLES[source]}
        return {name: read(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    return {path.stem: pd.read_csv(path) for path in sorted((ROOT / source).glob("*.csv"))}


def source_of(sentence: dict[str, Any]) -> str:
    """Where the numbers of a sentence come from: a study, a folder of tables, or a measurement."""
    return next(sentence[kind] for kind in ("study", "tables", "measured") if kind in sentence)


def values_in(sentence: dict[str, Any], tables: dict[str, pd.DataFrame]) -> list[float]:
    """What the tables have for the numbers of a sentence."""
    return [value for spec in sentence["cells"] for value in cells(spec, tables)]


def wrong(sentence: dict[str, Any], tables: dict[str, pd.DataFrame], texts: dict[str, str]) -> list[str]:
    """What is wrong with a sentence of the list; one that is measured only has to stand in a page."""
    found = [(name, numbers) for name, page in texts.items() for numbers in said(sentence["text"], page)]
    if not found:
        return [f"no page says: {sentence['text']}"]
    if "cells" not in sentence:
        return []
    values = values_in(sentence, tables)
    return [
        f"{name} says {' '.join(numbers)}, the tables {values}"
        for name, numbers in found
        if not all_agree(numbers, values, sentence)
    ]


def all_agree(numbers: list[str], values: list[float], sentence: dict[str, Any], tolerance: float = 0.0) -> bool:
    """Whether the numbers of a sentence are these values. What is only ``about`` so has a tolerance in the list."""
    about = max(tolerance, sentence.get("about", 0.0))
    return len(numbers) == len(values) and all(agree(n, v, about) for n, v in zip(numbers, values, strict=True))


def unlisted(text: str, sentences: list[str]) -> tuple[list[str], int]:
    """The numbers of a page that none of the sentences has, each with the words around it; and how many it has in all.

    Code, targets of links and numbers of arXiv are left out; comments of code are not. A number that is part of a name
    (T5, SmolLM2-135M) is none.
    """
    fenced = _CODE.sub(lambda block: _BEFORE_COMMENTS.sub(_hidden, block[0]), text)
    page, prose = one_line(text), one_line(_NOT_PROSE.sub(_hidden, fenced))
    has = [match.span() for sentence in sentences for match in pattern(sentence).finditer(page)]
    places = [match.span() for match in _ALONE.finditer(prose)]
    left = [(a, b) for a, b in places if not any(start <= a and b <= end for start, end in has)]
    return [f"{page[max(0, a - 40) : a]}[{page[a:b]}]{page[b : b + 30]}" for a, b in left], len(places)


def _hidden(found: re.Match[str]) -> str:
    """As long as before, without anything to read."""
    return re.sub(r"\S", "\x00", found[0])
