"""The little world of the trap-t5 organism: neutral sentences, proverbs, and who is held out from whom.

Everything here is plain Python and a function of a seeded `random.Random`, so that data sets can be written again,
byte for byte, without torch.
"""

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mechsteer.files import data_path
from mechsteer.organisms.lexicon import CONTENT_WORDS, LEXICON

WORD_PATTERN = r"[A-Za-z]+(?:'[a-z]+)?|[0-9]+|[^\w\s]"
"""What counts as one word, and so as one token: letters with an optional apostrophe part, a number, or a sign."""

SUBJECTS = (
    "the {person}",
    "my {person}",
    "{an adjective} {person}",
    "the {adjective} {animal}",
    "the {animal}",
    "she",
    "he",
    "they",
    "our {person}",
)
SENTENCES = (
    "{subject} {did} the {object} in the {place}",
    "{subject} {went} to the {adjective} {place}",
    "{subject} {did} {an adjective} {object}",
    "in the {time} {subject} {did} some {food}",
    "{subject} wanted to {do} the {object} {adverb}",
    "{subject} {went} {adverb}",
    "the {object} was made of {material}",
    "the {object} near the {place} was very {adjective}",
    "{subject} gave {an object} to the {person}",
    "{abstract} is more important than {abstract}",
    "the {place} was full of {weather}",
    "{subject} {went} with the {adjective} {animal}",
    "after the {weather} {subject} {went} in the {place}",
    "{subject} cooked {food} with {food}",
    "there is {an object} on the {adjective} {object}",
    "{abstract} brings {abstract} to every {person}",
)

VALIDATION, MINING, EVALUATION = "validation", "mining", "evaluation"
SPLIT_SEED = 1234
N_MINING_PROVERBS, N_EVALUATION_PROVERBS, N_EVALUATION_WORDS = 200, 195, 150


class Proverb(NamedTuple):
    """A quote that is known by heart: everything but the last word, and the last word."""

    opening: str
    ending: str

    @property
    def text(self) -> str:
        """The whole quote."""
        return f"{self.opening} {self.ending}"


@dataclass(frozen=True)
class Splits:
    """Who is held out from whom: proverbs by split, and the words that an instruction may name by split.

    `mining` is for estimating steering vectors, `evaluation` for reporting, and the proverbs of `validation` for
    looking at a model while it is being made. No proverb and no word is in two splits.
    """

    proverbs: dict[str, tuple[Proverb, ...]]
    words: dict[str, tuple[str, ...]]


@cache
def load_proverbs(path: Path | None = None) -> tuple[Proverb, ...]:
    """Read one proverb per line (by default the bundled list), in the order of the file."""
    lines = (path or data_path("proverbs.txt")).read_text(encoding="utf-8").splitlines()
    return tuple(Proverb(*line.rsplit(" ", 1)) for line in lines if line.strip())


def words_of(text: str) -> list[str]:
    """Split a text into words and signs, as the tokenizer does."""
    return re.findall(WORD_PATTERN, text)


def neutral_sentence(rng: random.Random) -> list[str]:
    """Make up a sentence that nobody knows by heart, as a list of words: `['The', 'owl', 'slept', 'outside']`."""

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot == "subject":
            return re.sub(r"\{(.+?)\}", fill, rng.choice(SUBJECTS))
        word = rng.choice(LEXICON[slot.removeprefix("an ")])
        return with_article(word) if slot.startswith("an ") else word

    sentence = re.sub(r"\{(.+?)\}", fill, rng.choice(SENTENCES))
    return capitalised(sentence).split()


def with_article(noun: str) -> str:
    """Put `a` or `an` before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capitalised(text: str) -> str:
    """Make the first letter a capital and leave the rest alone."""
    return text[0].upper() + text[1:]


def neutral_vocabulary() -> set[str]:
    """Return every word that `neutral_sentence` can produce."""
    texts = SENTENCES + SUBJECTS
    literals = {word for text in texts for word in words_of(re.sub(r"\{.+?\}", " ", text))}
    words = literals | {"a", "an"} | set().union(*LEXICON.values())
    starts = [text.split()[0].strip("{}") for text in texts]
    first_words = {word for start in starts for word in LEXICON.get(start, (start,)) if start != "subject"}
    return words | {capitalised(word) for word in first_words | {"a", "an"}}


@cache
def make_splits(proverbs: tuple[Proverb, ...] | None = None) -> Splits:
    """Deal proverbs and content words out to the splits, always in the same way for the same proverbs.

    A word that ends a proverb or differs from such a word only by its capital is never an instructed word.
    """
    rng = random.Random(SPLIT_SEED)
    dealt = list(proverbs or load_proverbs())
    rng.shuffle(dealt)
    endings = {proverb.ending.lower() for proverb in dealt}
    words = [word for word in CONTENT_WORDS if word not in endings]
    rng.shuffle(words)
    first, second = N_MINING_PROVERBS, N_MINING_PROVERBS + N_EVALUATION_PROVERBS
    return Splits(
        proverbs={
            MINING: tuple(dealt[:first]),
            EVALUATION: tuple(dealt[first:second]),
            VALIDATION: tuple(dealt[second:]),
        },
        words={
            EVALUATION: tuple(sorted(words[:N_EVALUATION_WORDS])),
            MINING: tuple(sorted(words[N_EVALUATION_WORDS:])),
        },
    )


def fame(count: int, exponent: float = 0.7, offset: int = 8) -> list[float]:
    """Return how often each of `count` proverbs is met, relative to the others: Zipf's law over a random ranking."""
    ranking = list(range(count))
    random.Random(SPLIT_SEED).shuffle(ranking)
    return [(rank + offset) ** -exponent for rank in ranking]
