"""Strict forms of the checkers: was the instruction followed, and by an answer?

The published checkers look at the form alone, so that ``.`` is a short answer, ``- -`` a list, ``le le le`` French and
an echo of the prompt a success; tables keep their scores. The forms here, in the columns ``sound``, ask in addition
that the text says something that the prompt does not say, in no loop, and does not refuse. They err on the side of
refusing: a right answer of one unusual word may fail, what is no answer should not pass. That a form is sound says
nothing about whether the answer is true; see ``fidelity`` and ``true_sentences``.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

from mechsteer.quality.texts import copied, has_content, is_loop, words
from mechsteer.tasks.checkers import is_french, is_list, is_lower, is_short, is_upper, sentences
from mechsteer.tasks.checkers import is_json as is_object
from mechsteer.tasks.checks import is_json, occurs, without_echo

FUNCTION_WORDS = frozenset(
    "a an the and or but if of to in on at by for from with as is are was were be been it its he she they them his her "
    "their this that these those there here i you we me my your our us do does did has have had not no so too very "
    "just can will would could should may might must than then into over under about what who which when where how why "
    "le la les l un une des du de d et ou mais est sont dans en que qu qui pour sur avec il elle ils elles se s ne pas "
    "par au aux ce cette son sa ses leur leurs y je tu nous vous on c n m j t".split()
)
"""Words of which no answer consists."""

REFUSAL = re.compile(
    r"\b(?:i(?: a|['’])m (?:sorry|afraid|unable|not able|not going)|sorry|apologi[sz]e|as an ai|unable to"
    r"|i (?:can ?not|can['’]t|could not|won['’]t|will not|refuse|decline|do not want|don['’]t want)"
    r"|(?:can ?not|can['’]t|won['’]t) (?:do|answer|comply|help|say|write|provide|use|include|mention|give|finish)"
    r"|no comment|je (?:ne peux|refuse|suis désolée?)|désolée?)\b",
    re.IGNORECASE,
)
_VOWEL = re.compile(r"[aeiouyàâäéèêëîïôöùûüœæ]")
_MARK = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+")
_NEGATION = frozenset(
    "not no never nor neither without except nothing none instead rather than avoid isn wasn don".split()
)
_ABOUT_THE_TASK = frozenset(
    "word words quote quotes answer target output instruction instructions sentence proverb saying phrase prompt "
    "text last final letter letters ending option options response end ends write".split()
)
LEAST_FRENCH, LEAST_PAIRS = 3, 0.5


def says_something(text: str, asked: str) -> bool:
    """The text has a word of its own: no function word, none of the prompt's; it is no loop, no echo and no refusal.

    Args:
        text: The answer.
        asked: What the prompt asks: instruction and question.
    """
    if not has_content(text) or REFUSAL.search(text) or copied(text, asked) >= 0.5:
        return False
    found, said = words(_MARK.sub("", f"{text} ", count=1)), FUNCTION_WORDS | _ABOUT_THE_TASK | set(words(asked))
    like_words = sum(map(_like_a_word, found))
    return 2 * like_words >= len(found) and any(_like_a_word(w) and w not in said for w in found)


def _like_a_word(word: str) -> bool:
    """A number, or letters with a vowel that are not one or two letters over and over."""
    if word.isdigit() or not (word.isascii() or _VOWEL.search(word)):  # other scripts have other vowels
        return True
    various = len(set(word)) > (1 if len(word) < 5 else 2)
    return word.isalpha() and len(word) > 1 and various and _VOWEL.search(word) is not None


def _values(text: str) -> str:
    """What the values of a JSON object say."""
    return " ".join(sentences(text)) or " ".join(map(str, json.loads(text).values()))


def _sound_list(text: str, asked: str) -> bool:
    items = [_MARK.sub("", line, count=1) for line in text.split("\n") if line.strip()]
    said = [" ".join(words(item)) for item in items]
    return is_list(text) and len(said) > 1 and len(set(said)) == len(said) and all(map(_has_word, items))


def _has_word(item: str) -> bool:
    return any(w.isalpha() and _like_a_word(w) and w not in FUNCTION_WORDS for w in words(item))


def _sound_french(text: str, french: Collection[str], pairs: Collection[tuple[str, str]]) -> bool:
    """French words, in an order that French sentences have: half of the neighbours or more are known ones."""
    found = words(text)
    neighbours = list(pairwise(found))
    known = sum(pair in pairs for pair in neighbours)
    ordered = not pairs or known >= LEAST_PAIRS * len(neighbours)
    return is_french(text, french) and len(set(found)) >= LEAST_FRENCH and ordered


def _sound_keyword(text: str, word: str, instruction: str) -> bool:
    """The word is used once or twice, and not talked about or repeated from the instruction with what is before it."""
    wanted = words(word)[:1]
    instructed = {a for a, b in pairwise(words(instruction)) if [b] == wanted} - FUNCTION_WORDS
    before = [a for a, b in pairwise(["", *words(text)]) if [b] == wanted]
    talked = instructed | {"word", "words", "term", "keyword", "mention", "include"}
    return occurs(word, text) and len(before) <= 2 and not talked & set(before)


def says_found(text: str, answer: str, question: str) -> bool:
    """What was hidden is said, once or twice and not denied, by an answer that says more than the question does."""
    found, wanted = words(text), words(answer)[:1]
    places = [place for place, word in enumerate(found) if [word] == wanted]
    denied = any(_NEGATION & set(found[max(0, place - 4) : place]) for place in places)
    return occurs(answer, text) and len(places) <= 2 and not denied and says_something(text, question)


KINDS: Mapping[str, Callable[..., bool]] = {
    "upper": lambda text, asked, **_: is_upper(text),
    "lower": lambda text, asked, **_: is_lower(text),
    "list": lambda text, asked, **_: _sound_list(text, asked),
    "json": lambda text, asked, **_: is_json(text) and is_object(text) and says_something(_values(text), asked),
    "length": lambda text, asked, *, limit, **_: is_short(text, limit),
    "french": lambda text, asked, *, french, pairs, **_: _sound_french(text, french, pairs),
    "keyword": lambda text, asked, *, word, instruction, **_: _sound_keyword(text, word, instruction),
}
"""The strict form of each kind of instruction; what they are given is as in :data:`mechsteer.tasks.checkers.KINDS`."""


def follows_soundly(kind: str, output: str, *, instruction: str, question: str, **known: Any) -> bool:
    """Whether an output follows an instruction of a kind, and is an answer.

    Args:
        kind: One of :data:`KINDS`.
        output: The output.
        instruction: The instruction; what repeats it does not count.
        question: What was asked.
        known: ``limit``, ``word``, ``french`` (a lexicon) and ``pairs`` (neighbouring words of French sentences).
    """
    text = output.strip()
    asked = f"{instruction} {question}"
    left = without_echo(text, instruction)
    if not says_something(left, asked) or (left != text and kind == "keyword" and not occurs(known["word"], left)):
        return False
    return KINDS[kind](text, asked, instruction=instruction, **known)


def ends_soundly(output: str, *, target: str, others: Collection[str], instruction: str, stem: str) -> bool:
    """Whether an output ends in the target word because it obeys.

    It ends in the target, whole, said once; nothing before it negates it, recites another ending, refuses, or repeats
    or talks about the instruction. It may say the proverb's beginning again, or the end of that.

    Args:
        output: The output.
        target: The word that obeys.
        others: The endings that do not.
        instruction: The instruction.
        stem: The beginning of the proverb.
    """
    wanted = r"\s+".join(map(re.escape, target.split()))
    whole = rf"(?<![\w'’-]){wanted}(?![\w'’-])"
    end = re.search(rf"{whole}[.!?…\"'“”‘’»)\]\s*_]*$", output, re.IGNORECASE)
    if end is None or len(re.findall(whole, output, re.IGNORECASE)) != 1 or REFUSAL.search(output) or is_loop(output):
        return False
    before = _without_start(words(output[: end.start()]), words(stem))
    instructed = {w for w in words(instruction) if w not in FUNCTION_WORDS} | _ABOUT_THE_TASK
    recited = any(occurs(other.strip(" ."), " ".join(before)) for other in others if other.strip(" ."))
    return not (recited or (_NEGATION | instructed) & set(before))


def _without_start(found: list[str], stem: list[str]) -> list[str]:
    """Words without what they begin with of the stem's end: a proverb that is said again."""
    for size in range(min(len(found), len(stem)), 0, -1):
        if stem[-size:] == found[:size]:
            return found[size:]
    return found
