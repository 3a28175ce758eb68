"""Is a text in a language? langdetect, seeded, with what it cannot see: it calls ``le le le`` French."""

import re
from functools import cache
from importlib import import_module
from typing import Any

from mechsteer.errors import MechsteerError, nearest
from mechsteer.quality.texts import MARKS

LEAST = 0.9
"""The least probability that langdetect must give the language."""

LEAST_SHORT, SHORT = 0.5, 8
"""The same for texts of fewer words, about which it is less sure."""

FEW_WORDS, LONG_WORD = 3, 4
"""A text needs three different words, and one of at least four letters."""

SEEDS = range(5)
"""langdetect draws at random; its probabilities are means over these seeds."""

CHINESE = "zh"
"""Of langdetect's two, ``zh-cn`` and ``zh-tw``, which are two ways to write it, either."""

WIDE = (CHINESE, "zh-cn", "zh-tw", "ja", "ko", "th")

_WORD = re.compile(rf"[^\W\d_](?:[^\W\d_]|[{MARKS}])*")


def is_language(text: str, code: str) -> bool:
    """Whether a text is in a language, and each of its longer sentences too; very short true answers may be refused.

    Args:
        text: The text.
        code: As :func:`known_language` gives it.
    """
    words = _WORD.findall(text.lower())
    if code in WIDE:
        return len(set(text)) >= FEW_WORDS and _share(text, code) >= LEAST_SHORT
    if len(set(words)) < FEW_WORDS or max(map(len, words)) < LONG_WORD:
        return False
    parts = [part for part in re.split(r"(?<=[.!?।؟۔])\s+|\n+", text) if len(_WORD.findall(part)) >= SHORT]
    least = LEAST if len(words) >= SHORT else LEAST_SHORT
    return _share(text, code) >= least and all(_share(part, code) >= LEAST_SHORT for part in parts)


def known_language(code: str) -> str:
    """The code as langdetect has it.

    Raises:
        MechsteerError: for one it does not know, or if the extra ``eval`` is missing.
    """
    known = _detector().PROFILES
    found = code.lower()
    if found not in known and found != CHINESE:
        raise MechsteerError(f"Unknown language {code!r}; give its ISO 639-1 code, e.g. fr.{nearest(found, known)}")
    return found


def _share(text: str, code: str) -> float:
    """The mean probability that langdetect gives a language; 0 for a text it can say nothing about."""
    langdetect = _detector().langdetect
    shares = []
    for seed in SEEDS:
        langdetect.DetectorFactory.seed = seed
        try:
            found = langdetect.detect_langs(text)
            shares.append(sum(one.prob for one in found if code in (one.lang, one.lang.partition("-")[0])))
        except langdetect.LangDetectException:
            return 0.0
    return sum(shares) / len(shares)


class _Detector:
    """langdetect and the languages it has."""

    def __init__(self) -> None:
        self.langdetect: Any = import_module("langdetect")
        factory = import_module("langdetect.detector_factory")
        factory.init_factory()
        self.PROFILES: list[str] = factory._factory.get_lang_list()


@cache
def _detector() -> _Detector:
    try:
        return _Detector()
    except ImportError as error:
        raise MechsteerError(f"The check language needs the extra: pip install 'mechsteer[eval]' ({error}).") from None
