"""Where a prompt's instruction stands, from what the prompt is without it.

IFEval's prompts and many people's own come as one text and, at best, as the same text without the instruction. Here the
instruction is marked with GUIDE's tags (see :mod:`mechsteer.prompts`), by the text itself or by the words that are in
the one and not in the other.
"""

import difflib
import re
from collections.abc import Callable
from unicodedata import normalize

from mechsteer.errors import MechsteerError
from mechsteer.tasks.checks import places

GAP = 2
"""Stretches of the instruction with at most so many words between them are one."""
ALIKE = 0.75
"""From this share of common letters on (difflib's ratio), a word is another spelling of the one in its place."""

_TAGS = re.compile(r"<(?:!{1,3}|\?)->|<-(?:!{1,3}|\?)>")
_TAGGED = re.compile(r"(<(!{1,3})->)(.*?)(<-\2>)", re.DOTALL)
_GAP = re.compile(r"(?<!\s)(\s*+)(?:<(!{1,3})->.*?<-\2>(\s*))+", re.DOTALL)  # looks at no white space twice
_PIECE = re.compile(r"\S+")


def is_tagged(text: str) -> bool:
    """Whether a text has GUIDE's tags."""
    return _TAGS.search(text) is not None


def untagged(text: str) -> str:
    """The text without tags, as a person would have written it."""
    return re.sub(r"<(?:!{1,3}|\?)->\s?|\s?<-(?:!{1,3}|\?)>", "", text)


def without_tagged(text: str) -> str:
    """The text without what is tagged as instruction, and without the double spaces and empty lines that this leaves.

    White space elsewhere stays: it may be that of code or of a table.
    """
    return untagged(_GAP.sub(_closed, text))


def _closed(gap: re.Match[str]) -> str:
    """The white space that stays where something was taken out: the lines, and what the next one is set in by."""
    before, after = gap[1], gap[3]
    if gap.start() == 0 or gap.end() == len(gap.string):
        return ""
    lines = min(2, before.count("\n") + after.count("\n"))
    return "\n" * lines + after.rpartition("\n")[2] * ("\n" in after) if lines else " "


def tagged_texts(text: str) -> list[str]:
    """What is tagged as instruction."""
    return [untagged(found[0]).strip() for found in _TAGGED.finditer(text)]


def change_tagged(text: str, change: Callable[[str], str]) -> str:
    """The text with what is tagged as instruction changed; the tags and the white space inside them stay."""

    def changed(found: re.Match[str]) -> str:
        inner = found[3].strip()
        return found[1] + found[3].replace(inner, change(inner), 1) + found[4] if inner else found[0]

    return _TAGGED.sub(changed, text)


def standing(text: str, instruction: str, *, alike: bool = True) -> list[tuple[int, int]]:
    """Where an instruction stands in a text, as ranges of characters: nowhere in the middle of a word.

    Args:
        text: The text.
        instruction: The instruction.
        alike: Where it stands nowhere as it is given, look for it with other case, white space, quotation marks or form
            of Unicode, or without its full stop: it is meant, and would be there twice if it were put before the text.
    """
    inner = instruction.strip()
    if not inner:
        return []
    found = list(places(re.escape(inner), text))
    if not found and alike:
        words = normalize("NFC", inner).split()
        pattern = r"\s+".join("".join(map(_any_form, word)) for word in words)
        pattern += "?" if words[-1][-1] in ".!" else ""
        found = list(places(f"(?i){pattern}", text))
    return [(start, end + _is_sentence(text, start, end)) for start, end in found]


def _is_sentence(text: str, start: int, end: int) -> bool:
    """Whether a range is a sentence but for the full stop behind it, which would be left over alone."""
    before, after = text[:start].rstrip(" \t"), text[end : end + 2]
    return before[-1:] in ("", "\n", ".", "!", "?", ":") and after.strip() in (".", "!")


def _any_form(letter: str) -> str:
    """A pattern of a character in both forms of Unicode; of quotation marks, of all of them."""
    for marks in ("'’‘", '"“”'):
        if letter in marks:
            return f"[{marks}]"
    parts = normalize("NFD", letter)
    return re.escape(letter) if parts == letter else f"(?:{re.escape(letter)}|{re.escape(parts)})"


def tagged(text: str, instruction: str) -> str:
    """The text with its instruction in tags.

    Raises:
        MechsteerError: if the instruction is not in it exactly once.
    """
    inner, found = instruction.strip(), standing(text, instruction)
    if len(found) != 1:
        raise MechsteerError(
            f"the instruction {inner!r} stands {len(found)} times in the prompt; mark the one that is meant with tags, "
            f"e.g. <!!-> {inner} <-!!>."
        )
    return mark(text, found)


def mark(text: str, ranges: list[tuple[int, int]]) -> str:
    """The text with those ranges of characters in tags."""
    for start, end in sorted(ranges, reverse=True):
        text = f"{text[:start]}<!!->{text[start:end]}<-!!>{text[end:]}"
    return text


def added(text: str, base: str) -> list[tuple[int, int]]:
    """The ranges of characters in which a text says more than its base, word by word (difflib's matching blocks).

    A word in the place of one that is spelt much like it (a corrected misprint) says no more.
    """
    pieces = list(_PIECE.finditer(text))
    words, others = [_plain(p[0]) for p in pieces], [_plain(p[0]) for p in _PIECE.finditer(base)]
    new: list[int] = []
    for kind, start, end, first, last in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        reworded = kind == "replace" and end - start == last - first
        for i in range(start, end) if kind in ("replace", "delete") else ():
            if not (reworded and _alike(words[i], others[first + i - start])):
                new.append(i)
    groups: list[list[int]] = []
    for i in new:
        if groups and i - groups[-1][1] <= GAP + 1:
            groups[-1][1] = i
        else:
            groups.append([i, i])
    return [(pieces[first].start(), pieces[last].end()) for first, last in groups]


def _alike(word: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, word, other).ratio() >= ALIKE


def _plain(word: str) -> str:
    return word.lower().strip(".,;:!?\"'()")
