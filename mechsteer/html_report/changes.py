"""What changed between two texts, marked."""

import difflib
import html
import re


def changes(before: str, after: str) -> str:
    """The second text as HTML, words that are new in <ins>, words that are gone in <del>; everything escaped."""
    old, new = _pieces(before), _pieces(after)
    made = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = html.escape("".join(old[a:b])), html.escape("".join(new[c:d]))
        if kind == "equal":
            made.append(come)
        else:
            made += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{come}</ins>"] * bool(come)
    return "".join(made)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)
