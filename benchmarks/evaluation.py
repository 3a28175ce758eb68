"""Rows per second of an evaluation under steering, and how a sweep scales over worker processes.

Evaluation: the bundled instruct-llama, instructions without their instruction, the difference-in-means vector of their
kind projected at one layer on all positions, 128 new tokens for every row (no early stop for either side).

- ``mechsteer``: ``ms.evaluate``, which batches and keeps keys and values.
- ``one prompt at a time``: what the released code of arXiv 2410.12877 is described to do, written here as a plain
  baseline with the same hooked model: batch size 1, no cache, the whole sequence run again for every new token, and a
  hook at ``blocks.{l}.hook_resid_post`` that edits every position; greedy. It is not that code, only its way. Nothing
  else is in its time, and its outputs must be those of ``ms.evaluate``, which is checked.

Sweep: the same unsteered cells computed by 1 and by 2 worker processes, each process with one thread and a model of its
own; starting the processes and loading the models counts.

The contestants take turns, round after round; ratios are taken within a round.

Run: ``OMP_NUM_THREADS=1 .venv/bin/python benchmarks/evaluation.py`` (about 15 minutes on one thread; the sweep needs 2
cores).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import measure, without_eos

import mechsteer as ms
from mechsteer.report import show
from mechsteer.studies.sweep import grid, sweep

NEW, LAYER, KIND = 128, 3, "upper"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """How often each contestant runs."""
    rows: int = 28
    """Prompts that are evaluated."""
    cells: int = 24
    """Cells of the sweep."""
    threads: int = 1
    """PyTorch threads."""


def one_at_a_time(model: Any, task: Any, direction: ms.Direction) -> list[str]:
    """Batch size 1, no cache, everything again for each token, a hook that edits all positions."""
    unit, target = direction.unit, direction.mean_projection

    def hook(x: torch.Tensor, hook: Any) -> torch.Tensor:
        return x + (target - x @ unit)[..., None] * unit

    outputs = []
    for prompt in task.prompts(model):
        tokens = prompt.tokens[None]
        first = tokens.shape[1]
        with torch.no_grad():
            for _ in range(task.max_new_tokens):
                logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{LAYER}.hook_resid_post", hook)])
                tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        outputs.append(model.tokenizer.decode(tokens[0, first:], skip_special_tokens=True))
    return outputs


def evaluations(options: Options) -> dict[str, Callable[[], Any]]:
    """Both ways of evaluating the same rows."""
    model = ms.load("organism:instruct-llama")
    without_eos(model)
    validation = ms.tasks.instructions(KIND, split="validation")
    with_it, without = (validation.prompts(model, with_instruction=wanted) for wanted in (True, False))
    direction = ms.difference_in_means(model, list(zip(with_it, without, strict=True)), layer=LAYER)
    task = replace(ms.tasks.instructions(KIND, with_instruction=False, n=options.rows), max_new_tokens=NEW)
    if len(task.samples) != options.rows:
        raise SystemExit(f"There are only {len(task.samples)} prompts of this kind.")
    steer = ms.project(direction)
    runs = {
        "mechsteer": lambda: ms.evaluate(model, task, steer=steer),
        "one prompt at a time": lambda: one_at_a_time(model, task, direction),
    }
    ours, theirs = runs["mechsteer"]()["output"].tolist(), runs["one prompt at a time"]()
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{same} of {len(ours)} outputs are the same")
    if same < 0.9 * len(ours):  # a near-tie may go either way in a batch
        raise SystemExit("The two ways do not compute the same.")
    return runs


def sweeps(options: Options) -> dict[str, Callable[[], Any]]:
    """The same cells over one and two processes, each time in a new folder."""
    task = {"task": "instructions", "kind": KIND, "with_instruction": False, "n": 28}
    # Sampling with different seeds, so that the cells differ and cost the same.
    cells = grid(model="organism:instruct-llama", **task, temperature=0.5, seed=range(options.cells))

    def run(workers: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            result = sweep(cells, folder, executor="processes", workers=workers, progress=False)
            if set(result.summary["state"]) != {"finished"}:
                raise SystemExit(f"A cell failed: {result.summary['error'].iloc[0]}")

    return {"sweep, 2 processes": lambda: run(2), "sweep, 1 process": lambda: run(1)}


def speeds(seconds: pd.DataFrame, base: str, rows: int) -> pd.DataFrame:
    """Median rows a second, and how many times as fast as the base in the same round: median and range."""
    wide = seconds.pivot(index="round", columns="contestant", values="seconds")
    times = wide.rdiv(wide[base], axis=0)
    order = list(dict.fromkeys(seconds["contestant"]))
    return pd.DataFrame(
        {
            "contestant": order,
            "rows": rows,
            "median seconds": [wide[name].median() for name in order],
            "rows a second (median)": [rows / wide[name].median() for name in order],
            "compared with": base,
            "times as fast (median)": [times[name].median() for name in order],
            "smallest": [times[name].min() for name in order],
            "largest": [times[name].max() for name in order],
        }
    )


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    tables = [
        speeds(measure(evaluations(options), options.rounds), "one prompt at a time", options.rows),
        speeds(measure(sweeps(options), options.rounds), "sweep, 1 process", options.cells * 28),
    ]
    table = pd.concat(tables, ignore_index=True)
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    print(show(table, decimals=2))
    (HERE / "results").mkdir(exist_ok=True)
    table.assign(threads=options.threads, rounds=options.rounds, new_tokens=NEW, torch=torch.__version__).to_csv(
        HERE / "results" / "evaluation.csv", index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
