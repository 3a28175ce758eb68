"""Checks by name: ``"lowercase"``, ``"max_words:30"``, ``"language:fr"``, or an id of IFEval.

Each says of a text whether it does what was asked *and* is still an answer: an empty text, punctuation, one letter, one
word over and over, a number that is not one (``NaN``) or an echo of the instruction pass none of them (``excludes`` and
``regex`` included; but a letter may be what a pattern asks for). They are stricter than the published checkers, which
keep their behaviour under IFEval's ids.

================== ============================================================================================
lowercase          there are letters that have capitals, and none is one
uppercase          there are letters that have capitals, and all are
json               the text (or one ```` ```json ```` block that is all of it) is a JSON object or array of RFC 8259,
                   with named keys, none of them twice, and a value that says something
max_words:N        at most N words, split at white space; in Chinese and Japanese each character is one
sentences:N        exactly N sentences, the last one ended
language:CODE      ISO 639-1, e.g. fr; see :mod:`mechsteer.tasks.checkers.language`; extra ``eval``
contains:TEXT      as a whole word or phrase (a sign: anywhere), in any case, outside any repetition of the instruction
excludes:TEXT      not as a whole word or phrase (a sign: nowhere), in any case
starts_with:TEXT   after white space, letter by letter, and more follows
ends_with:TEXT     before white space, letter by letter, outside any repetition of the instruction, after more
regex:PATTERN      Python's ``re.search``
IFEval's ids       lm-eval's checkers; arguments from the sample; ``adherence`` is strict, ``loose`` beside it
================== ============================================================================================

A name that takes an argument and comes without it takes it from the sample, under its own name: ``check="contains"`` of
``{"prompt": ..., "contains": "tea"}``. The instruction is the sample's ``instruction``, or what is marked as one.
Letters with marks count the same in both forms of Unicode, and both apostrophes; in scripts without spaces a word may
stand anywhere.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

from mechsteer.errors import MechsteerError, nearest, shown
from mechsteer.quality.texts import MARKS, UNSPACED, has_content, is_empty, is_loop, words
from mechsteer.tasks.checkers.language import is_language, known_language
from mechsteer.tasks.checkers.sentence_count import count_sentences
from mechsteer.tasks.ifeval.arguments import ARGUMENTS, problem

Scores = bool | float | dict[str, bool | float]
Test = Callable[[str, Any, Sequence[str]], bool]
"""Whether a text passes, given the argument and the instruction's stretches."""

ECHO_WORDS = 3
"""A stretch that is marked as instruction is repeated by so many words; fewer are said anyway."""

_OWN_MARKS = re.sub(f"[{UNSPACED}]", "", MARKS)
_PART = re.compile(rf"[^\W{UNSPACED}]|[{_OWN_MARKS}]")
"""A character of a word, of scripts with spaces between words."""

_EACH_A_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Spec:
    """A check by name.

    Attributes:
        name: Its name.
        argument: What follows the colon; None when samples have it.
    """

    name: str
    argument: Any = None

    def __str__(self) -> str:
        return self.name if self.argument is None else f"{self.name}:{self.argument}"

    def check(self, text: str, sample: Mapping[str, Any], marked: Sequence[str] = ()) -> Scores:
        """Score one text.

        Args:
            text: The text.
            sample: Gives the argument where the name came without one, and the instruction.
            marked: Stretches of the prompt that are marked as instruction.
        """
        if self.name not in TESTS:
            return _ifeval(self.name, text, sample)
        test, read = TESTS[self.name]
        argument = self._argument(sample) if read is not None else None
        told = [sample.get("instruction") or "", *(one for one in marked if len(one.split()) >= ECHO_WORDS)]
        text, told = normalize("NFC", text), [normalize("NFC", one) for one in told]
        left = without_echo(text, *told)
        says = self.name == "json" or has_content(left) or (self.name == "regex" and _is_asked_letter(left, argument))
        return says and test(text, argument, told)

    def look(self, sample: Mapping[str, Any]) -> None:
        """See whether a sample has what the check needs.

        Raises:
            MechsteerError: for an argument that is missing or impossible.
        """
        if self.name not in TESTS:
            _ifeval_arguments(self.name, sample)
        elif TESTS[self.name][1] is not None:
            self._argument(sample)

    def ready(self) -> None:
        """See whether what the check needs is installed, before anything is generated.

        Raises:
            MechsteerError: if the extra ``eval`` or nltk's data is missing for one of IFEval's ids.
        """
        if self.name not in TESTS:
            from mechsteer.tasks.ifeval import require_checkers

            require_checkers()

    def _argument(self, sample: Mapping[str, Any]) -> Any:
        if self.argument is not None:
            return self.argument
        if sample.get(self.name) is None:
            raise MechsteerError(
                f"The check {self.name!r} needs an argument: {self.name}:... for all samples, or {self.name!r} in each."
            )
        read = TESTS[self.name][1]
        assert read is not None
        return read(self.name, sample[self.name])


def spec(text: str) -> Spec:
    """Read the name of a check.

    Raises:
        MechsteerError: for an unknown name, naming the nearest, or an argument that is missing, impossible or too many.
    """
    if not isinstance(text, str):
        raise MechsteerError(f"A check is named by a text, e.g. 'lowercase', got {shown(text)}.")
    if text in ARGUMENTS:
        return Spec(text)
    name, colon, argument = text.partition(":")
    name = name.strip()
    if name not in TESTS:
        groups = {known.partition(":")[0] for known in ARGUMENTS}
        of_ifeval = colon and difflib.get_close_matches(name, groups, n=1, cutoff=0.8)
        hint = nearest(text, ARGUMENTS) if of_ifeval else nearest(name, TESTS)
        raise MechsteerError(f"Unknown check {shown(text)}.{hint}")
    read = TESTS[name][1]
    if read is None:
        if colon:
            raise MechsteerError(f"The check {shown(name)} takes no argument, got {shown(text)}.")
        return Spec(name)
    return Spec(name, read(name, argument) if colon else None)


# ------------------------------------------------------------------------------------------------ arguments


def _count(name: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else int(str(value).strip())
    except ValueError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise MechsteerError(f"{name} needs a whole number of at least 1, e.g. {name}:3, got {shown(value)}.")
    return number


def _phrase(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MechsteerError(f"{name} needs a text, e.g. {name}:tea, got {shown(value)}.")
    return normalize("NFC", value.strip())


def _pattern(name: str, value: Any) -> str:
    try:
        re.compile(_phrase(name, value))
    except (re.error, RecursionError, OverflowError) as error:
        raise MechsteerError(f"{name} needs a regular expression of Python, got {shown(value)}: {error}.") from None
    return value


def _language(name: str, value: Any) -> str:
    return known_language(_phrase(name, value))


# ------------------------------------------------------------------------------------------------ tests


def is_json(text: str) -> bool:
    """The text is a JSON object or array that says something; see the table above."""
    block = _FENCE.fullmatch(text)
    try:
        value = json.loads(block[1] if block else text, parse_constant=_refuse, object_pairs_hook=_object)
        return isinstance(value, (dict, list)) and _says_something(value)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names) or not all(any(map(str.isalnum, name)) for name in names):
        raise ValueError("a key is empty or there twice")
    return dict(pairs)


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    if isinstance(value, list):
        return any(map(_says_something, value))
    return not is_empty(value) and not is_loop(value) if isinstance(value, str) else value is not None


def _is_asked_letter(text: str, pattern: Any) -> bool:
    """The text is one letter (a choice), and the pattern asks for something: it is not found in an empty text."""
    return len(words(text)) == 1 and re.search(pattern, "") is None


def count_words(text: str) -> int:
    """Words, split at white space; of Chinese and Japanese, characters."""
    return sum(max(1, len(_EACH_A_WORD.findall(word))) for word in text.split())


def occurs(phrase: str, text: str) -> bool:
    """A word or phrase occurs whole, in whatever case and with whatever white space."""
    phrase, text = (one.replace("’", "'") for one in (phrase, text))
    return next(places(r"(?i)" + r"\s+".join(map(re.escape, phrase.split())), text), None) is not None


def places(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a pattern stands in a text and is no part of longer words, of scripts with spaces between them.

    Where it begins or ends with what is in no word (a comma, a picture), anything may stand beside it. The neighbours
    are looked at here and not by the pattern: its classes of scripts would take Python 5 ms for each new word.
    """
    compiled, start = re.compile(pattern), 0
    while found := compiled.search(text, start):
        first, end = found.span()
        if _cuts_a_word(text, first) or _cuts_a_word(text, end):
            start = first + 1
        else:
            yield first, end
            start = max(end, first + 1)


def _cuts_a_word(text: str, place: int) -> bool:
    """Whether the characters before and after a place are of one word."""
    return 0 < place < len(text) and bool(_PART.match(text, place - 1)) and bool(_PART.match(text, place))


def without_echo(text: str, *told: str) -> str:
    """The text without repetitions of the instruction's stretches, whatever their case, white space and punctuation."""
    for one in told:
        if found := re.findall(rf"\w[\w{MARKS}]*", one):
            echoes = list(places("(?i)" + r"\W+".join(found), text))
            for start, end in reversed(echoes):
                text = f"{text[:start]} {text[end:]}"
    return text


def _beside(text: str, phrase: str, told: Sequence[str]) -> str:
    """The text without repetitions of the instruction, where that is more than a phrase that it asks for."""
    return without_echo(text, *(one for one in told if one.strip().lower() != phrase.lower()))


def _contains(text: str, phrase: str, told: Sequence[str]) -> bool:
    return occurs(phrase, _beside(text, phrase, told))


def _starts(text: str, start: str, told: Sequence[str]) -> bool:
    return text.lstrip().startswith(start) and has_content(text.lstrip()[len(start) :])


def _ends(text: str, end: str, told: Sequence[str]) -> bool:
    left = _beside(text, end, told).rstrip()
    return left.endswith(end) and has_content(left[: -len(end)])


TESTS: Mapping[str, tuple[Test, Callable[[str, Any], Any] | None]] = {
    "lowercase": (lambda text, _, __: text.islower(), None),
    "uppercase": (lambda text, _, __: text.isupper(), None),
    "json": (lambda text, _, __: is_json(text), None),
    "max_words": (lambda text, most, _: count_words(text) <= most, _count),
    "sentences": (lambda text, count, _: count_sentences(text) == count, _count),
    "language": (lambda text, code, _: is_language(text, code), _language),
    "contains": (_contains, _phrase),
    "excludes": (lambda text, phrase, _: not occurs(phrase, text), _phrase),
    "starts_with": (_starts, _phrase),
    "ends_with": (_ends, _phrase),
    "regex": (lambda text, pattern, _: re.search(pattern, text) is not None, _pattern),
}
"""For each name, its test and how its argument is read; None when it takes none."""

TEXT_ARGUMENTS = frozenset(name for name, (_, read) in TESTS.items() if read not in (None, _count))
TEXT_ARGUMENTS |= {name for takes in ARGUMENTS.values() for name, fault in takes.items() if not fault("x")}
"""Arguments that are texts, also where they look like a number."""


# ------------------------------------------------------------------------------------------------ IFEval


def _ifeval_arguments(name: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: _whole(sample[key]) for key in ARGUMENTS[name] if sample.get(key) is not None}
    if wrong := problem(name, found):
        raise MechsteerError(wrong)
    return found


def _whole(value: Any) -> Any:
    """A whole number as one: a table in which others lack it has it as 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _ifeval(name: str, text: str, sample: Mapping[str, Any]) -> dict[str, bool | float]:
    from mechsteer.tasks.ifeval import IFEvalPrompt, followed

    asked = IFEvalPrompt(0, str(sample["prompt"]), (name,), (_ifeval_arguments(name, sample),))
    (strict,), (loose,) = followed(asked, text)
    return {"adherence": strict, "loose": loose}
