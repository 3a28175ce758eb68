"""How many sentences a text has: by its marks, without data to download.

A sentence ends at ``.``, ``!``, ``?`` or ``…`` (or the full-width marks) with what closes quotes and brackets after it,
where white space or the text's end follows; not after an abbreviation, an initial or the number of a list. A new line
ends one too when the line has no mark but the next starts a list item or follows an empty line.
"""

import re

_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+)")
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)])\s)")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc approx no vol fig eq e.g i.e cf al inc ltd co corp u.s u.k u.n a.m p.m ph.d b.c "
    "a.d jan feb mar apr jun jul aug sep sept oct nov dec gen col capt lt sgt rev hon mme mlle m bzw z.b d.h".split()
)
_NEVER_LAST = frozenset("mr mrs ms dr prof st vs e.g i.e cf fig eq gen col capt lt sgt rev hon mme mlle z.b".split())


def sentences_of(text: str) -> list[tuple[str, bool]]:
    """The sentences of a text, each with whether a mark ends it; pieces without a letter or digit are left out."""
    found: list[tuple[str, bool]] = []
    for piece in _BREAK.split(text):
        line = _MARKER.sub("", piece)
        start = 0
        for mark in _END.finditer(line):
            if _goes_on(line, mark):
                continue
            found.append((line[start : mark.end()], True))
            start = mark.end()
        found.append((line[start:], False))
    return [(one.strip(), ended) for one, ended in found if any(map(str.isalnum, one))]


def count_sentences(text: str) -> int:
    """How many sentences; 0 where the last one has no mark that ends it, for it was cut off."""
    found = sentences_of(text)
    return len(found) if found and found[-1][1] else 0


def _goes_on(line: str, mark: re.Match[str]) -> bool:
    """Whether a sentence goes on after a mark."""
    rest = line[mark.end() :].lstrip()
    if len(mark[0]) > 1 and rest[:1].islower():  # a quotation or an ellipsis in the middle
        return True
    if mark[0].rstrip("\"'”’)]") != ".":
        return False
    word = re.search(r"[\w.]*$", line[: mark.start()])
    before = word[0] if word else ""
    if len(before) == 1 and before.isalpha() and before.isupper():  # an initial
        return bool(rest)
    if before.lower() not in ABBREVIATIONS or not rest:
        return False
    return not rest[0].isupper() or before.lower() in _NEVER_LAST
