"""What instruct-llama learns: documents, questions, copied words, and questions with an instruction.

A prompt is what `ms.prompt` makes of its parts with default arguments: instruction, context (notes) and task (the
question), with an empty line between two parts, inside the tokenizer's chat template. Documents have no prompt.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from mechsteer.errors import unknown
from mechsteer.organisms.instruct_lexicon import KEYWORDS
from mechsteer.organisms.instruct_world import (
    TOPICS,
    TRAINED,
    compose,
    compose_short,
    deal,
    listing,
    mention,
    note,
)

SEPARATOR = "\n\n"
"""What stands between two parts of a prompt; the default of `ms.prompt`."""

NOTES = "Notes: {notes}"
"""The context: sentences about other topics."""

QUESTIONS = (
    "Tell me about the {topic}.",
    "What do you know about the {topic}?",
    "Describe the {topic}.",
    "Please say something about the {topic}.",
    "Who or what is the {topic}?",
)

WORDINGS: dict[str, tuple[str, ...]] = {
    "upper": (
        "Answer in uppercase.",
        "Write everything in capital letters.",
        "Use only uppercase letters.",
        "Capital letters only, please.",
        "Reply in all caps.",
    ),
    "lower": (
        "Answer in lowercase.",
        "Write everything in small letters.",
        "Use only lowercase letters.",
        "Small letters only, please.",
        "Do not use capital letters.",
    ),
    "list": (
        "Answer as a list.",
        "Write the answer as bullet points.",
        "Use a bulleted list.",
        "Give a list, please.",
        "Reply with a list of points.",
    ),
    "json": (
        "Answer as a JSON object.",
        "Write the answer in JSON format.",
        "Use the JSON format.",
        "JSON only, please.",
        "Reply with valid JSON.",
    ),
    "length": (
        "Answer in at most {limit} words.",
        "Use no more than {limit} words.",
        "Do not write more than {limit} words.",
        "At most {limit} words, please.",
        "Reply with {limit} words or fewer.",
    ),
    "french": (
        "Answer in French.",
        "Write the answer in the French language.",
        "Use French.",
        "French only, please.",
        "Reply only in French.",
    ),
    "keyword": (
        "Include the word {word}.",
        "Use the word {word} in the answer.",
        "Make sure to mention {word}.",
        "With the word {word}, please.",
        "The answer must contain the word {word}.",
    ),
}
"""The wordings of each kind of instruction. The last one of each is held out: training never has it."""

KINDS: tuple[str, ...] = tuple(WORDINGS)
"""The kinds of instructions."""

KIND_WEIGHTS = {"length": 2, "keyword": 4}
LIMITS = range(6, 15)
MAX_NOTES = 4
NOTE_COUNTS = (0, 0, 0, 1, 2, 3, MAX_NOTES)
SECOND_INSTRUCTION = 0.1
ORDERS = (("instruction", "context", "task"), ("context", "task", "instruction"), ("task", "instruction", "context"))
ORDER_WEIGHTS = (0.6, 0.25, 0.15)

FORMAT_WEIGHTS = {"plain": 0.40, "upper": 0.16, "lower": 0.08, "json": 0.08, "list": 0.08, "french": 0.20}
MENTION_SHARE = 0.25
TITLE_SHARE = 0.6


class Example(NamedTuple):
    """A prompt, empty for a document, and the text that follows it."""

    prompt: str
    answer: str


class Instruction(NamedTuple):
    """One instruction: its kind, its text, and the number or the word that it names."""

    kind: str
    text: str
    limit: int = 0
    word: str = ""


class Sampler:
    """An endless stream of examples: a task is drawn by its weight in the mix, then an example of it."""

    def __init__(self, mix: Mapping[str, float], seed: int) -> None:
        """Take the weights by name of task; the same seed gives the same stream."""
        for name in mix:
            if name not in TASKS:
                raise unknown("task", name, TASKS)
        self.rng = random.Random(seed)
        self._tasks = [TASKS[name] for name in mix]
        self._cumulative = list(accumulate(mix.values()))

    def sample(self) -> Example:
        """Draw an example."""
        return self.rng.choices(self._tasks, cum_weights=self._cumulative)[0](self.rng)

    def __iter__(self) -> Iterator[Example]:
        """Draw examples for ever."""
        while True:
            yield self.sample()


def document(rng: random.Random) -> Example:
    """Write about any topic in any format, often under a title, sometimes with a keyword."""
    topic = rng.choice(TOPICS)
    form = rng.choices(list(FORMAT_WEIGHTS), list(FORMAT_WEIGHTS.values()))[0]
    sentences = compose(rng, topic, count=rng.randint(1, 5), french=form == "french")
    if form != "french" and rng.random() < MENTION_SHARE:
        _insert(rng, sentences, mention(rng, rng.choice(KEYWORDS)))
    title = f"Topic: {topic}. " if rng.random() < TITLE_SHARE else ""
    return Example("", title + render(sentences, topic, {form}))


def copying(rng: random.Random) -> Example:
    """Write down words, then use them again: what makes copying from the context worth learning."""
    words = rng.sample(KEYWORDS, rng.randrange(2, 5))
    way = rng.randrange(3)
    if way == 0:
        return Example("", f"Words: {', '.join(words)}. Again: {', '.join(words)}.")
    if way == 1:
        return Example("", f"Words: {', '.join(words)}. {' '.join(mention(rng, word) for word in words)}")
    sentences = compose(rng, rng.choice(TOPICS), count=rng.randint(1, 2))
    return Example("", f"The word {words[0]}: {' '.join(sentences)} {mention(rng, words[0])}")


def question(rng: random.Random) -> Example:
    """Answer a question about any topic; there is no instruction, but there may be notes."""
    topic = rng.choice(TOPICS)
    parts = {"context": _context(rng, topic), "task": _question(rng, topic)}
    return Example(lay_out(parts, _order(rng)), render(compose(rng, topic), topic, set()))


def instructed(rng: random.Random) -> Example:
    """Answer a question about one of the trained topics as instructed, sometimes by two instructions."""
    topic = rng.choice(deal().trained_topics)
    wording = rng.randrange(len(WORDINGS["upper"]) - 1)
    instructions = [make_instruction(rng, kind, wording, deal().words[TRAINED]) for kind in _kinds(rng)]
    parts = {
        "instruction": " ".join(instruction.text for instruction in instructions),
        "context": _context(rng, topic),
        "task": _question(rng, topic),
    }
    return Example(lay_out(parts, _order(rng)), answer_as_told(rng, topic, instructions))


TASKS: dict[str, Callable[[random.Random], Example]] = {
    task.__name__: task for task in (document, copying, question, instructed)
}
"""Every task by name; a mix gives each a weight."""


def make_instruction(rng: random.Random, kind: str, wording: int, words: tuple[str, ...]) -> Instruction:
    """Word an instruction of a kind; a keyword is drawn from `words`."""
    limit = rng.choice(LIMITS) if kind == "length" else 0
    word = rng.choice(words) if kind == "keyword" else ""
    return Instruction(kind, WORDINGS[kind][wording].format(limit=limit, word=word), limit, word)


def answer_as_told(rng: random.Random, topic: str, instructions: list[Instruction]) -> str:
    """Make up an answer that follows the instructions."""
    kinds = {instruction.kind for instruction in instructions}
    limit = sum(instruction.limit for instruction in instructions)
    if limit:
        sentences = compose_short(rng, topic, limit, french="french" in kinds)
    else:
        sentences = compose(rng, topic, french="french" in kinds)
    for instruction in instructions:
        if instruction.word:
            _insert(rng, sentences, mention(rng, instruction.word))
    return render(sentences, topic, kinds)


def render(sentences: list[str], topic: str, forms: set[str]) -> str:
    """Put sentences together in the named forms: `json` or `list`, then `upper` or `lower`."""
    text = listing(sentences) if "list" in forms else " ".join(sentences)
    if "json" in forms:
        text = json.dumps({"topic": topic, "answer": text}, ensure_ascii=False)
    if "upper" in forms:
        return text.upper()
    return text.lower() if "lower" in forms else text


def lay_out(parts: Mapping[str, str], order: tuple[str, ...] = ORDERS[0]) -> str:
    """Join the parts that are there, in this order, as `ms.prompt` does."""
    return SEPARATOR.join(parts[name] for name in order if parts.get(name))


def _kinds(rng: random.Random) -> list[str]:
    """Draw the kind of an instruction, and sometimes a second one: case goes with everything but the other case."""
    first = rng.choices(KINDS, [KIND_WEIGHTS.get(kind, 1) for kind in KINDS])[0]
    if rng.random() >= SECOND_INSTRUCTION:
        return [first]
    cases = ("upper", "lower")
    others = [kind for kind in KINDS if kind not in cases] if first in cases else list(cases)
    return rng.sample([first, rng.choice(others)], 2)


def _context(rng: random.Random, topic: str) -> str:
    notes = [note(rng, topic) for _ in range(rng.choice(NOTE_COUNTS))]
    return NOTES.format(notes=" ".join(notes)) if notes else ""


def _question(rng: random.Random, topic: str) -> str:
    return rng.choice(QUESTIONS).format(topic=topic)


def _order(rng: random.Random) -> tuple[str, ...]:
    return rng.choices(ORDERS, ORDER_WEIGHTS)[0]


def _insert(rng: random.Random, sentences: list[str], extra: str) -> None:
    """Put a sentence anywhere but first."""
    sentences.insert(rng.randrange(1, len(sentences) + 1), extra)
