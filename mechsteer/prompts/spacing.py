"""Whether a space stands between a text and the word that goes on after it."""

import re
import unicodedata

_WITHOUT_SPACES = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "FULLWIDTH", "THAI", "LAO", "KHMER",
                   "MYANMAR", "TIBETAN")  # fmt: skip
"""How Unicode names the characters of writing that has no spaces between words (Korean has them)."""

_QUOTES, _JOINING = "\"'`", "/\\_@¿¡"
_ENDS = re.compile(r"[.,;:!?%\u2026]+|['\u2019]\w{1,2}")


def joined(before: str, word: str) -> bool:
    """Whether a word stands right behind a text, as people write it.

    So it does behind white space, an opening quote or bracket, a hyphen, a slash and the like, a currency, and writing
    that has no spaces; and a closing bracket, the punctuation of a sentence, ``'s`` and a combining mark do behind any
    text.

    Args:
        before: The text; not empty.
        word: The word, not empty and without white space around it.
    """
    return _opens(before) or _closes(word)


def _opens(before: str) -> bool:
    last, earlier = before[-1], before[-2:-1]
    apart = not earlier or earlier.isspace() or unicodedata.category(earlier) in ("Ps", "Pi")
    if last.isspace() or last in _JOINING or unicodedata.category(last) in ("Ps", "Pi", "Sc"):
        return True
    if last in _QUOTES:
        return apart
    if last == "#":  # a hashtag; several are a heading
        return earlier != "#"
    if unicodedata.category(last) == "Pd":
        return not apart
    return unicodedata.name(last, "").startswith(_WITHOUT_SPACES)


def _closes(word: str) -> bool:
    return bool(_ENDS.fullmatch(word)) or unicodedata.category(word[0]) in ("Pe", "Pf", "Mn", "Mc")
