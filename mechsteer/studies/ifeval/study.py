"""IFEval (arXiv 2311.07911) as GUIDE's and DIRECTER's papers use it: ways to ask and ways to steer, side by side.

The prompts need to say where their instruction stands (:mod:`mechsteer.tasks.ifeval_file`). Rows: the prompts as they
are; with asterisks around the instruction; and GUIDE, PASTA (all heads), SpotLight and DIRECTER, each with the setting
that follows most, of those that keep quality, on prompts of the other half (:mod:`mechsteer.studies.ifeval.choose`). So
all prompts are reported, each with a setting that it had no part in.

Different from the papers: the public prompts instead of ones that a language model rewrote, quality measured beside
adherence, and no setting taken from another model.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.errors import MechsteerError, positive_int
from mechsteer.evaluation import timed
from mechsteer.files import digest, writable_dir
from mechsteer.measured import Run
from mechsteer.models import is_encoder_decoder, load, provenance
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.ifeval.choose import choose
from mechsteer.studies.ifeval.methods import Method, Steering, marked, named
from mechsteer.studies.ifeval.tables import by_instruction, shares, summary
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import IFEval, ifeval
from mechsteer.tasks.ifeval import require_checkers
from mechsteer.tasks.ifeval_file import selected
from mechsteer.tasks.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

NAME = "ifeval"
ASKED = ("unsteered", "*-marked")


def run(
    model: Any,
    out: str | os.PathLike[str] = "results/ifeval",
    *,
    data: str | os.PathLike[str] | IFEval | None = None,
    n: int | None = None,
    kinds: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    validation: int = 40,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    draw: bool = True,
    progress: bool = True,
    executor: Executor | None = None,
) -> Result:
    """Run the study; a run that was killed continues where it was, in the middle of a method too.

    Args:
        model: A loaded model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        data: IFEval's JSONL file or the task that :func:`mechsteer.tasks.ifeval` makes of it.
        n: So many prompts only, the first ones. Default: all.
        kinds: Prompts with at least one of these instructions only.
        methods: Some of GUIDE, PASTA, SpotLight and DIRECTER. Default: all.
        validation: How many prompts of each half settings are chosen on, at most.
        max_new_tokens: The most new tokens of an answer.
        batch_size: Prompts computed together; does not change the results.
        draw: Draw the figure; without, ``Result.figures()`` draws it.
        progress: Show a bar of all answers, with the time that is left.
        executor: None; answers are kept as they come, and one process makes them.

    Returns:
        ``summary`` (see :func:`mechsteer.studies.ifeval.tables.summary`), ``by_instruction``, ``validation`` (each
        setting that was tried, whether it was chosen and is the end of its ladder) and ``rows``.

    Raises:
        MechsteerError: if the checkers are missing, a prompt does not say where its instruction stands, no prompt fits
            the model's context, or for bad arguments.
    """
    positive_int("validation", validation)
    positive_int("max_new_tokens", max_new_tokens)
    ladders = named(methods)
    task = prompts_of(data, n, kinds)
    one_process(executor)
    folder = writable_dir(out)
    loaded = load(model) if isinstance(model, str) else model
    kept = fitting(loaded, replace(task, max_new_tokens=max_new_tokens))
    halves = [kept.on(split) for split in SPLITS]
    answers = sum(len(half.samples) * (len(ASKED) + len(ladders)) for half in halves)
    answers += sum(min(validation, len(half.samples)) * sum(len(m.ladder) for m in ladders) for half in halves)
    with tqdm(desc=NAME, unit="answer", total=answers, disable=not progress) as bar:
        bench = Bench(loaded, folder, batch_size, bar)
        tables = _tables(bench, kept, halves, ladders, validation)
    left = len(task.samples) - len(kept.samples)
    tables = {name: table.assign(n_left_out=left, **provenance(loaded)) for name, table in tables.items()}
    about = {"validation": validation, "max_new_tokens": max_new_tokens, "data": task.name, "data_hash": task.data_hash}
    return finished(NAME, folder, {**about, **provenance(loaded)}, tables, draw=draw)


def one_process(executor: Executor | None) -> None:
    """Refuse workers.

    Raises:
        MechsteerError: for an executor.
    """
    if executor is not None:
        raise MechsteerError("Studies of IFEval run in one process, which can be stopped and goes on: no workers.")


def prompts_of(data: str | os.PathLike[str] | IFEval | None, n: int | None, kinds: Sequence[str] | None) -> IFEval:
    """The prompts, which all say where their instruction stands.

    Raises:
        MechsteerError: without data or the checkers, or for a prompt that does not say it.
    """
    if data is None:
        raise MechsteerError(
            "This study needs IFEval's prompts: data=..., a JSONL file with 'prompt_without_instruction' in its lines."
        )
    require_checkers()
    task = selected(data, n, kinds) if isinstance(data, IFEval) else ifeval(data, n=n, kinds=kinds)
    lost = [sample.key for sample in task.samples if sample.asked is None]
    if lost:
        raise MechsteerError(
            f"{len(lost)} of {len(task.samples)} prompts do not say where their instruction is, e.g. key {lost[0]}; "
            "their lines need 'prompt_without_instruction', 'instruction', or tags around it in the prompt."
        )
    return task


def fitting(model: Any, task: IFEval) -> IFEval:
    """The prompts that leave room for their answers."""
    if is_encoder_decoder(model):
        return task
    room = model.cfg.n_ctx - task.max_new_tokens
    lengths = [max(len(p), len(q)) for p, q in zip(task.prompts(model), marked(task).prompts(model), strict=True)]
    kept = tuple(s for s, length in zip(task.samples, lengths, strict=True) if length <= room)
    if not kept:
        raise MechsteerError(
            f"None of {len(lengths)} prompts fits this model's context of {model.cfg.n_ctx} tokens with "
            f"max_new_tokens={task.max_new_tokens}; the shortest has {min(lengths)}."
        )
    return replace(task, samples=kept)


@dataclass
class Bench:
    """Where answers are made and kept.

    Attributes:
        model: The model.
        folder: The study's folder.
        batch_size: Prompts computed together.
        bar: Moves with every answer.
    """

    model: Any
    folder: Path
    batch_size: int
    bar: tqdm

    def rows(self, task: IFEval, steering: Steering = (None, None)) -> "tuple[pd.DataFrame, float]":
        """The rows of a task with quality, and the seconds that the answers took."""
        job = Run(self.model, task, *steering, self.batch_size, quality=True)
        self.bar.set_postfix_str(f"{task.name} {steering[1] or (steering[0] or 'unsteered')}"[:60])
        found = timed(job, self.folder / "answers" / digest(job.key()))
        self.bar.update(len(task.samples))
        return found


def _tables(
    bench: Bench, task: IFEval, halves: Sequence[IFEval], methods: Sequence[Method], validation: int
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    rows: list[pd.DataFrame] = []
    tried: list[pd.DataFrame] = []
    seconds: dict[str, float] = {}
    settings: dict[str, list[float]] = {}

    def add(name: str, half: IFEval, asked: IFEval, steering: Steering = (None, None)) -> "pd.DataFrame":
        table, took = bench.rows(asked, steering)
        seconds[name] = seconds.get(name, 0.0) + took
        texts = [sample.prompt for sample in half.samples]
        rows.append(
            table.assign(prompt_text=texts, key_half=[f"{s.key} {t}" for s, t in zip(half.samples, texts, strict=True)])
        )
        rows[-1].insert(0, "name", name)
        return table

    for half in halves:
        add("unsteered", half, half)
    for half in halves:
        add("*-marked", half, marked(half))
    for method in methods:
        settings[method.name] = []
        for half, other in zip(halves, reversed(halves), strict=True):
            table = _tried(bench, method, replace(other, samples=other.samples[:validation]))
            setting = float(table.loc[table["chosen"], "setting"].iloc[0])
            tried.append(table)
            settings[method.name].append(setting)
            add(method.name, half, half, method.make(setting))
    together = pd.concat(rows, ignore_index=True)
    return {
        "summary": summary(together, settings, seconds),
        "by_instruction": by_instruction(together, task),
        "validation": pd.concat(tried, ignore_index=True)
        if tried
        else pd.DataFrame(columns=["name", "chosen", "edge"]),
        "rows": together.drop(columns=["prompt_text", "key_half"]),
    }


def _tried(bench: Bench, method: Method, task: IFEval) -> "pd.DataFrame":
    """The settings of a method on validation prompts."""
    import pandas as pd

    plain = shares(bench.rows(task)[0])
    bench.bar.update(-len(task.samples))  # not counted: the same for all methods
    found = [{"setting": s, **shares(bench.rows(task, method.make(s))[0])} for s in method.ladder]
    table = pd.DataFrame(found)
    chosen = choose(method, table, plain["collapsed"])
    table.insert(0, "name", method.name)
    return table.assign(
        unsteered_loose=plain["prompt_loose"],
        unsteered_collapsed=plain["collapsed"],
        split=task.name,
        chosen=table["setting"] == chosen,
        edge=[method.at_edge(s) for s in table["setting"]],
    )
