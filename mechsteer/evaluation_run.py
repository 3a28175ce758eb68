"""A task's rows with the columns of quality, computed at once or in parts that a killed run continues from."""

import time
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.decoding import Directer, Greedy, Sample, Strategy
from mechsteer.decoding.loop import MAX_BATCH_TOKENS
from mechsteer.decoding.watched import Watched
from mechsteer.errors import positive_int
from mechsteer.files import remove, writable_dir, write_record
from mechsteer.identity import cell_key
from mechsteer.quality.columns import as_numbers, asked_of, surprise_columns, text_columns, token_columns
from mechsteer.resumable import Parts
from mechsteer.steering import Intervention
from mechsteer.tasks.check_identity import identity_of_task

if TYPE_CHECKING:
    import pandas as pd

SECONDS = "seconds_of_part"
RECORD = "evaluation.json"


@dataclass(frozen=True)
class Run:
    """What is computed.

    Attributes:
        model: A loaded model.
        task: The task.
        steer: The intervention.
        strategy: The strategy; None for greedy.
        batch_size: Prompts computed together.
        quality: Whether surprise is measured.
        progress: Show a bar.
        generation_config: Whether the checkpoint's generation configuration is applied.
        max_batch_tokens: The most positions computed together; does not decide the rows.
    """

    model: Any
    task: Any
    steer: Intervention | None
    strategy: Strategy | None
    batch_size: int = 64
    quality: bool = False
    progress: bool = False
    generation_config: bool = True
    max_batch_tokens: int = MAX_BATCH_TOKENS

    def key(self) -> str:
        """What decides the rows; the check of an own task does not: scores are made again from outputs."""
        task = [self.task.name, self.task.data_hash, self.task.samples, getattr(self.task, "max_new_tokens", None)]
        if type(self.task).__module__.partition(".")[0] != "mechsteer":  # of another, its own way to run decides too
            task.append(identity_of_task(self.task))
        options = {"quality": self.quality, "generation_config": self.generation_config}
        return cell_key(self.model, task, self.steer, self.strategy, options)

    def options(self) -> dict[str, Any]:
        """What the task hands on to ``generate``; nothing where all is as usual, which tasks without it can run."""
        given = {"generation_config": self.generation_config, "max_batch_tokens": self.max_batch_tokens}
        usual = {"generation_config": True, "max_batch_tokens": MAX_BATCH_TOKENS}
        return {name: value for name, value in given.items() if value != usual[name]}

    def divisible(self) -> bool:
        """Whether a part of the samples gives the rows that it has among all of them.

        Not where the length of answers depends on all samples, nor where an edit means rows by number or DIRECTER
        shuffles layers or has a threshold by it; a sampler draws by it too, and is told where the part begins.
        """
        rows = self.steer is not None and any(edit.scope.rows is not None for edit in self.steer.edits)
        gate = self.strategy
        numbered = isinstance(gate, Directer) and (gate.order == "random" or not isinstance(gate.beta, float | int))
        return is_dataclass(self.task) and hasattr(self.task, "max_new_tokens") and not (rows or numbered)

    def rows(self, first: int, end: int, *, progress: bool = False) -> "pd.DataFrame":
        """The rows of some samples: the task's columns, then those of quality."""
        whole = (first, end) == (0, len(self.task.samples))
        task = self.task if whole else replace(self.task, samples=self.task.samples[first:end])
        generates = hasattr(task, "max_new_tokens")
        watched = Watched(self.strategy or Greedy(), first if isinstance(self.strategy, Sample) else 0)
        began = time.perf_counter()
        table = task.run(
            self.model,
            steer=self.steer,
            strategy=watched if generates else self.strategy,
            batch_size=self.batch_size,
            progress=progress,
            **self.options(),
        )
        seconds = time.perf_counter() - began
        if "sample" in table and first:
            table["sample"] += first
        extra = self._quality(table, watched, task)
        new = {name: values for name, values in extra.items() if name not in table}
        return as_numbers(table.assign(**new, **{SECONDS: seconds / max(1, len(table))}))

    def _quality(self, table: "pd.DataFrame", watched: Watched, task: Any) -> dict[str, list[Any]]:
        if "output" not in table:
            return {}
        outputs, count = list(table["output"]), len(table)
        if len(watched.runs) != 1 or sorted(watched.runs[0].written) != list(range(count)):
            return text_columns(outputs, list(table["prompt"]) if "prompt" in table else [""] * count)
        (run,) = watched.runs
        made = text_columns(outputs, [asked_of(self.model, run.prompts[place]) for place in range(count)])
        made = token_columns(self.model, run, count, task.max_new_tokens) | made
        return made | (surprise_columns(self.model, run, count, self.batch_size) if self.quality else {})


def measured(run: Run, out: Path | None) -> "tuple[pd.DataFrame, list[str], float]":
    """All rows; the names of the columns that the task itself did not make; the seconds that generating took."""
    total = len(run.task.samples)
    if out is None:
        table = run.rows(0, total, progress=run.progress)
    else:
        table = _kept(run, out, total)
    seconds = float(table[SECONDS].sum())
    columns = list(table.columns)
    own = _own(columns)
    return table.drop(columns=SECONDS), [name for name in columns[own:] if name != SECONDS], seconds


def _own(columns: "list[str]") -> int:
    """How many of the columns the task itself made."""
    return columns.index(next((name for name in ("n_tokens", "empty") if name in columns), SECONDS))


def _kept(run: Run, out: Path, total: int) -> "pd.DataFrame":
    """The rows, from the folder where they are there."""
    key, size = run.key(), positive_int("batch_size", run.batch_size) if run.divisible() else total
    begin(out, key)
    with tqdm(total=total, desc=run.task.name, unit="sample", disable=not run.progress) as bar:

        def compute(first: int, end: int) -> "pd.DataFrame":
            bar.update(first - bar.n)
            table = run.rows(first, end)
            bar.update(end - first)
            return table

        table, before = Parts(out / "parts" / key, total).complete(size, compute)
    columns = list(map(str, table.columns))
    own, end = _own(columns), columns.index(SECONDS) + 1  # behind it are scores of later parts alone: to the others
    table = table[[*columns[:own], *columns[end:], *columns[own:end]]]
    return as_numbers(scored_again(run.task, table) if before else table)


def scored_again(task: Any, table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows with the scores that the task's check gives now; a row may lack some that others have."""
    import pandas as pd

    if not hasattr(task, "scores") or len(table) != len(task.samples):
        return table
    answered = zip(task.samples, table["output"], strict=True)
    scores = pd.DataFrame([task.scores(sample, output) for sample, output in answered])
    return table.assign(**{str(name): scores[name] for name in scores})


def begin(out: Path, key: str) -> None:
    """Say what the folder is about to hold; rows of another evaluation go, for they could be taken for these."""
    writable_dir(out)
    for name in ("rows.parquet", "rows.csv", RECORD):
        remove(out / name)
    write_record(out / RECORD, {"key": key, "complete": False})
