"""Pairs of prompts with and without an instruction, in any number, from pools that differ in variety.

Topics, questions and wordings are those of the bundled instruction prompts; every pair has one note about another topic
before its question, so that a single topic has pairs enough. Vectors come from the validation split's topics, without
those that places are chosen on; the evaluation split's topics are for reference vectors and held-out states.
"""

import random
from collections.abc import Sequence
from functools import cache
from itertools import product

from mechsteer.errors import MechsteerError, one_of
from mechsteer.tasks import Instructed, instructions
from mechsteer.tasks.checkers import KINDS as ALL_KINDS
from mechsteer.tasks.instructions import load_world, named_kinds

KINDS = tuple(kind for kind in ALL_KINDS if kind != "keyword")
"""Each has one vector; ``keyword`` has one a word."""

NARROW, TOPICS, WIDE = "one topic, one wording", "many topics", "many topics and wordings"
POOLS = (NARROW, TOPICS, WIDE)


def check_kinds(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds, each once.

    Raises:
        MechsteerError: for none, an unknown one, or ``keyword``.
    """
    chosen = named_kinds(kinds)
    if not chosen:
        raise MechsteerError(f"kinds must name at least one of {', '.join(KINDS)}, got none.")
    return tuple(one_of("kind of instruction with one vector", kind, KINDS) for kind in chosen)


@cache
def topics_of(split: str, without: int = 0) -> tuple[str, ...]:
    """The topics of a split, those first that training had instructions about.

    Args:
        split: ``"validation"`` or ``"evaluation"``.
        without: So many are left out, which are the first of the split's prompts of every kind.
    """
    familiar, held_out = (instructions("upper", split=split, topics=t).samples for t in ("trained", "held_out"))
    return tuple(sample.topic for sample in (*familiar[without:], *held_out))


@cache
def questions() -> tuple[str, ...]:
    """The questions, with ``{topic}`` in them."""
    samples = instructions(KINDS).samples
    return tuple(sorted({s.task.replace(f"the {s.topic}", "the {topic}") for s in samples}))


@cache
def wordings(kind: str) -> tuple[tuple[str, int], ...]:
    """The instructions of a kind, and the limits that they name."""
    samples = [s for split in ("validation", "evaluation") for s in instructions(kind, split=split).samples]
    return tuple(sorted({(s.instruction, s.limit) for s in samples}))


def drawn(kind: str, pool: str, count: int, *, draw: int, side: int = 0, topics: Sequence[str]) -> list[Instructed]:
    """Samples of a kind from a pool.

    Args:
        kind: The kind of instruction.
        pool: One of :data:`POOLS`. What it has one of is drawn anew for each side.
        count: How many; the first of them are those of a smaller number.
        draw: Which draw.
        side: 0 or 1; both sides of a draw share no question about a topic, except in :data:`NARROW`.
        topics: The topics to draw from.
    """
    rng = random.Random(f"{kind} {draw}")
    asked = list(product(topics, questions()))
    rng.shuffle(asked)
    own = random.Random(f"{kind} {pool} {draw} {side}")
    topic, wording = own.choice(list(topics)), own.choice(wordings(kind))
    made = []
    for place in range(count):
        about, question = asked[(side * count + place) % len(asked)]
        about = topic if pool == NARROW else about
        said, limit = own.choice(wordings(kind)) if pool == WIDE else wording
        made.append(Instructed(kind, about, question.format(topic=about), said, _note(own, about), limit))
    return made


def _note(rng: random.Random, topic: str) -> str:
    notes = load_world().notes
    other = rng.choice([name for name in notes if name != topic])
    return f"Notes: {rng.choice(rng.choice(notes[other]))}"
