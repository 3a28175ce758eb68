"""Checkers of the instruction task: was the instruction followed, and is the answer still right?

Plain functions of a text, which look at the form that was asked for and at nothing else: what has the form passes,
answer or not. None of them is satisfied by an empty text. Tables made with them keep their meaning; the strict forms
are in :mod:`mechsteer.tasks.checkers.sound`.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

FRENCH_SHARE = 0.9
"""The least part of the words that must be French."""

_WORD = re.compile(r"[^\W\d_]+")
_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+(?=\S)")


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, split at apostrophes."""
    return _WORD.findall(text.lower())


def is_upper(text: str) -> bool:
    """There are letters, and all are capitals."""
    return text.isupper()


def is_lower(text: str) -> bool:
    """There are letters, and all are small."""
    return text.islower()


def is_list(text: str) -> bool:
    """Every line that is not empty starts with a bullet or a number."""
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and all(_BULLET.match(line) for line in lines)


def is_json(text: str) -> bool:
    """The text is a JSON object that is not empty."""
    return bool(_json_object(text))


def is_short(text: str, limit: int) -> bool:
    """The text has words, and no more than ``limit``."""
    return 0 < len(text.split()) <= limit


def is_french(text: str, lexicon: Collection[str]) -> bool:
    """At least nine tenths of the words are in a lexicon of French words."""
    words = words_of(text)
    return bool(words) and sum(word in lexicon for word in words) >= FRENCH_SHARE * len(words)


def mentions(text: str, word: str) -> bool:
    """A word occurs as a whole word, in whatever case."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


KINDS: Mapping[str, Callable[..., bool]] = {
    "upper": lambda text, **_: is_upper(text),
    "lower": lambda text, **_: is_lower(text),
    "list": lambda text, **_: is_list(text),
    "json": lambda text, **_: is_json(text),
    "length": lambda text, *, limit, **_: is_short(text, limit),
    "french": lambda text, *, french, **_: is_french(text, french),
    "keyword": lambda text, *, word, **_: mentions(text, word),
}
"""The checker of each kind of instruction; each is given ``limit``, ``word`` and ``french``, a lexicon."""


def fidelity(text: str, truths: Collection[str], *, word: str = "") -> float:
    """The part of an answer's sentences that are true and say something new.

    Case, list and JSON form do not matter. Sentences with the word that was asked for are left out of the count: they
    say nothing about the topic.

    Args:
        text: The answer.
        truths: Sentences that are true, as :func:`normal` writes them.
        word: The word that was asked for, if any.

    Returns:
        A number from 0 to 1; 0 where no sentence counts.
    """
    counted = [s for s in sentences(text) if not (word and mentions(s, word))]
    return len(set(counted) & set(truths)) / len(counted) if counted else 0.0


def count_true(text: str, truths: Collection[str], *, word: str = "") -> int:
    """How many different true sentences an answer has: what :func:`fidelity`, a precision, does not say.

    Args:
        text: The answer.
        truths: As for :func:`fidelity`.
        word: As for :func:`fidelity`.
    """
    return len({s for s in sentences(text) if not (word and mentions(s, word))} & set(truths))


def sentences(text: str) -> list[str]:
    """The sentences of an answer, in normal form, taken out of a list (an item ends one), a JSON object or array."""
    value = _json_value(text)
    if value and isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else (("", one) for one in value)
        text = ". ".join(strings(one for key, one in items if key.lower() != "topic"))
    lines = [_BULLET.sub("", line, count=1) for line in text.split("\n") if line.strip()]
    whole = (". " if is_list(text) else " ").join(lines)
    return [normal(sentence) for sentence in re.split("[.!?]", whole) if normal(sentence)]


def normal(sentence: str) -> str:
    """A sentence in small letters with single spaces, without the full stop."""
    return " ".join(sentence.lower().split()).strip(" .")


def _json_value(text: str) -> Any:
    """What a text says in JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_object(text: str) -> dict[str, Any]:
    """The object that a text is; empty for other texts."""
    value = _json_value(text)
    return value if isinstance(value, dict) else {}


def strings(values: Iterable[Any]) -> list[str]:
    """The texts among values, and in their lists and objects, however deep."""
    found, waiting = [], list(values)[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list):
            waiting += list(value.values() if isinstance(value, dict) else value)[::-1]
    return found
