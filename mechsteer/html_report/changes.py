"""What changed between two texts, marked."""

import difflib
import html
import re
from collections import Counter
from collections.abc import Sequence

PAIRS = 50_000
"""Equal words, one in each text: where there are more, as in two long loops, all between the ends that both texts share
is marked as gone and new. To look for what stayed would take seconds."""


def changes(before: str, after: str) -> str:
    """The second text as HTML, words that are new in <ins>, words that are gone in <del>; everything escaped."""
    old, new = _pieces(before), _pieces(after)
    made = []
    for kind, a, b, c, d in _steps([piece.strip() for piece in old], [piece.strip() for piece in new]):
        gone, come = html.escape("".join(old[a:b])), html.escape("".join(new[c:d]))
        if gone and a and c and not new[c - 1][-1].isspace():  # the space before what is gone is gone too
            gone = old[a - 1][len(old[a - 1].rstrip()) :] + gone
        if kind == "equal":
            made.append(come)
        else:
            made += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{come}</ins>"] * bool(come)
    return "".join(made)


def _pieces(text: str) -> list[str]:
    """Words and marks, each with the white space that follows it."""
    return re.findall(r"(?:\w+|[^\w\s])\s*|^\s+", text)


def _steps(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    """What to do with stretches of both lists, as :meth:`difflib.SequenceMatcher.get_opcodes` says it."""
    start = _shared(old, new)
    end = _shared(old[start:][::-1], new[start:][::-1])
    a, b = len(old) - end, len(new) - end
    found = [("equal", 0, start, 0, start)]
    if _pairs(old[start:a], new[start:b]) > PAIRS:
        found.append(("replace", start, a, start, b))
    else:
        middle = difflib.SequenceMatcher(None, old[start:a], new[start:b], autojunk=False).get_opcodes()
        found += [(kind, start + i, start + j, start + k, start + m) for kind, i, j, k, m in middle]
    return [*found, ("equal", a, len(old), b, len(new))]


def _shared(old: Sequence[str], new: Sequence[str]) -> int:
    """How many pieces both begin with."""
    ends = (place for place, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    return next(ends, min(len(old), len(new)))


def _pairs(old: Sequence[str], new: Sequence[str]) -> int:
    counts = Counter(new)
    return sum(counts[piece] for piece in old)
