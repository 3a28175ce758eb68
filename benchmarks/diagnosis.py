"""How often the planted causes of ``tests/planted.py`` are named, over seeds, a compliant model among them.

Run: ``.venv/bin/python -m benchmarks.diagnosis`` (about six minutes on one core for 20 seeds). Exit code 1 if a cause
is named in less than nine of ten seeds.
"""

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from transformers.utils import logging

import mechsteer as ms
from mechsteer.report import show
from tests.planted import PLANTS, planted_task, varied, write_plant

NEEDED = 0.9


@dataclass(frozen=True)
class Options:
    """What is run."""

    seeds: int = 20
    """Seeds of each cause."""
    only: tuple[str, ...] = ()
    """Causes; default all."""
    n: int = 20
    """Prompts of a task."""


def named(cause: str, seed: int, n: int) -> str:
    """What the diagnosis of one planted model says."""
    plant = varied(PLANTS[cause], seed)
    with tempfile.TemporaryDirectory() as folder:
        model = ms.load(str(write_plant(plant, Path(folder), seed)))
    return ms.diagnose(model, planted_task(model, plant, seed, n)).cause


def main(options: Options) -> None:
    """Print the table."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    for cause in options.only or PLANTS:
        said = Counter(named(cause, seed, options.n) for seed in range(options.seeds))
        others = ", ".join(f"{name} ({count})" for name, count in said.most_common() if name != cause)
        rows.append({"planted": cause, "seeds": options.seeds, "named": said[cause], "otherwise": others or "-"})
        print(f"{cause}: {said[cause]} of {options.seeds}", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    print(show(table))
    sys.exit(int((table["named"] < NEEDED * table["seeds"]).any()))


if __name__ == "__main__":
    main(tyro.cli(Options))
