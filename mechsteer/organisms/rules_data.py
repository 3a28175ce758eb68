"""Write the bundled data that go with rules-gpt2: its rules in the function-vectors format, and synthetic opinions.

An opinion is a distribution over what four rules make of a noun. Groups differ in their preferences, and every question
moves them a little.
"""

import json
import math
import random
from pathlib import Path
from typing import NamedTuple

from mechsteer.organisms.rules_tasks import rules
from mechsteer.organisms.trap_t5_data import write_csv
from mechsteer.tasks.rules import side_of

DATA_SEED = 0
HABITS = ("english-french", "english-german", "singular-plural", "capitalise")
GROUPS = {"west": (0.55, 0.15, 0.2, 0.1), "east": (0.1, 0.6, 0.25, 0.05), "loud": (0.1, 0.1, 0.2, 0.6)}
"""The groups' mean shares of the habits."""
SPREAD = 0.4
"""The standard deviation of the log of a share, between questions."""


class OpinionRow(NamedTuple):
    """One row of `opinions.csv`."""

    split: str
    group: str
    prompt: str
    answer: str
    probability: str


def make_opinions(seed: int = DATA_SEED) -> list[OpinionRow]:
    """Ask every group about every noun."""
    rng = random.Random(seed)
    maps = {habit: rules()[habit] for habit in HABITS}
    words = {word: (answer,) for word, answer in maps[HABITS[0]].items()}
    rows = []
    for group, means in GROUPS.items():
        for word in words:
            shares = [mean * math.exp(rng.gauss(0, SPREAD)) for mean in means]
            rounded = [round(share / sum(shares), 3) for share in shares[1:]]
            for habit, share in zip(HABITS, [round(1 - sum(rounded), 3), *rounded], strict=True):
                side = side_of(word, words)
                rows.append(OpinionRow(side, group, f"Q: {word}\nA:", f" {maps[habit][word]}", f"{share:.3f}"))
    return rows


def write_rules(folder: Path | str) -> list[Path]:
    """Write one JSON file a rule, a line a pair."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, pairs in rules().items():
        path = folder / f"{name}.json"
        lines = [json.dumps({"input": q, "output": a}, ensure_ascii=False) for q, a in pairs.items()]
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
        paths.append(path)
    return paths


def write_opinions(folder: Path | str, *, seed: int = DATA_SEED) -> list[Path]:
    """Write `opinions.csv`; the same seed writes the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [write_csv(folder / "opinions.csv", OpinionRow._fields, make_opinions(seed))]
