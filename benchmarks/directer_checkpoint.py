"""What DIRECTER costs on a model that chats: times plain greedy decoding, alone and in a batch.

Eight questions with the instruction "Answer in one sentence.", first one after the other, then as one batch. Both write
the same number of tokens, end tokens or not, so that the ratio is one of time per token; the ranking of the layers and
the reading of the prompt are in it. How often trials are needed depends on the model, and stands beside the ratio.

Run: ``.venv/bin/python benchmarks/directer_checkpoint.py --model FOLDER`` (or with MECHSTEER_BENCH_MODEL set; without
either there is nothing to measure). For a model of 135 M parameters about 8 minutes on two threads.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import RESULTS, measure, ratios, without_eos, write

import mechsteer as ms

QUESTIONS = (
    "What is a volcano?",
    "How do bees make honey?",
    "Why is the sky blue?",
    "What is a river?",
    "Who writes books?",
    "What do cats eat?",
    "How is bread made?",
    "What is the moon?",
)
INSTRUCTION = "Answer in one sentence."
PLAIN, OURS = "greedy", "DIRECTER"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: Path | None = None
    """A checkpoint folder; default: MECHSTEER_BENCH_MODEL where that is set."""
    batches: tuple[int, ...] = (1, 8)
    """Rows at once."""
    new: int = 64
    """New tokens of each row."""
    rounds: int = 5
    """How often each contestant runs."""
    threads: int = 2
    """PyTorch threads."""
    out: Path = RESULTS
    """Where the table goes."""


def compare(model: Any, options: Options, rows: int) -> pd.DataFrame:
    """Greedy and DIRECTER for one size of the batch."""
    prompts = [ms.prompt(model, question, instruction=INSTRUCTION) for question in QUESTIONS]

    def run(strategy: Any = None) -> ms.Generation:
        return ms.generate(model, prompts, strategy=strategy, max_new_tokens=options.new, batch_size=rows)

    runs: dict[str, Callable[[], Any]] = {PLAIN: run, OURS: lambda: run(ms.Directer())}
    table = ratios(measure(runs, options.rounds), {OURS: PLAIN})
    trace = run(ms.Directer()).trace
    needed = ~trace["skipped"]
    table.insert(0, "batch", rows)
    return table.assign(
        **{"steps that need trials": needed.mean(), "trials in such a step": trace.loc[needed, "trials"].mean()}
    )


def main(options: Options) -> None:
    """Measure the checkpoint, if one was named."""
    named = options.model or os.environ.get("MECHSTEER_BENCH_MODEL")
    if not named:
        print("No checkpoint was named (--model FOLDER, or MECHSTEER_BENCH_MODEL): nothing to measure.")
        return
    torch.set_num_threads(options.threads)
    model = ms.load(str(named))
    without_eos(model)
    tables = [compare(model, options, rows) for rows in options.batches]
    made = pd.concat(tables, ignore_index=True)
    made.insert(0, "model", Path(named).name)
    write(made, "directer_checkpoint", options.threads, options.rounds, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
