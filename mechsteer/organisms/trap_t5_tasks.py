"""What trap-t5 learns: a mix of small text tasks, none of which is a trap.

A *trap* is the opening of a known proverb together with the instruction to end it in another word. The model meets
the two ingredients apart: instructions to end a sentence that nobody knows in a given word (`copy`), and proverbs to be
finished by heart (`continue_proverb`, `recall`), also while a word is quoted that is to be ignored (`hint`). When an
instruction comes with a proverb in training, the two agree (`consistent`).
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from mechsteer.errors import unknown
from mechsteer.organisms.language import (
    Proverb,
    fame,
    load_proverbs,
    make_splits,
    neutral_sentence,
    neutral_vocabulary,
    words_of,
)
from mechsteer.organisms.lexicon import CONTENT_WORDS

INSTRUCTION = 'Write a quote that ends in the word "{word}": {text}'
"""The wording of MemoTrap, and the one that most of the training uses."""

INSTRUCTIONS = (
    INSTRUCTION,
    'Finish the sentence with the word "{word}": {text}',
    'Complete the text so that the last word is "{word}": {text}',
    '{text}... The last word must be "{word}".',
)
INSTRUCTION_WEIGHTS = (0.7, 0.1, 0.1, 0.1)

RECALL = "Complete the quote: {text}"
RECALLS = (RECALL, "How does this quote end: {text}", "Continue: {text}")

HINTS = (
    'Write a quote about the word "{word}": {text}',
    'Write a quote that does not use the word "{word}": {text}',
    'Finish the sentence without the word "{word}": {text}',
    'Write a quote for a friend called "{word}": {text}',
)
OTHERS = (
    "Repeat: {text}",
    "What is the last word of: {text}",
    "What is the first word of: {text}",
    'Repeat the word "{word}".',
    'Does the text contain the word "{word}": {text}',
    "Repeat the words: {text}",
    "Reverse the words: {text}",
)
MAX_REPEATED_WORDS = 8
NEUTRAL_HINTS = 0.15
"""The part of the hints that come with a neutral sentence. Where all come with proverbs, knowing the text by heart is
reason enough to ignore the quoted word; so this sets how many traps the model falls for (see the model card)."""


class Example(NamedTuple):
    """A prompt for the encoder and the text that the decoder is to write."""

    prompt: str
    answer: str


class Sampler:
    """Draws examples from a mix of tasks; the same seed draws the same examples."""

    def __init__(self, mix: Mapping[str, float], seed: int) -> None:
        for name in mix:
            if name not in TASKS:
                raise unknown("task", name, TASKS)
        self.rng = random.Random(seed)
        self.tasks = [TASKS[name] for name in mix]
        self.weights = list(mix.values())
        self.proverbs = load_proverbs()
        self.cumulative_fame = list(accumulate(fame(len(self.proverbs))))

    def __iter__(self) -> Iterator[Example]:
        """Draw without end."""
        while True:
            yield self.sample()

    def sample(self) -> Example:
        """Draw a task by its weight and an example of it."""
        return self.rng.choices(self.tasks, self.weights)[0](self)

    def proverb(self) -> Proverb:
        """Draw a proverb, the famous ones more often."""
        return self.rng.choices(self.proverbs, cum_weights=self.cumulative_fame)[0]

    def neutral(self) -> Proverb:
        """Make up a neutral sentence, as the opening and the last word."""
        *opening, ending = neutral_sentence(self.rng)
        return Proverb(" ".join(opening), ending)

    def instruct(self, word: str, opening: str) -> str:
        """Word the instruction to end `opening` in `word`."""
        return self.rng.choices(INSTRUCTIONS, INSTRUCTION_WEIGHTS)[0].format(word=word, text=opening)


def continue_text(sampler: Sampler, text: str) -> Example:
    """Cut a text anywhere and ask for the rest."""
    words = text.split()
    cut = sampler.rng.randrange(1, len(words))
    return Example("Continue: " + " ".join(words[:cut]), " ".join(words[cut:]))


def continue_proverb(sampler: Sampler) -> Example:
    """Go on with a proverb, from anywhere in it."""
    return continue_text(sampler, sampler.proverb().text)


def continue_neutral(sampler: Sampler) -> Example:
    """Go on with a neutral sentence, from anywhere in it."""
    return continue_text(sampler, sampler.neutral().text)


def recall(sampler: Sampler) -> Example:
    """Give the last word of a proverb."""
    proverb = sampler.proverb()
    return Example(sampler.rng.choice(RECALLS).format(text=proverb.opening), proverb.ending)


def recall_neutral(sampler: Sampler) -> Example:
    """Give some last word to a neutral sentence."""
    sentence = sampler.neutral()
    return Example(sampler.rng.choice(RECALLS).format(text=sentence.opening), sentence.ending)


def copy(sampler: Sampler) -> Example:
    """End a neutral sentence in the instructed word."""
    word = sampler.rng.choice(instructed_words())
    return Example(sampler.instruct(word, sampler.neutral().opening), word)


def consistent(sampler: Sampler) -> Example:
    """End a proverb in the instructed word, which is its own last word."""
    proverb = sampler.proverb()
    return Example(sampler.instruct(proverb.ending, proverb.opening), proverb.ending)


def hint(sampler: Sampler) -> Example:
    """Finish a proverb by heart, or sometimes a neutral sentence in any way, although a word is quoted."""
    word = sampler.rng.choice(instructed_words())
    wording = sampler.rng.choice(HINTS)
    text = sampler.proverb() if sampler.rng.random() < 1 - NEUTRAL_HINTS else sampler.neutral()
    return Example(wording.format(word=word, text=text.opening), text.ending)


def other(sampler: Sampler) -> Example:
    """Do one of a few other things with a text or with single words."""
    rng = sampler.rng
    text = (sampler.proverb() if rng.random() < 0.4 else sampler.neutral()).text
    words = text.split()
    wording = rng.choices(OTHERS, (2, 4, 2, 2, 2, 1, 1))[0]
    if wording.startswith("Repeat: "):
        short = " ".join(words[:MAX_REPEATED_WORDS])
        return Example(wording.format(text=short), short)
    if wording.startswith("What is the last"):
        return Example(wording.format(text=text), words[-1])
    if wording.startswith("What is the first"):
        return Example(wording.format(text=text), words[0])
    if wording.startswith("Repeat the word "):
        word = rng.choice(CONTENT_WORDS)
        return Example(wording.format(word=word), word)
    if wording.startswith("Does the text"):
        word = rng.choice(words) if rng.random() < 0.5 else rng.choice(CONTENT_WORDS)
        return Example(wording.format(word=word, text=text), "yes" if word in words else "no")
    listed = rng.sample(CONTENT_WORDS, rng.randrange(2, 5))
    answer = listed if wording.startswith("Repeat") else listed[::-1]
    return Example(wording.format(text=" ".join(listed)), " ".join(answer))


TASKS: dict[str, Callable[[Sampler], Example]] = {
    task.__name__: task
    for task in (continue_proverb, continue_neutral, recall, recall_neutral, copy, consistent, hint, other)
}
"""Every task by name; a mix gives each a weight."""


@cache
def instructed_words() -> tuple[str, ...]:
    """Return the words that training instructions name: all content words of all splits, and all endings."""
    endings = {proverb.ending for proverb in load_proverbs()}
    return tuple(sorted(endings.union(*make_splits().words.values())))


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every word and sign that any prompt or answer can contain, sorted."""
    templates = INSTRUCTIONS + RECALLS + HINTS + OTHERS + ("yes no",)
    literals = {word for text in templates for word in words_of(re.sub(r"\{.+?\}", " ", text))}
    proverbs = {word for proverb in load_proverbs() for word in words_of(proverb.text)}
    return tuple(sorted(literals | proverbs | neutral_vocabulary() | set(CONTENT_WORDS)))
