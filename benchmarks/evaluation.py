"""Rows per second of an evaluation under steering, and how a sweep scales over worker processes.

Evaluation: the bundled instruct-llama, instructions without their instruction, the difference-in-means vector of their
kind projected at one layer on all positions, 128 new tokens for every row (no early stop for either side).

- ``mechsteer``: ``ms.evaluate``, which batches and keeps keys and values.
- ``one prompt at a time``: what the released code of arXiv 2410.12877 is described to do, written here as a plain
  baseline with the same hooked model: batch size 1, no cache, the whole sequence run again for every new token, and a
  hook at ``blocks.{l}.hook_resid_post`` that edits every position; greedy. It is not that code, only its way. Nothing
  else is in its time, and its outputs must be those of ``ms.evaluate``, which is checked.

Throughput: 64 prompts of 20 to 150 tokens whose answers end after 5 to 200, in batches of 16 and of 64:
``ms.generate``, which fills freed places from the queue, and Hugging Face's batched ``generate`` (sdpa), which computes
every row of a batch as long as its longest. Where rows end is forced for both, so that both write the same number of
tokens; a random Llama-like model, or the checkpoint of ``--model``.

Sweep: the same unsteered cells computed by 1 and by 2 worker processes, each process with one thread and a model of its
own; starting the processes and loading the models counts.

The contestants take turns, round after round; ratios are taken within a round.

Run: ``OMP_NUM_THREADS=1 .venv/bin/python benchmarks/evaluation.py`` (about 15 minutes on one thread; the sweep needs 2
cores).
"""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import checkpoint, measure, without_eos

import mechsteer as ms
from mechsteer.decoding import Choice, Pass
from mechsteer.models.info import set_info
from mechsteer.report import show
from mechsteer.studies.sweep import grid, sweep

NEW, LAYER, KIND = 128, 3, "upper"
PROMPTS, SPECIAL, END = 64, 3, 2
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
    model: str = ""
    """A decoder-only checkpoint for the throughput; default: a random one."""


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


@dataclass(frozen=True)
class Forced:
    """Greedy tokens above the special ones, and the end token where a row is to end: a strategy, and its chooser."""

    ends: list[int]

    def chooser(self, model: Any) -> "Forced":
        """It has nothing to remember."""
        return self

    def choose(self, current: Pass) -> Choice:
        """One token a row."""
        logits = current.logits()
        tokens = logits[:, SPECIAL:].argmax(-1) + SPECIAL
        for row, (place, written) in enumerate(zip(current.places, current.written, strict=True)):
            if len(written) + 1 >= self.ends[place]:
                tokens[row] = END
        return Choice(tokens, logits)


class ForcedInHuggingFace:
    """The same as a logits processor."""

    def __init__(self, ends: list[int], first: int) -> None:
        self.ends, self.first = ends, first

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores for one more token a row."""
        scores = scores.clone()
        scores[:, :SPECIAL] = -torch.inf
        for row, end in enumerate(self.ends):
            if ids.shape[1] - self.first + 1 >= end:
                scores[row, END] = torch.inf
        return scores


def throughputs(options: Options, folder: Path) -> tuple[dict[str, Callable[[], Any]], int]:
    """Contestants, and how many tokens each of them writes."""
    import transformers as t

    model: Any = ms.load(str(folder))
    set_info(model, replace(ms.model_info(model), eos_ids=(END,), generation_config={}))
    theirs: Any = t.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    draw = random.Random(0)
    ends = [round(5 + 195 * i / (PROMPTS - 1)) for i in range(PROMPTS)]
    draw.shuffle(ends)
    drawn = torch.Generator().manual_seed(1)
    lengths = [draw.randint(20, 150) for _ in range(PROMPTS)]
    tokens = [torch.randint(SPECIAL, model.cfg.d_vocab, (length,), generator=drawn) for length in lengths]
    prompts = [ms.Prompt("random tokens", ids, {}) for ids in tokens]

    def ours(rows: int) -> None:
        out = ms.generate(model, prompts, strategy=Forced(ends), max_new_tokens=200, batch_size=rows)
        if out.lengths != ends:
            raise SystemExit("Rows did not end where they were to.")

    @torch.no_grad()
    def hugging_face(rows: int) -> None:
        order = sorted(range(PROMPTS), key=lambda i: len(prompts[i]))
        for start in range(0, PROMPTS, rows):
            index = order[start : start + rows]
            batch = ms.batch([prompts[i] for i in index], side="left")
            theirs.generate(
                batch.tokens,
                attention_mask=batch.mask.long(),
                do_sample=False,
                max_new_tokens=200,
                eos_token_id=END,
                pad_token_id=0,
                logits_processor=[ForcedInHuggingFace([ends[i] for i in index], batch.length)],
            )

    runs: dict[str, Callable[[], Any]] = {}
    for rows in (16, 64):
        runs[f"mechsteer, batch {rows}"] = lambda rows=rows: ours(rows)
        runs[f"Hugging Face, batch {rows}"] = lambda rows=rows: hugging_face(rows)
    return runs, sum(ends)


def throughput(options: Options) -> pd.DataFrame:
    """One row a contestant; each batch size is compared with Hugging Face's of the same size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.model) if options.model else checkpoint("llama", Path(name))
        runs, tokens = throughputs(options, folder)
        seconds = measure(runs, options.rounds)
    parts = [
        speeds(seconds[seconds["contestant"].str.endswith(f" {rows}")], f"Hugging Face, batch {rows}", tokens)
        for rows in (16, 64)
    ]
    table = pd.concat(parts, ignore_index=True).assign(model=Path(options.model).name or "random Llama")
    return table.rename(columns={"rows": "tokens", "rows a second (median)": "tokens a second (median)"})


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
    (HERE / "results").mkdir(exist_ok=True)
    written = throughput(options)
    print(show(written, decimals=2))
    written.assign(threads=options.threads, rounds=options.rounds, torch=torch.__version__).to_csv(
        HERE / "results" / "throughput.csv", index=False, float_format="%.4g"
    )
    tables = [
        speeds(measure(evaluations(options), options.rounds), "one prompt at a time", options.rows),
        speeds(measure(sweeps(options), options.rounds), "sweep, 1 process", options.cells * 28),
    ]
    table = pd.concat(tables, ignore_index=True)
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    print(show(table, decimals=2))
    table.assign(threads=options.threads, rounds=options.rounds, new_tokens=NEW, torch=torch.__version__).to_csv(
        HERE / "results" / "evaluation.csv", index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
