"""The instruction-vector paper's protocol (arXiv 2410.12877) on IFEval's prompts, on any decoder-only model.

For each kind of instruction a difference in means, from questions of other prompts with and without wordings of the
instruction; a layer of every second one from a fifth on, or none, chosen on validation prompts apart for prompts with
and without the instruction; steering by projection on the mean of the instructed states. Prompts with several
instructions get the vectors of all of them.

Different from the paper: each half of the prompts is reported with vectors and layers of the other half, in place of
prompts that a language model made; an answer is bad when it collapsed (:mod:`mechsteer.quality`), in place of GPT-2's
perplexity, and a layer with more bad answers than no steering has is left aside, in place of any; the first token's
position is not steered, since in many models it is an attention sink.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.errors import MechsteerError, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import provenance
from mechsteer.steering import Intervention
from mechsteer.steering.intervention import side_by_side
from mechsteer.studies.core.bench import Bench, decoder_only
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.ifeval.answers import answers, fitting, one_process, prompts_of
from mechsteer.studies.ifeval.tables import by_instruction
from mechsteer.studies.ifeval_vectors.prompts import (
    kinds_in,
    kinds_of,
    of_kind,
    together,
    validated,
    without_instruction,
)
from mechsteer.studies.ifeval_vectors.tables import best_option, by_kind, summary
from mechsteer.studies.ifeval_vectors.vectors import Option, Vectors
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import IFEval
from mechsteer.tasks.ifeval import followed
from mechsteer.tasks.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

NAME = "ifeval-vectors"
SETTINGS: Mapping[str, bool] = {"without instruction": False, "with instruction": True}
SEVERAL: Mapping[str, str] = {
    "without instruction": "several, without instructions",
    "with instruction": "several instructions",
}
"""What settings are called in rows of prompts with more than one instruction."""


def run(
    model: Any,
    out: str | os.PathLike[str] = "results/ifeval-vectors",
    *,
    data: str | os.PathLike[str] | IFEval | None = None,
    n: int | None = None,
    kinds: str | Sequence[str] | None = None,
    n_validation: int = 8,
    n_pairs: int = 50,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    draw: bool = True,
    progress: bool = True,
    executor: Executor | None = None,
) -> Result:
    """Run the study; a run that was killed continues where it was.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables, figure and vectors.
        data: IFEval's JSONL file with ``prompt_without_instruction`` in its lines, or a task of it.
        n: So many prompts only, the first ones. Default: all.
        kinds: Instructions that get a vector. Default: the paper's formats and languages, and words to leave out.
        n_validation: The most prompts of a kind, in each half, that choose its layer.
        n_pairs: The most pairs for a vector.
        max_new_tokens: The most new tokens of an answer.
        batch_size: Prompts computed together; does not change the results.
        draw: Draw the figure; without, ``Result.figures()`` draws it.
        progress: Show a bar.
        executor: None; answers are kept as they come, and one process makes them.

    Returns:
        ``summary``: by setting (``without`` and ``with instruction``; ``several`` of prompts that have more than one)
        and whether steered; ``by_kind``; ``by_instruction``: each instruction of prompts with several; ``layers``:
        every candidate on the validation prompts of each half, and the choice; ``rows``. Kinds without a vector, of
        which a half has no wording, are not steered.

    Raises:
        MechsteerError: if the checkers are missing, a prompt has no form without its instruction, no prompt has one
            instruction of these kinds, none fits the context, for an encoder-decoder, or for bad arguments.
    """
    for name, value in (("n_validation", n_validation), ("n_pairs", n_pairs), ("max_new_tokens", max_new_tokens)):
        positive_int(name, value)
    task = prompts_of(data, n, None)
    one_process(executor)
    folder = writable_dir(out)
    loaded = decoder_only(model)
    chosen = kinds_in(task, kinds)
    if not chosen:
        raise MechsteerError("No prompt has one of these instructions alone, so there is nothing to make vectors of.")
    kept = fitting(loaded, replace(task, max_new_tokens=max_new_tokens))
    with tqdm(desc=NAME, unit="answer", disable=not progress) as bar:
        bench = Bench(loaded, folder, batch_size, bar)
        tables = _tables(bench, kept, chosen, n_validation, n_pairs)
    left = len(task.samples) - len(kept.samples)
    tables = {name: table.assign(n_left_out=left, **provenance(loaded)) for name, table in tables.items()}
    sizes = {"n_validation": n_validation, "n_pairs": n_pairs, "max_new_tokens": max_new_tokens}
    about = {**sizes, "data": task.name, "data_hash": task.data_hash, **provenance(loaded)}
    return finished(NAME, folder, about, tables, draw=draw)


def _tables(
    bench: Bench, task: IFEval, kinds: Sequence[str], n_validation: int, n_pairs: int
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    halves = [task.on(split) for split in SPLITS]
    rows: list[pd.DataFrame] = []
    layers: list[pd.DataFrame] = []

    def add_rows(task: IFEval, setting: str, kind: str, steer: Intervention | None, *, several: bool = False) -> None:
        plain, _ = answers(bench, task)
        moved = plain if steer is None else answers(bench, task, steer)[0]
        asked = {"setting": SEVERAL[setting] if several else setting, "asked": kind, "vector": steer is not None}
        for table, steered in ((plain, False), (moved, True)):
            name = f"{setting}{', steered' if steered else ''}"
            rows.append(table.assign(name=name, steered=steered, **asked))

    for half, other in zip(halves, reversed(halves), strict=True):
        vectors = Vectors(bench, other, kinds, n_pairs)
        for setting, instructed in SETTINGS.items():
            chosen: dict[str, Option] = {}
            for kind in kinds:
                bench.bar.set_postfix_str(f"{kind}, {setting}")
                table = tried(bench, validated(other, kind, n_validation), kind, instructed, vectors)
                chosen[kind] = best_option(table)
                picked = [Option(*row) == chosen[kind] for row in zip(table["layer"], table["share"], strict=True)]
                layers.append(table.assign(setting=setting, kind=kind, half=other.name, chosen=picked))
                if (mine := _asked(of_kind(half, kind), instructed)).samples:
                    add_rows(mine, setting, kind, vectors.steering(mine, {kind: chosen[kind]}))
            bench.bar.set_postfix_str(f"several instructions, {setting}")
            for wanted, group in together(half).items():
                if at := {kind: chosen[kind] for kind in wanted if kind in chosen}:
                    mine = _asked(group, instructed)
                    add_rows(mine, setting, group.samples[0].kind, vectors.steering(mine, at), several=True)
    table = pd.concat(rows, ignore_index=True)
    return {
        "summary": summary(table),
        "by_kind": by_kind(table),
        "by_instruction": _by_instruction(table, task),
        "layers": pd.concat(layers, ignore_index=True),
        "rows": table,
    }


def _asked(task: IFEval, instructed: bool) -> IFEval:
    return task if instructed else without_instruction(task)


def tried(bench: Bench, task: IFEval, kind: str, instructed: bool, vectors: Vectors) -> "pd.DataFrame":
    """Each option of a kind on validation prompts: layer, share, n, loose (of this instruction), collapsed; shares.

    All options are answered together, for small batches take a model hardly less time.
    """
    import pandas as pd

    asked = _asked(task, instructed)
    if not asked.samples:
        return pd.DataFrame([{**Option()._asdict(), "n": 0, "loose": float("nan"), "collapsed": float("nan")}])
    options, size = vectors.options(kind), len(asked.samples)
    steer = side_by_side([vectors.steering(asked, {kind: option}) for option in options], size)
    table, _ = answers(bench, replace(asked, samples=asked.samples * len(options)), steer if steer.edits else None)
    places = [kinds_of(sample).index(kind) for sample in task.samples]
    made = []
    for number, option in enumerate(options):
        rows = table.iloc[number * size : (number + 1) * size]
        scored = zip(task.samples, rows["output"], places, strict=True)
        loose = [followed(sample, text)[1][place] for sample, text, place in scored]
        shares = {"loose": sum(loose) / size, "collapsed": float(rows["collapsed"].mean())}
        made.append({**option._asdict(), "n": size, **shares})
    return pd.DataFrame(made)


def _by_instruction(rows: "pd.DataFrame", task: IFEval) -> "pd.DataFrame":
    """How often each instruction of prompts with several was followed."""
    import pandas as pd

    several = rows[rows["setting"].isin(SEVERAL.values())]
    if several.empty:
        return several.reindex(columns=["setting", "steered", "instruction", "n"])
    parts = []
    for (setting, steered), group in several.groupby(["setting", "steered"], sort=False):
        made = by_instruction(group.assign(name=""), task).drop(columns="name")
        made.insert(0, "setting", str(setting))
        made.insert(1, "steered", bool(steered))
        parts.append(made)
    return pd.concat(parts, ignore_index=True)
