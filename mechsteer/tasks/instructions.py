"""Questions with an instruction, for the bundled organism instruct-llama: does it follow, and is the answer right?

A prompt has up to three parts, in this order and with an empty line between them (the defaults of
:func:`mechsteer.prompt`): the instruction (span ``instruction``), notes that have nothing to do with the question (span
``context``), and the question (span ``task``). The more notes, the less the organism follows.

Scores, of one sample each:

- ``adherence``: the output passes the checker of its kind of instruction, whether or not the prompt had it.
- ``fidelity``: the part of the output's sentences that are true of the topic and no repetition, in whatever form and in
  English or French. NaN for topics of one's own, about which the task knows nothing. A precision: one true sentence is
  1.0.
- ``true_sentences``: how many different ones there are; 0 for topics of one's own.
- ``sound``: adherence in the strict form, that an echo, a loop or a punctuation mark does not pass.

See :mod:`mechsteer.tasks.checkers`, and for the last :mod:`mechsteer.tasks.checkers.sound`.
"""

import csv
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, listed, natural_int, one_of, positive_int
from mechsteer.files import data_path, digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.answered import answered
from mechsteer.tasks.checkers import KINDS, count_true, fidelity, normal, words_of
from mechsteer.tasks.checkers.sound import follows_soundly

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("evaluation", "validation")
FAMILIARITY = ("trained", "held_out")


@dataclass(frozen=True)
class Instructed:
    """One question with an instruction.

    Attributes:
        kind: The kind of instruction.
        topic: What the question is about.
        task: The question.
        instruction: The instruction, also where the prompt leaves it out.
        context: Notes about other topics; may be empty.
        limit: The most words of an answer (kind ``length``), else 0.
        word: The word to include (kind ``keyword``), else empty.
    """

    kind: str
    topic: str
    task: str
    instruction: str
    context: str = ""
    limit: int = 0
    word: str = ""


@dataclass(frozen=True)
class World:
    """What is true.

    Attributes:
        notes: English sentences by topic, for notes: the two wordings of each fact.
        truths: For each topic, all its sentences in normal form, English and French.
        french: Every word of the French sentences.
        french_pairs: Every two of their words that are neighbours.
    """

    notes: Mapping[str, tuple[tuple[str, str], ...]]
    truths: Mapping[str, frozenset[str]]
    french: frozenset[str]
    french_pairs: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Instructions:
    """The task.

    Attributes:
        name: Its name, with the options that are not the defaults.
        samples: The questions.
        notes: How many notes each prompt has.
        with_instruction: Whether prompts have their instruction.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    samples: tuple[Instructed, ...] = field(repr=False)
    notes: int = 0
    with_instruction: bool = True
    max_new_tokens: int = 72

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest(
            [(s.kind, s.task, s.instruction, s.context, s.limit, s.word, self.with_instruction) for s in self.samples]
        )

    def prompts(self, model: Any, *, with_instruction: bool | None = None) -> list[Prompt]:
        """The prompt of every sample, with the spans ``instruction``, ``context`` and ``task`` where they are there.

        Args:
            model: A loaded model.
            with_instruction: With or without the instruction; default: as the task has it. The two lists are the pairs
                to estimate a direction from.
        """
        wanted = self.with_instruction if with_instruction is None else with_instruction
        return [
            prompt(model, s.task, instruction=s.instruction if wanted else None, context=s.context or None)
            for s in self.samples
        ]

    def scores(self, sample: Instructed, text: str) -> dict[str, bool | int | float]:
        """Adherence and fidelity of an answer, how many true sentences it has, and adherence in the strict form."""
        return {
            "adherence": follows(sample, text),
            "fidelity": is_true(sample, text),
            "true_sentences": how_many_true(sample, text),
            "sound": follows_strictly(sample, text),
        }

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does.

        Returns:
            Columns sample, kind, topic, notes, with_instruction, prompt, output, and :meth:`scores`.
        """
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Instructed, made: Prompt, output: str) -> dict[str, Any]:
        row = {
            "kind": sample.kind,
            "topic": sample.topic,
            "notes": self.notes,
            "with_instruction": self.with_instruction,
            "prompt": made.text,
            "output": output,
        }
        return row | self.scores(sample, output)


def follows(sample: Instructed, output: str) -> bool:
    """Whether an output passes the checker of the sample's kind of instruction."""
    return KINDS[sample.kind](output.strip(), limit=sample.limit, word=sample.word, french=load_world().french)


def follows_strictly(sample: Instructed, output: str) -> bool:
    """Whether an output passes the strict form of the checker; see :mod:`mechsteer.tasks.checkers.sound`."""
    world = load_world()
    return follows_soundly(
        sample.kind,
        output,
        instruction=sample.instruction,
        question=sample.task,
        limit=sample.limit,
        word=sample.word,
        french=world.french,
        pairs=world.french_pairs,
    )


def is_true(sample: Instructed, output: str) -> float:
    """The part of an output's sentences that are true of the sample's topic and no repetition; NaN for other topics.

    Nothing is known about topics that are not of the bundled world.
    """
    truths = load_world().truths.get(sample.topic)
    return math.nan if truths is None else fidelity(output.strip(), truths, word=sample.word)


def how_many_true(sample: Instructed, output: str) -> int:
    """How many different sentences of an output are true of the sample's topic; 0 for other topics."""
    return count_true(output.strip(), load_world().truths.get(sample.topic, frozenset()), word=sample.word)


def instructions(
    kinds: str | Sequence[str] | None = None,
    *,
    notes: int = 0,
    with_instruction: bool = True,
    split: str = "evaluation",
    n: int | None = None,
    topics: str = "trained",
    wording: str = "trained",
) -> Instructions:
    """The bundled instruction task.

    Args:
        kinds: Kinds of instructions, of ``upper``, ``lower``, ``list``, ``json``, ``length``, ``french`` and
            ``keyword``. Default: all.
        notes: How many sentences about other topics stand between instruction and question; the organism was trained
            with 0 to 4. The notes of a prompt begin with those that it has for smaller numbers.
        with_instruction: False for the same prompts without their instructions: how often an output passes the
            checker uninstructed.
        split: ``"evaluation"`` for reporting, ``"validation"`` for choosing layers and strengths; they share neither
            topics nor keywords.
        n: The most prompts of each kind. Default: all, 28 (12 for held-out topics).
        topics: ``"held_out"`` for topics that training had no instruction about.
        wording: ``"held_out"`` for wordings of the instructions that training never had.

    Raises:
        MechsteerError: for an unknown kind, split or other option, ``n`` below 1, or more notes than there are.
    """
    chosen = tuple(KINDS) if kinds is None else named_kinds(kinds)
    for kind in chosen:
        one_of("kind of instruction", kind, tuple(KINDS))
    one_of("split", split, SPLITS)
    one_of("topics", topics, FAMILIARITY)
    one_of("wording", wording, FAMILIARITY)
    notes = natural_int("notes", notes)
    n = None if n is None else positive_int("n", n)
    if not chosen:
        raise MechsteerError(f"kinds must name at least one of {', '.join(KINDS)}, got none.")
    rows = [row for row in _rows() if (row["split"], row["topics"]) == (split, topics)]
    samples = tuple(
        _sample(row, notes, wording) for kind in chosen for row in [r for r in rows if r["kind"] == kind][:n]
    )
    options = {
        "kinds": kinds is not None and "+".join(chosen),
        "notes": notes,
        "without": not with_instruction and "instruction",
        "split": split != "evaluation" and split,
        "topics": topics != "trained" and topics,
        "wording": wording != "trained" and wording,
    }
    listed = ",".join(f"{key}={value}" for key, value in options.items() if value)
    return Instructions(f"instructions[{listed}]" if listed else "instructions", samples, notes, with_instruction)


def named_kinds(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """Kinds as they are given, one or several: each once, for prompts that are there twice would count as evidence."""
    return (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(listed("kinds", kinds)))


@cache
def load_world() -> World:
    """Read the facts."""
    notes: dict[str, tuple[tuple[str, str], ...]] = {}
    truths: dict[str, frozenset[str]] = {}
    french: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for row in _read("facts.csv"):
        topic, said = row["topic"], (row["english"], row["other_english"])
        notes[topic] = (*notes.get(topic, ()), said)
        truths[topic] = truths.get(topic, frozenset()) | {normal(text) for text in (*said, row["french"])}
        said_in_french = words_of(row["french"])
        french.update(said_in_french)
        pairs.update(pairwise(said_in_french))
    return World(MappingProxyType(notes), MappingProxyType(truths), frozenset(french), frozenset(pairs))


@cache
def _rows() -> tuple[dict[str, str], ...]:
    return _read("prompts.csv")


def _read(name: str) -> tuple[dict[str, str], ...]:
    with data_path("tasks", "instructions", name).open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def _sample(row: Mapping[str, str], notes: int, wording: str) -> Instructed:
    return Instructed(
        kind=row["kind"],
        topic=row["topic"],
        task=row["task"],
        instruction=row["instruction" if wording == "trained" else "held_out_wording"],
        context=_context(row["topic"], f"{row['kind']} {row['task']}", notes),
        limit=int(row["limit"] or 0),
        word=row["word"],
    )


@lru_cache(maxsize=4096)
def _context(topic: str, seed: str, count: int) -> str:
    """So many notes about other topics, shuffled by a seed; kept, because studies ask for the same task many times."""
    pool = [said for other, facts in load_world().notes.items() if other != topic for said in facts]
    if not 0 <= count <= len(pool):
        raise MechsteerError(f"notes must be 0 to {len(pool)}, got {count}.")
    rng = random.Random(seed)
    rng.shuffle(pool)
    first = [rng.choice(said) for said in pool[:count]]
    return f"Notes: {' '.join(first)}" if first else ""
