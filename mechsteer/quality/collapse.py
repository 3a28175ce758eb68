"""Has an answer collapsed? Steering that is too strong ends in one of four ways, and each has its measure.

============= =================================================================================================
empty         no letter and no digit
loop          ``repetition`` (runs of four words) or ``repeated_share`` (of ten characters, for loops without words) is
              high, or a short text has few different words
word salad    high ``surprise``: the mean, the 95th percentile, or its excess over the model's own entropy
copied prompt nine tenths of the runs of four words stand in the prompt
============= =================================================================================================

A good answer's ``surprise`` lies in a band. What is above it is word salad. What is below it is most often a loop, but
not always: of the bundled outputs, a right list of the months has .09 nats a token, and a loop of 200 tokens .12. So a
low surprise is shown and marks nothing: the loop itself does. And of one to four tokens not even a high surprise says
anything, for steering may make a model say a right word that it would not have said.

The limits were chosen on one half of a bundled set of outputs that were labelled by reading them, and measured on the
other; see :mod:`mechsteer.quality.labelled`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.analysis.quality import repeated_share
from mechsteer.quality.texts import is_empty, repetition, words

MEAN_TOKENS, P95_TOKENS = 5, 20
"""The mean says nothing about fewer tokens, the percentile nothing about fewer."""

FEW_WORDS = 24
"""Of more words, runs of four tell a loop from what only has few different words."""

COPIED, COPIED_WORDS = 0.9, 6
"""A copy is nine tenths; an answer of fewer words may well stand in the prompt."""


@dataclass(frozen=True)
class Limits:
    """From which value on a measure means collapse; see :func:`mechsteer.quality.labelled.chosen_limits`.

    Attributes:
        repetition: Of :func:`mechsteer.quality.texts.repetition`.
        repeated_share: Of :func:`mechsteer.analysis.quality.repeated_share`.
        words_per_word: Words for each different word, of 3 to 24 words that are not mostly numbers.
        surprise: Nats, mean.
        surprise_p95: Nats, 95th percentile.
        surprise_excess: Nats over the entropy, mean.
    """

    repetition: float = 0.352
    repeated_share: float = 0.423
    words_per_word: float = 2.386
    surprise: float = 3.593
    surprise_p95: float = 10.631
    surprise_excess: float = 1.171


LIMITS = Limits()


def measures(text: str, *, n_tokens: int | None = None, **surprise: float) -> dict[str, float]:
    """The measures that :class:`Limits` has limits of; 0 where one says nothing about a text.

    Args:
        text: The output.
        n_tokens: How many tokens it has. Default: as many as words.
        **surprise: ``surprise``, ``surprise_p95`` and ``surprise_excess`` in nats, where they were measured.
    """
    found = words(text)
    tokens = len(found) if n_tokens is None else n_tokens
    return {
        "repetition": repetition(text),
        "repeated_share": repeated_share(text),
        "words_per_word": _words_per_word(found),
        "surprise": or_zero(surprise, "surprise", tokens >= MEAN_TOKENS),
        "surprise_p95": or_zero(surprise, "surprise_p95", tokens >= P95_TOKENS),
        "surprise_excess": or_zero(surprise, "surprise_excess", tokens >= MEAN_TOKENS),
    }


def _words_per_word(found: Sequence[str]) -> float:
    """0 where it says nothing: of many words (code, a timetable) few are different, and so are digits."""
    digits = sum(word.isdigit() for word in found)
    return len(found) / len(set(found)) if 3 <= len(found) <= FEW_WORDS and 2 * digits < len(found) else 0.0


def or_zero(surprise: Mapping[str, float], name: str, enough: bool) -> float:
    """A measure of surprise; 0 where it was not taken or there are not enough tokens."""
    value = surprise.get(name, math.nan)
    return value if enough and not math.isnan(value) else 0.0


def excesses(text: str, *, copied: float = 0.0, limits: Limits = LIMITS, **measured: Any) -> Mapping[str, float]:
    """Each reason's largest measure over its limit; from 1 on the text has collapsed for that reason.

    Args:
        text: The output.
        copied: The share of its runs that stand in the prompt (:func:`mechsteer.quality.texts.copied`).
        limits: Others than the chosen ones.
        **measured: What :func:`measures` takes.
    """
    found = measures(text, **measured)
    over = {name: value / getattr(limits, name) for name, value in found.items()}
    copies = copied / COPIED if len(words(text)) >= COPIED_WORDS else 0.0
    return {
        "empty": 2.0 if is_empty(text) else 0.0,
        "copied prompt": copies,
        "loop": max(over["repetition"], over["repeated_share"], over["words_per_word"]),
        "word salad": max(value for name, value in over.items() if name.startswith("surprise")),
    }


def reason_of(excess: Mapping[str, float]) -> str:
    """Why an output has collapsed: the first reason that holds; empty where none does."""
    return next((reason for reason, value in excess.items() if value >= 1), "")
