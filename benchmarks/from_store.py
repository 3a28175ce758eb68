"""What analyses cost from a store, against running the model for each of them; and their peak memory.

Prompts with an instruction and the same without, the residual stream after every layer at each prompt's last token
captured once into a store. Then similarity, separability and the differences in means of all layers: live, which
runs the model over all prompts, and from the store, opened anew each time (its checksums are verified). The two take
turns, round after round, in one process; ratios are taken within a round, in processor time too. The differences say
how far apart the two tables or vectors are; the two run other batches. Memory: in a process of its own, after a run on
ten prompts, the peak of resident memory of all three from the store above what was resident before. Linux only, for it
reads ``/proc``.

Run: ``.venv/bin/python benchmarks/from_store.py --model FOLDER`` (SmolLM2-135M-Instruct, 200 prompts: about 10 minutes
on one thread); without a folder on a bundled model (a minute).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import measure, peak_above, ratios, write

import mechsteer as ms
from mechsteer.directions import differences_in_means

INSTRUCTIONS = ("Answer in capitals.", "Answer in French.", "Use at most ten words.", "Write a list with bullets.")
FORMS = (
    "What is {}?",
    "Who uses {}?",
    "Why do people like {}?",
    "Where does {} come from?",
    "Tell me a fact about {}.",
)
THINGS = (
    "tea chess rain copper jazz bread snow salt maps silk paper glass honey clocks bridges wool ink sand tides soap"
).split()


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: Path | None = None
    """A checkpoint folder; default: a bundled model."""
    prompts: int = 200
    """How many, half of them with an instruction."""
    rounds: int = 2
    """How often each contestant runs."""
    threads: int = 1
    """PyTorch threads."""


def groups(model: Any, prompts: int) -> dict[str, list[ms.Prompt]]:
    """So many prompts, with and without an instruction; every question is another one."""
    questions = [form.format(thing) for form in FORMS for thing in THINGS]
    texts = [questions[i % len(questions)] + " " * (i // len(questions)) for i in range(prompts // 2)]
    given = [INSTRUCTIONS[i % len(INSTRUCTIONS)] for i in range(len(texts))]
    with_it = [ms.prompt(model, text, instruction=i) for text, i in zip(texts, given, strict=True)]
    return {"with": with_it, "without": [ms.prompt(model, text) for text in texts]}


ANALYSES: dict[str, Callable[..., Any]] = {
    "similarity": ms.similarity,
    "separability": ms.separability,
    "differences in means": differences_in_means,
}


def apart(a: Any, b: Any) -> float:
    """The largest difference of two results; of vectors, in units of their norm."""
    if isinstance(a, dict):
        return max(float((a[k].vector - b[k].vector).norm() / a[k].norm) for k in a)
    numbers = [table.select_dtypes("number").to_numpy() for table in (a, b)]
    return float(abs(numbers[0] - numbers[1]).max())


def times(model: Any, folder: Path, options: Options) -> pd.DataFrame:
    """One row a contestant."""
    made = groups(model, options.prompts)
    results: dict[str, Any] = {}

    def keep(name: str, run: Callable[[], Any]) -> Callable[[], None]:
        return lambda: results.update({name: run()})

    runs: dict[str, Callable[[], Any]] = {}
    for name, run in ANALYSES.items():
        runs[f"{name}, live"] = keep(f"{name}, live", lambda run=run: run(model, made))
        runs[f"{name}, from the store"] = keep(
            f"{name}, from the store", lambda run=run: run(ms.ActivationStore.open(folder))
        )
    few = {name: some[:5] for name, some in made.items()}
    for run in ANALYSES.values():
        run(model, few)
        run(ms.ActivationStore.open(folder), few)
    bases = {f"{name}, from the store": f"{name}, live" for name in ANALYSES}
    table = ratios(measure(runs, options.rounds, warm=False), bases)
    table["largest difference"] = [
        apart(results[name], results[bases[name]]) if name in bases else None for name in table["contestant"]
    ]
    return table.assign(part="time", prompts=options.prompts, layers=len(results["differences in means, live"]))


def peak(folder: Path, prompts: int) -> float:
    """The peak of the analyses from the store, MB, in this process."""
    store = ms.ActivationStore.open(folder)
    everything = {name: store.prompts(name) for name in ("with", "without")}

    def run(count: int) -> None:
        pairs = {name: some[: count // 2] for name, some in everything.items()}
        for analysis in ANALYSES.values():
            analysis(store, pairs)

    run(20)
    return peak_above(lambda: run(prompts))


def peaks(folder: Path, counts: Sequence[int], threads: int) -> pd.DataFrame:
    """One row a number of prompts, each in a process of its own."""
    rows = []
    for count in counts:
        command = [sys.executable, __file__, "--peak", str(folder), str(count), str(threads)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append({"part": "memory", "contestant": "all three, from the store", "prompts": count})
        rows[-1]["peak MB"] = float(json.loads(output.splitlines()[-1]))
    return pd.DataFrame(rows)


def main(options: Options) -> None:
    """Capture, measure, write."""
    torch.set_num_threads(options.threads)
    model = ms.load(str(options.model) if options.model else "organism:instruct-llama")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "timed"
        ms.capture(model, groups(model, options.prompts), sites="resid_post", store=folder, batch_size=16)
        table = times(model, folder, options)
        memory = peaks(folder, [options.prompts // 4, options.prompts // 2, options.prompts], options.threads)
    whole = pd.concat([table, memory], ignore_index=True).assign(model=ms.model_info(model).name.split("/")[-1])
    write(whole, "from_store", options.threads, options.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(int(sys.argv[4]))
        print(json.dumps(peak(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(tyro.cli(Options, description=__doc__))
