"""Write the bundled data of the instruction task: prompts, and the facts that say whether an answer is right.

`facts.csv` has the five facts of each topic, `prompts.csv` one row per prompt. A row's topic and keyword belong to its
split: `validation` is for choosing layers and strengths, `evaluation` for reporting. `topics` says whether training had
instructions about the topic (`trained`) or only documents and plain questions (`held_out`).
"""

import random
from pathlib import Path
from typing import NamedTuple

from mechsteer.organisms.instruct_tasks import KINDS, QUESTIONS, WORDINGS, make_instruction
from mechsteer.organisms.instruct_world import EVALUATION, HELD_OUT, TOPICS, TRAINED, VALIDATION, deal, facts
from mechsteer.organisms.trap_t5_data import write_csv

DATA_SEED = 0
N_TRAINED_WORDINGS = len(WORDINGS[KINDS[0]]) - 1


class FactRow(NamedTuple):
    """One row of `facts.csv`."""

    topic: str
    english: str
    other_english: str
    french: str


class PromptRow(NamedTuple):
    """One row of `prompts.csv`; `held_out_wording` says the same as `instruction`, in words that training never had."""

    split: str
    topics: str
    kind: str
    topic: str
    task: str
    instruction: str
    held_out_wording: str
    limit: str
    word: str


def make_facts() -> list[FactRow]:
    """List the facts of all topics."""
    return [FactRow(topic, *fact.english, fact.french) for topic in TOPICS for fact in facts(topic)]


def make_prompts(seed: int = DATA_SEED) -> list[PromptRow]:
    """Instruct every topic once in every kind."""
    rng = random.Random(seed)
    return [
        make_prompt(rng, split, topics, kind, topic)
        for split in (VALIDATION, EVALUATION)
        for topics in (TRAINED, HELD_OUT)
        for kind in KINDS
        for topic in deal().topics[topics, split]
    ]


def make_prompt(rng: random.Random, split: str, topics: str, kind: str, topic: str) -> PromptRow:
    """Draw question, wording, and number or word of one row."""
    instruction = make_instruction(rng, kind, rng.randrange(N_TRAINED_WORDINGS), deal().words[split])
    held_out = WORDINGS[kind][-1].format(limit=instruction.limit, word=instruction.word)
    return PromptRow(
        split,
        topics,
        kind,
        topic,
        rng.choice(QUESTIONS).format(topic=topic),
        instruction.text,
        held_out,
        str(instruction.limit or ""),
        instruction.word,
    )


def write_instructions(folder: Path | str, *, seed: int = DATA_SEED) -> list[Path]:
    """Write `facts.csv` and `prompts.csv`; the same seed writes the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_csv(folder / "facts.csv", FactRow._fields, make_facts()),
        write_csv(folder / "prompts.csv", PromptRow._fields, make_prompts(seed)),
    ]
