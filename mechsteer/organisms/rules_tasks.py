"""The rules that rules-gpt2 learns from examples in its context, and the texts it is trained on.

An elementary rule maps a word to an answer. Nouns have three properties of their answer, language, number and letter
case, and the rules that change two or three of them at once are the elementary ones composed; so for capital letters
and each of the others. A text is some examples of one rule, in the format of the function-vectors repository::

    Q: cat
    A: les chats

    Q: bridge
    A: les ponts
"""

import random
from collections.abc import Iterator, Mapping

from mechsteer.organisms.rules_lexicon import ANTONYMS, COUNTRIES, NOUNS, SYNONYMS, VERBS

MOST_EXAMPLES = 6
ELEMENTARY = (
    "antonym",
    "synonym",
    "present-past",
    "country-capital",
    "english-french",
    "english-german",
    "singular-plural",
    "capitalise",
)
ELEMENTARY_WEIGHT = 2.0


def example(question: str, answer: str) -> str:
    """One example in a text."""
    return f"Q: {question}\nA: {answer}\n\n"


def rules() -> Mapping[str, Mapping[str, str]]:
    """Every rule by name, composed ones with a plus sign (``"english-french+capitalise"``): question -> answer."""
    base = {
        "antonym": {a: b for pair in ANTONYMS for a, b in (pair, pair[::-1])},
        "synonym": dict(SYNONYMS),
        "present-past": dict(VERBS),
        "country-capital": dict(COUNTRIES),
    }
    for rule, language in (("", "english"), ("english-french", "french"), ("english-german", "german")):
        if rule:
            base[rule] = {noun.english: getattr(noun, language) for noun in NOUNS}
        name, field = ("singular-plural", "plural") if not rule else (f"{rule}+singular-plural", f"{language}_plural")
        base[name] = {noun.english: getattr(noun, field) for noun in NOUNS}
    words = {word for mapping in base.values() for word in mapping}
    loud = {f"{name}+capitalise": {q: a.upper() for q, a in mapping.items()} for name, mapping in base.items()}
    return base | {"capitalise": {word: word.upper() for word in sorted(words)}} | loud


class Sampler:
    """Texts without end, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rules = {name: sorted(mapping.items()) for name, mapping in rules().items()}
        self.weights = [ELEMENTARY_WEIGHT if name in ELEMENTARY else 1.0 for name in self.rules]

    def __iter__(self) -> Iterator[list[tuple[str, str]]]:
        """Examples of one rule each."""
        names = list(self.rules)
        while True:
            (name,) = self.rng.choices(names, self.weights)
            yield self.rng.sample(self.rules[name], MOST_EXAMPLES)
