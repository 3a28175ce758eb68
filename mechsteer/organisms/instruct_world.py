"""The world of instruct-llama: topics with five fixed facts, each in two English wordings and in French.

All of it is a function of names and seeds, in plain Python, so that the bundled tables can be written again, byte for
byte, without torch. `deal` says which topics and keywords are for what.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from mechsteer.organisms.instruct_lexicon import (
    ANIMALS,
    CHARACTERS,
    COLOURS,
    FOODS,
    KEYWORDS,
    PEOPLE,
    PLACES,
    PRODUCTS,
    SKILLS,
    TIMES,
    TOOLS,
)

TOPICS: tuple[str, ...] = (*ANIMALS, *PEOPLE)
"""What one can ask about."""

DEAL_SEED = 5
N_TRAINED, N_HELD_OUT_WORDS = 56, 32
VALIDATION, EVALUATION = "validation", "evaluation"
TRAINED, HELD_OUT = "trained", "held_out"

MENTIONS = ("It reminds me of the {word}.", "It makes me think of {word}.", "There is also a story about {word}.")
"""Sentences that bring a keyword into an answer."""


class Fact(NamedTuple):
    """One thing that is true of a topic: two English sentences that say it, and a French one."""

    english: tuple[str, str]
    french: str


class Deal(NamedTuple):
    """Who is held out from whom.

    `topics[TRAINED]` are those that training instructions are about; of the others, training has only documents and
    questions without any instruction. Training instructions ask for the words of `words[TRAINED]` only. The topics of
    both kinds and the held-out words are halved into validation and evaluation.
    """

    topics: dict[tuple[str, str], tuple[str, ...]]
    words: dict[str, tuple[str, ...]]

    @property
    def trained_topics(self) -> tuple[str, ...]:
        """The topics that training instructions are about, of both splits."""
        return self.topics[TRAINED, VALIDATION] + self.topics[TRAINED, EVALUATION]


@cache
def deal() -> Deal:
    """Deal topics and keywords out, always in the same way."""
    rng = random.Random(DEAL_SEED)
    topics, words = list(TOPICS), list(KEYWORDS)
    rng.shuffle(topics)
    rng.shuffle(words)
    trained, held_out = topics[:N_TRAINED], topics[N_TRAINED:]
    half = N_HELD_OUT_WORDS // 2
    return Deal(
        topics={
            (TRAINED, VALIDATION): tuple(trained[::2]),
            (TRAINED, EVALUATION): tuple(trained[1::2]),
            (HELD_OUT, VALIDATION): tuple(held_out[::2]),
            (HELD_OUT, EVALUATION): tuple(held_out[1::2]),
        },
        words={
            VALIDATION: tuple(words[:half]),
            EVALUATION: tuple(words[half:N_HELD_OUT_WORDS]),
            TRAINED: tuple(words[N_HELD_OUT_WORDS:]),
        },
    )


@cache
def facts(topic: str) -> tuple[Fact, ...]:
    """Return the five facts of a topic; the first one names it."""
    rng = random.Random(f"facts of the {topic}")

    def pick(table: dict[str, str]) -> tuple[str, str]:
        return rng.choice(list(table.items()))

    place, place_fr = pick(PLACES)
    time, time_fr = pick(TIMES)
    if topic in ANIMALS:
        colour, colour_fr = pick(COLOURS)
        character, character_fr = pick(CHARACTERS)
        food, food_fr = pick(FOODS)
        skill, skill_fr = pick(SKILLS)
        name = ANIMALS[topic]
        return (
            Fact(
                (f"The {topic} is {colour} and {character}.", f"The {topic} is a {character} {colour} animal."),
                f"{name[0].upper()}{name[1:]} est {colour_fr} et {character_fr}.",
            ),
            Fact((f"It lives in the {place}.", f"You can find it in the {place}."), f"Il vit dans {place_fr}."),
            Fact((f"It likes to eat {food}.", f"It often eats {food}."), f"Il aime manger {food_fr}."),
            Fact((f"It can {skill} very well.", f"It loves to {skill}."), f"Il sait très bien {skill_fr}."),
            Fact((f"It comes out in the {time}.", f"It is awake in the {time}."), f"Il sort {time_fr}."),
        )
    (first, first_fr), (second, second_fr) = rng.sample(list(CHARACTERS.items()), 2)
    tool, tool_fr = pick(TOOLS)
    product, product_fr = pick(PRODUCTS)
    name = PEOPLE[topic]
    return (
        Fact(
            (f"The {topic} is {first} and {second}.", f"The {topic} is a {first} and {second} person."),
            f"{name[0].upper()}{name[1:]} est {first_fr} et {second_fr}.",
        ),
        Fact((f"He works in the {place}.", f"You can meet him in the {place}."), f"Il travaille dans {place_fr}."),
        Fact((f"He often uses a {tool}.", f"He always carries a {tool}."), f"Il utilise souvent {tool_fr}."),
        Fact(
            (f"He makes {product} every day.", f"He is famous for his {product}."),
            f"Il fait {product_fr} tous les jours.",
        ),
        Fact((f"He rests in the {time}.", f"He is free in the {time}."), f"Il se repose {time_fr}."),
    )


def compose(rng: random.Random, topic: str, *, count: int | None = None, french: bool = False) -> list[str]:
    """Make up an answer about a topic: the fact that names it, then others in any order."""
    count = count or rng.choice((3, 4, 4, 5))
    chosen = [0, *rng.sample(range(1, 5), count - 1)]
    return [_say(rng, facts(topic)[index], french) for index in chosen]


def compose_short(rng: random.Random, topic: str, limit: int, *, french: bool = False) -> list[str]:
    """Make up an answer of at most `limit` words: one fact or more, in any order."""
    answer: list[str] = []
    words = 0
    for fact in rng.sample(facts(topic), 5):
        sentence = _say(rng, fact, french)
        length = len(sentence.split())
        if words + length <= limit:
            answer.append(sentence)
            words += length
            if rng.random() < 0.4:
                break
    return answer


def note(rng: random.Random, avoid: str) -> str:
    """Draw an English sentence about another topic than `avoid`."""
    topic = avoid
    while topic == avoid:
        topic = rng.choice(TOPICS)
    return rng.choice(rng.choice(facts(topic)).english)


def mention(rng: random.Random, word: str) -> str:
    """Draw a sentence with a keyword."""
    return rng.choice(MENTIONS).format(word=word)


def listing(sentences: Sequence[str]) -> str:
    """Render sentences as a list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _say(rng: random.Random, fact: Fact, french: bool) -> str:
    return fact.french if french else rng.choice(fact.english)
