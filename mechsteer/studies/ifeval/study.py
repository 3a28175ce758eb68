"""IFEval (arXiv 2311.07911) as GUIDE's and DIRECTER's papers use it: ways to ask and ways to steer, side by side.

The prompts need to say where their instruction stands (:mod:`mechsteer.tasks.ifeval.file`). Rows: the prompts as they
are; with asterisks around the instruction; and GUIDE, PASTA (all heads), SpotLight and DIRECTER, each with a setting
chosen on prompts of the other half: the mildest that the best cannot be told from, of those that keep quality
(:mod:`mechsteer.studies.ifeval.choose`). So all prompts are reported, each with a setting that it had no part in.

Different from the papers: the public prompts instead of ones that a language model rewrote, quality measured beside
adherence, and no setting taken from another model.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.errors import positive_int
from mechsteer.files import writable_dir
from mechsteer.models import load, provenance
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.ifeval.answers import answers, fitting, one_process, prompts_of
from mechsteer.studies.ifeval.choose import choose
from mechsteer.studies.ifeval.methods import Method, Steering, marked, named
from mechsteer.studies.ifeval.tables import by_instruction, summary
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import IFEval
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
    kinds: str | Sequence[str] | None = None,
    methods: str | Sequence[str] | None = None,
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
        setting that was tried; see :func:`mechsteer.studies.ifeval.choose.choose`) and ``rows``.

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
    total = sum(len(half.samples) * (len(ASKED) + len(ladders)) for half in halves)
    total += sum(min(validation, len(half.samples)) * sum(len(m.ladder) for m in ladders) for half in halves)
    with tqdm(desc=NAME, unit="answer", total=total, disable=not progress) as bar:
        bench = Bench(loaded, folder, batch_size, bar)
        tables = _tables(bench, kept, halves, ladders, validation)
    left = len(task.samples) - len(kept.samples)
    tables = {name: table.assign(n_left_out=left, **provenance(loaded)) for name, table in tables.items()}
    about = {"validation": validation, "max_new_tokens": max_new_tokens, "data": task.name, "data_hash": task.data_hash}
    return finished(NAME, folder, {**about, **provenance(loaded)}, tables, draw=draw)


def _tables(
    bench: Bench, task: IFEval, halves: Sequence[IFEval], methods: Sequence[Method], validation: int
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    rows: list[pd.DataFrame] = []
    tried: list[pd.DataFrame] = []
    seconds: dict[str, float] = {}
    settings: dict[str, list[float]] = {}

    def add(name: str, asked: IFEval, steering: Steering = (None, None)) -> "pd.DataFrame":
        bench.bar.set_postfix_str(name)
        table, took = answers(bench, asked, *steering)
        seconds[name] = seconds.get(name, 0.0) + took
        rows.append(table.copy())
        rows[-1].insert(0, "name", name)
        return table

    unsteered = [add("unsteered", half) for half in halves]
    for half in halves:
        add("*-marked", marked(half))
    for method in methods:
        settings[method.name] = []
        for half, other, plain in zip(halves, reversed(halves), reversed(unsteered), strict=True):
            chosen_on = replace(other, samples=other.samples[:validation])
            table = _tried(bench, method, chosen_on, plain[:validation])
            setting = float(table.loc[table["chosen"], "setting"].iloc[0])
            tried.append(table)
            settings[method.name].append(setting)
            add(method.name, half, method.make(setting))
    together = pd.concat(rows, ignore_index=True)
    nothing = pd.DataFrame(columns=["name", "chosen", "by_points", "edge"])
    return {
        "summary": summary(together, settings, seconds),
        "by_instruction": by_instruction(together, task),
        "validation": pd.concat(tried, ignore_index=True) if tried else nothing,
        "rows": together,
    }


def _tried(bench: Bench, method: Method, task: IFEval, unsteered: "pd.DataFrame") -> "pd.DataFrame":
    """The settings of a method on validation prompts, beside what the unsteered model does there."""
    bench.bar.set_postfix_str(f"{method.name}, settings")
    rows = [answers(bench, task, *method.make(setting))[0] for setting in method.ladder]
    return choose(method, rows, unsteered).assign(split=task.name)
