"""How many sentences a text has: by its marks, without data to download.

A sentence ends at ``.``, ``!``, ``?`` or ``…`` with what closes quotes, brackets and emphasis after it, where white
space, a picture or the text's end follows; not after an abbreviation, an initial or the number of a list. The marks of
other scripts (``。``, ``।``, ``؟``, ``۔``, ``።``) end one whatever follows; Thai has none. A new line ends one too when
the line has no mark but the next starts a list item or follows an empty line.
"""

import re

_CLOSING = "\"'”’“‘)\\]»›」』）】》〉*_`~"
_PICTURE = "\u2190-\u2bff\U0001f000-\U0001faff"
_END = re.compile(rf"([.!?…‽]+)(?:[{_CLOSING}]|\[\d+\])*(?=\s|$|[{_PICTURE}])|[。！？｡।॥؟۔։።፧။។]+")
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)])\s)")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_OPENING = " \t\n\"'“‘«(*_[`"
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc approx no vol fig eq e.g i.e cf al inc ltd co corp u.s u.k u.n a.m p.m ph.d b.c "
    "a.d jan feb mar apr jun jul aug sep sept oct nov dec gen col capt lt sgt rev hon mme mlle m bzw z.b d.h u.s.a d.c "
    "e.u u.a.e b.a m.a mt ft ave blvd rd gov sen rep pres messrs sra dra viz ca pp dept est min max z".split()
)
_NEVER_LAST = frozenset("mr mrs ms dr prof st vs e.g i.e cf fig eq gen col capt lt sgt rev hon mme mlle z.b".split())
_NEVER_LAST |= frozenset("mt gov sen rep pres messrs sra dra viz ca z".split())


def sentences_of(text: str) -> list[tuple[str, bool]]:
    """The sentences of a text, each with whether a mark ends it; pieces without a letter or digit are left out."""
    found: list[tuple[str, bool]] = []
    for piece in _BREAK.split(text):
        line = _MARKER.sub("", piece)
        start = 0
        for mark in _END.finditer(line):
            if _goes_on(line, start, mark):
                continue
            found.append((line[start : mark.end()], True))
            start = mark.end()
        found.append((line[start:], False))
    return [(one.strip(), ended) for one, ended in found if any(map(str.isalnum, one))]


def count_sentences(text: str) -> int:
    """How many sentences; 0 where the last one has no mark that ends it, for it was cut off."""
    found = sentences_of(text)
    return len(found) if found and found[-1][1] else 0


def _goes_on(line: str, start: int, mark: re.Match[str]) -> bool:
    """Whether the sentence that begins at ``start`` goes on after a mark."""
    rest = line[mark.end() :].lstrip()
    if mark[1] and (len(mark[0]) > 1 or mark[0] == "…") and rest[:1].islower():  # a quotation or an ellipsis inside
        return True
    if mark[1] != ".":
        return False
    word = re.search(r"[\w.]*$", line[: mark.start()])
    before, said = word[0] if word else "", line[start : mark.start()].strip()
    if said.isdecimal():  # the number of an item in a list on one line
        return bool(rest)
    next_one = rest.lstrip(_OPENING)[:1]
    if len(before) == 1 and before.isalpha() and before.isupper() and (before != "I" or said == "I"):  # an initial
        return bool(rest)
    if before.lower() not in ABBREVIATIONS and _INITIALS.fullmatch(before):
        return bool(rest)
    if not rest or not (before.lower() in ABBREVIATIONS or (len(before) == 1 and before.isalpha())):
        return False
    return not next_one.isupper() or before.lower() in _NEVER_LAST
