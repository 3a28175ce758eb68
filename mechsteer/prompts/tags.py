"""GUIDE's tags: text that is marked in place.

Source: the pay-attention-pipeline package of arXiv 2409.19001.
"""

import re

from mechsteer.errors import MechsteerError, shown

LEVELS = {"!": "level1", "!!": "level2", "!!!": "level3", "?": "influence"}
"""``<!-> text <-!>``, ``<!!-> text <-!!>``, ``<!!!-> text <-!!!>`` emphasise; ``<?-> text <-?>`` marks the text whose
Influence is measured."""

Pieces = list[tuple[str, tuple[str, ...]]]
"""Stretches of a text, each with the names of its spans."""

_OPEN, _CLOSE = re.compile(r"<(!{1,3}|\?)->\s?"), re.compile(r"\s?<-(!{1,3}|\?)>")


def parse_tags(text: str, part: str | None) -> Pieces:
    """Split a part at its tags, the tags and one space inside them removed; ``part`` names what is not tagged.

    Raises:
        MechsteerError: for unbalanced or nested tags.
    """
    pieces: Pieces = []
    position = 0
    while opening := _OPEN.search(text, position):
        closing = _CLOSE.search(text, opening.end())
        if closing is None or closing[1] != opening[1]:
            found = "nothing" if closing is None else repr(closing[0].strip())
            raise MechsteerError(f"Tag {opening[0].strip()!r} needs <-{opening[1]}> to close it, found {found}.")
        inner = text[opening.end() : closing.start()]
        if _OPEN.search(inner):
            raise MechsteerError(f"Tags cannot be nested: {shown(opening[0] + inner + closing[0])}.")
        _add_plain(pieces, text[position : opening.start()], part)
        level = LEVELS[opening[1]]
        names = (level,) if level == "influence" else tuple(dict.fromkeys(("instruction", level)))
        pieces.append((inner, names))
        position = closing.end()
    _add_plain(pieces, text[position:], part)
    return pieces


def _add_plain(pieces: Pieces, text: str, part: str | None) -> None:
    if stray := _CLOSE.search(text):
        raise MechsteerError(f"Closing tag {stray[0].strip()!r} has no opening tag before it.")
    if text:
        pieces.append((text, () if part is None else (part,)))
