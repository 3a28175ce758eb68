"""Write the bundled data sets that go with trap-t5: traps in MemoTrap's format, and the two side-effect sets.

`traps.csv` has MemoTrap's columns `prompt`, `classes` (a Python list of two endings, as text) and `answer_index` (which
of them was instructed), and two more: `split` and `proverb`. The `mining` rows are for estimating steering vectors, the
`evaluation` rows for reporting; they share no proverb and no instructed word.
"""

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mechsteer.organisms.language import (
    EVALUATION,
    MINING,
    Proverb,
    Splits,
    load_proverbs,
    make_splits,
    neutral_sentence,
)
from mechsteer.organisms.trap_t5_tasks import INSTRUCTION, RECALL

DATA_SEED = 0
N_COPY_ROWS = 200
WORDS_PER_PROVERB = {MINING: 1, EVALUATION: 2}


class Trap(NamedTuple):
    """One row of `traps.csv`."""

    prompt: str
    classes: str
    answer_index: int
    split: str
    proverb: str


class Question(NamedTuple):
    """One row of `recall.csv` or `copy.csv`."""

    prompt: str
    answer: str


def make_traps(splits: Splits, seed: int = DATA_SEED) -> list[Trap]:
    """Instruct every mining proverb with one word and every evaluation proverb with two."""
    rng = random.Random(seed)
    return [
        make_trap(rng, proverb, word, split)
        for split, count in WORDS_PER_PROVERB.items()
        for proverb in splits.proverbs[split]
        for word in rng.sample(words_beside(proverb, splits.words[split]), count)
    ]


def make_trap(rng: random.Random, proverb: Proverb, word: str, split: str) -> Trap:
    """Instruct one proverb with one word, and put the two endings in random order."""
    answer_index = rng.randrange(2)
    endings = [f" {proverb.ending}"]
    endings.insert(answer_index, f" {word}")
    return Trap(INSTRUCTION.format(word=word, text=proverb.opening), repr(endings), answer_index, split, proverb.text)


def words_beside(proverb: Proverb, words: Sequence[str]) -> list[str]:
    """Return the words that do not occur in the proverb."""
    inside = set(proverb.text.lower().split())
    return [word for word in words if word not in inside]


def make_recall(splits: Splits) -> list[Question]:
    """Ask for the last word of every evaluation proverb, without any instruction."""
    return [Question(RECALL.format(text=p.opening), p.ending) for p in splits.proverbs[EVALUATION]]


def make_copy(splits: Splits, seed: int = DATA_SEED) -> list[Question]:
    """Instruct neutral sentences with words of the evaluation split."""
    rng = random.Random(seed + 1)
    rows = []
    for _ in range(N_COPY_ROWS):
        opening = " ".join(neutral_sentence(rng)[:-1])
        word = rng.choice([word for word in splits.words[EVALUATION] if word not in opening.lower().split()])
        rows.append(Question(INSTRUCTION.format(word=word, text=opening), word))
    return rows


def write_tasks(folder: Path | str, *, seed: int = DATA_SEED) -> list[Path]:
    """Write `traps.csv`, `recall.csv` and `copy.csv`; the same seed writes the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = make_splits(load_proverbs())
    tables = {
        "traps.csv": (Trap._fields, make_traps(splits, seed)),
        "recall.csv": (Question._fields, make_recall(splits)),
        "copy.csv": (Question._fields, make_copy(splits, seed)),
    }
    return [write_csv(folder / name, header, rows) for name, (header, rows) in tables.items()]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[tuple[object, ...]]) -> Path:
    """Write one table with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path
