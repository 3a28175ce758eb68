"""What a text alone says about whether it is still an answer. No model is needed.

``repetition`` is the share of a text's runs of four words that stand earlier in it (of characters, where a script has
no spaces between words); ``compressibility`` the share of its bytes that DEFLATE saves; ``copied`` the share of its
runs of four words that stand in the prompt.
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence

N = 4
"""Words in a run."""

MUCH = 0.5
"""From this share of repeated runs on a text is a loop."""

SHORT, FEW = 60, 0.4
"""Runs say little about so few words; there, two words in five must be new ones."""

SHORT_LETTERS = 24
"""The same of letters, where they stand for words: of more, an alphabet has no two in five that are new."""

MARKS = "\u200c\u200d" + "".join(
    chr(code)
    for code in range(0x300, 0x10000)
    if unicodedata.category(chr(code)) in ("Mn", "Mc") and not 0xFE00 <= code <= 0xFE0F
)
"""What goes on a word but is none of ``\\w``, for a class of a regular expression: marks such as the vowels of Hindi,
Bengali and Tamil, and the two joiners; not what chooses a character's picture."""

_WORD = re.compile(rf"\w[\w{MARKS}]*")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*|\n+")
ALPHABETS = r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
UNSPACED = rf"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af{ALPHABETS}"
"""Characters of scripts without spaces between words, for a class of a regular expression; Thai, Lao, Tibetan, Burmese
and Khmer among them, which are alphabets."""

_ALPHABET = re.compile(f"[{ALPHABETS}]")
_WIDE = re.compile(f"[{UNSPACED}]")
_LETTER = re.compile(r"\w")


def words(text: str) -> list[str]:
    """The words of a text in small letters; of scripts without spaces, the characters."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        found += _LETTER.findall(word) if _WIDE.search(word) else [word]
    return found


def runs(found: Sequence[str], n: int = N) -> list[tuple[str, ...]]:
    """All runs of n words, in order."""
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def repetition(text: str) -> float:
    """The share of the runs of four words that stand earlier in the text, from 0 to 1; 0 for shorter texts."""
    found = words(text)
    all_runs = runs(found)
    return 1 - len(set(all_runs)) / len(all_runs) if all_runs else 0.0


def compressibility(text: str) -> float:
    """The share of a text's UTF-8 bytes that DEFLATE (zlib, level 9) saves, from 0 to 1; 0 where it saves none."""
    raw = text.encode()
    if not raw:
        return 0.0
    packed = len(zlib.compress(raw, 9)) - len(zlib.compress(b"", 9))
    return max(0.0, 1 - packed / len(raw))


def copied(text: str, prompt: str) -> float:
    """The share of an answer's runs of four words, within its sentences, that stand in the prompt; 0 without any."""
    theirs = set(runs(words(prompt)))
    mine = [run for sentence in _SENTENCE.split(text) for run in runs(words(sentence))]
    return sum(run in theirs for run in mine) / len(mine) if mine else 0.0


def is_empty(text: str) -> bool:
    """There is no letter and no digit in the text."""
    return not any(char.isalnum() for char in text)


def has_content(text: str) -> bool:
    """There is a word (two letters, a digit, or a character of a script without spaces) and no loop.

    What a checker of form asks first: ``.``, ``- -``, ``l`` and ``le le le`` have none.
    """
    found = words(text)
    real = [w for w in found if len(w) > 1 or w.isdigit() or _WIDE.search(w)]
    return bool(real) and not is_loop(text)


def is_loop(text: str) -> bool:
    """Half or more of the text says again what it has said, or a text of 3 to 60 words has few words of its own."""
    found = words(text)
    short = SHORT_LETTERS if _ALPHABET.search(text) else SHORT
    poor = 3 <= len(found) <= short and len(set(found)) <= FEW * len(found)
    return poor or repetition(text) >= MUCH
