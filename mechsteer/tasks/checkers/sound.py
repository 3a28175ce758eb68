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
from mechsteer.tasks.checkers.evasions import FILLERS, REFUSAL, like_a_word
from mechsteer.tasks.checks import is_json, occurs, without_echo

FUNCTION_WORDS = frozenset(
    "a an the and or but if of to in on at by for from with as is are was were be been it its he she they them his her "
    "their this that these those there here i you we me my your our us do does did has have had not no so too very "
    "just can will would could should may might must than then into over under about what who which when where how why "
    "le la les l un une des du de d et ou mais est sont dans en que qu qui pour sur avec il elle ils elles se s ne pas "
    "par au aux ce cette son sa ses leur leurs y je tu nous vous on c n m j t isn aren wasn weren don doesn didn won "
    "wouldn couldn shouldn hasn haven hadn ain re ve ll".split()
)
"""Words of which no answer consists."""

_MARK = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NEGATION = frozenset(
    "not no never nor neither nobody without except nothing none instead rather than avoid cannot hardly barely unlike "
    "opposite isn wasn don".split()
)
_NEGATED = re.compile(r"\b(?:\w+n t|anything but|far from|other than)\b")  # words() leaves "n t" of "n't"
_DENIED = re.compile(r"\b(?:(?:is|are|was|were|does|do|did|should|would|could|can) (?:not|no|never)|\w+n t)\b")
_ABOUT_THE_TASK = frozenset(
    "word words quote quotes answer target output instruction instructions sentence proverb saying phrase prompt "
    "text last final letter letters ending option options response end ends write term required requested "
    "instructed asked".split()
)
_ABOUT_FORM = frozenset(
    "uppercase lowercase capital capitals json object format bulleted bullet bullets list lists item items point "
    "points character characters example key value string integer boolean undefined maximum most fewer less".split()
)
_UNTOLD = FUNCTION_WORDS | frozenset(
    "one two three four five six seven eight nine ten first second third fourth fifth item items point points".split()
)
_SPELLED = dict(enumerate("zero one two three four five six seven eight nine ten eleven twelve".split()))
_MENTIONED = frozenset(
    "word words term keyword mention mentioned mentioning include included including required requested".split()
)
_NOTHING_MORE = frozenset(
    "as you it is was the a an to for of and or i my here there that this in with asked go using".split()
)
_ASKS = frozenset("who what why how is are do does did can could will would where when which".split())
LEAST_FRENCH, LEAST_FRENCH_OWN, LEAST_PAIRS = 3, 2, 0.5


def says_something(text: str, asked: str) -> bool:
    """The text has a word of its own: no function word, none of the prompt's; it is no loop, no echo and no refusal.

    Args:
        text: The answer.
        asked: What the prompt asks: instruction and question.
    """
    if not has_content(text) or REFUSAL.search(text) or copied(text, asked) >= 0.5:
        return False
    found, theirs = words(_MARK.sub("", f"{text} ", count=1)), _said(asked)
    if len(found) > 1 and len(set(found)) == 1:
        return False
    known = FUNCTION_WORDS | FILLERS | _ABOUT_THE_TASK | _ABOUT_FORM
    like_words = sum(map(like_a_word, found))
    counting = sum(map(str.isdigit, found)) > 2
    own = (w for w in found if like_a_word(w) and w not in known and _one(w) not in theirs)
    own = any(not (w.isdigit() and counting) for w in own)
    return own and 2 * like_words >= len(found)


def _said(asked: str) -> set[str]:
    """The prompt's words, as one and not many, and its numbers as words."""
    theirs = words(asked)
    return {*map(_one, theirs), *(_SPELLED.get(int(w), w) for w in theirs if w.isdecimal())}


def _one(word: str) -> str:
    """A word without the s of many."""
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _values(text: str) -> str:
    """What the values of a JSON object say; of a topic alone, if it is more than a word."""
    found = json.loads(text)
    rest = [value for key, value in found.items() if key.lower() != "topic"]
    alone = [value for value in found.values() if len(words(str(value))) > 1]
    return " ".join(sentences(text)) or " ".join(map(str, rest or alone))


def _sound_list(text: str, asked: str) -> bool:
    items = [_MARK.sub("", line, count=1) for line in text.split("\n") if line.strip()]
    said = [" ".join(words(item)) for item in items]
    return (
        is_list(text)
        and len(said) > 1
        and len(set(said)) == len(said)
        and all(_has_word(item, _UNTOLD) for item in items)
    )


def _has_word(text: str, empty: frozenset[str] = FUNCTION_WORDS) -> bool:
    return any(w.isalpha() and like_a_word(w) and w not in empty for w in words(text))


def _sound_french(text: str, french: Collection[str], pairs: Collection[tuple[str, str]]) -> bool:
    """French words, in an order that French sentences have: half of the neighbours or more are known ones."""
    found = words(text)
    neighbours = list(pairwise(found))
    known = sum(pair in pairs for pair in neighbours)
    ordered = not pairs or known >= LEAST_PAIRS * len(neighbours)
    many = len(set(found)) >= LEAST_FRENCH and len(set(found) - FUNCTION_WORDS) >= LEAST_FRENCH_OWN
    return is_french(text, french) and many and ordered


def _sound_keyword(text: str, word: str, instruction: str) -> bool:
    """The word is used once or twice, in a sentence that says more than it and the instruction, and not talked about.

    Nor is it repeated from the instruction with what stands before it there.
    """
    wanted = words(word)[:1]
    instructed = {a for a, b in pairwise(words(instruction)) if [b] == wanted} - FUNCTION_WORDS
    before = [a for a, b in pairwise(["", *words(text)]) if [b] == wanted]
    if not occurs(word, text) or len(before) > 2 or {"not", *instructed, *_MENTIONED} & set(before):
        return False
    around = [set(words(sentence)) - {*wanted} for sentence in _SENTENCE.split(text) if occurs(word, sentence)]
    empty = _NOTHING_MORE | FILLERS | set(words(instruction))
    return any(len(others) > 1 and others - empty and not others & (_MENTIONED - {*wanted}) for others in around)


def says_found(text: str, answer: str, question: str) -> bool:
    """What was hidden is said, once or twice and not denied, by an answer that says more than the question does."""
    found, wanted = words(text), words(answer)[:1]
    places = [place for place, word in enumerate(found) if [word] == wanted]
    before = [found[max(0, place - 4) : place] for place in places]
    denied = any(_NEGATION & set(some) or _NEGATED.search(" ".join(some)) for some in before)
    denied = denied or re.search(r"\?\s*(?:no|nope|not|never)\b", text, re.IGNORECASE) is not None
    for sentence in _SENTENCE.split(text):
        after = " ".join(words(sentence)).partition(" ".join(wanted))[2].split()[:5]
        denied = denied or _DENIED.search(" ".join(after)) is not None
    others = set(found) - {*wanted} - FUNCTION_WORDS
    empty = others and not any(like_a_word(word) and word not in FILLERS for word in others)
    return occurs(answer, text) and len(places) <= 2 and not (denied or empty) and says_something(text, question)


KINDS: Mapping[str, Callable[..., bool]] = {
    "upper": lambda text, asked, **_: is_upper(text) and _has_word(text),
    "lower": lambda text, asked, **_: is_lower(text) and _has_word(text),
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
    whole = rf"(?<!\w)(?<!\w['’-]){wanted}(?!\w|['’-]\w)"
    end = re.search(rf"{whole}[.!?…\"'“”‘’»)\]\s*_]*$", output, re.IGNORECASE)
    if end is None or len(re.findall(whole, output, re.IGNORECASE)) != 1 or is_loop(output):
        return False
    if REFUSAL.search(without_echo(output, stem)):
        return False
    if "?" in end[0] and not _ASKS & set(words(stem)[:1]):
        return False
    before = _without_start(words(output[: end.start()]), words(stem))
    instructed = {w for w in words(instruction) if w not in FUNCTION_WORDS} | _ABOUT_THE_TASK
    recited = any(occurs(other.strip(" ."), " ".join(before)) for other in others if other.strip(" ."))
    empty = any(w in FILLERS - set(words(stem)) or (len(w) > 2 and not like_a_word(w)) for w in before)
    negated = _NEGATION & set(before) or _NEGATED.search(" ".join(before))
    return not (recited or empty or negated or instructed & set(before))


def _without_start(found: list[str], stem: list[str]) -> list[str]:
    """Words without what they begin with of the stem's end: a proverb that is said again."""
    said, again = (["is" if word == "s" else word for word in some] for some in (stem, found))  # all's, all is
    for size in range(min(len(again), len(said)), 0, -1):
        if said[-size:] == again[:size]:
            return found[size:]
    return found
