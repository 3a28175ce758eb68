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

from mechsteer.directions import Direction, differences_in_means
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import provenance, stacks
from mechsteer.steering import Intervention, project
from mechsteer.studies.core.bench import Bench, decoder_only
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.ifeval.answers import answers, fitting, one_process, prompts_of
from mechsteer.studies.ifeval_vectors.prompts import kinds_in, of_kind, pairs, together, without_instruction
from mechsteer.studies.ifeval_vectors.tables import best_layer, by_kind, summary
from mechsteer.studies.instruction_vectors.choose import NONE, grid
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import IFEval
from mechsteer.tasks.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

NAME = "ifeval-vectors"
SETTINGS: Mapping[str, bool] = {"without instruction": False, "with instruction": True}


def run(
    model: Any,
    out: str | os.PathLike[str] = "results/ifeval-vectors",
    *,
    data: str | os.PathLike[str] | IFEval | None = None,
    n: int | None = None,
    kinds: Sequence[str] | None = None,
    n_validation: int = 8,
    n_pairs: int = 50,
    max_new_tokens: int = 256,
    batch_size: int = 16,
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
        kinds: Instructions that get a vector. Default: the paper's formats and languages.
        n_validation: The most prompts of a kind, in each half, that choose its layer.
        n_pairs: The most pairs for a vector.
        max_new_tokens: The most new tokens of an answer.
        batch_size: Prompts computed together; does not change the results.
        draw: Draw the figure; without, ``Result.figures()`` draws it.
        progress: Show a bar.
        executor: None; answers are kept as they come, and one process makes them.

    Returns:
        ``summary``: by setting (``without`` and ``with instruction``; ``several instructions`` of prompts that have
        more than one) and whether steered; ``by_kind``; ``layers``: every candidate on the validation prompts of each
        half, and the choice; ``rows``. Kinds without a vector, of which a half has no wording, are not steered.

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
        tables = _tables(bench, [kept.on(split) for split in SPLITS], chosen, n_validation, n_pairs)
    left = len(task.samples) - len(kept.samples)
    tables = {name: table.assign(n_left_out=left, **provenance(loaded)) for name, table in tables.items()}
    sizes = {"n_validation": n_validation, "n_pairs": n_pairs, "max_new_tokens": max_new_tokens}
    about = {**sizes, "data": task.name, "data_hash": task.data_hash, **provenance(loaded)}
    return finished(NAME, folder, about, tables, draw=draw)


def _vectors(
    bench: Bench, half: IFEval, kinds: Sequence[str], layers: Sequence[int], n_pairs: int
) -> dict[str, dict[int, Direction]]:
    """Vectors by kind and layer, from one half of the prompts; none of a kind of which it has no wording."""

    def of(kind: str) -> dict[int, Direction]:
        found = pairs(bench.model, half, kind, n_pairs)

        def make(layers: Sequence[int]) -> dict[int, Direction]:
            return differences_in_means(bench.model, found, layers=layers, batch_size=bench.batch_size)

        return bench.directions(kind.replace(":", "-"), layers, found, make) if found else {}

    return {kind: of(kind) for kind in kinds}


def _steering(vectors: Mapping[str, Mapping[int, Direction]], layers: Mapping[str, int]) -> Intervention | None:
    """The projections of some kinds, each at its layer; None where nothing is steered."""
    made = Intervention()
    for kind, layer in layers.items():
        if layer in vectors[kind]:
            made += project(vectors[kind][layer], scope="content")
    return made if made.edits else None


def _tables(
    bench: Bench, halves: Sequence[IFEval], kinds: Sequence[str], n_validation: int, n_pairs: int
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    grid_of_layers = grid(stacks(bench.model)["blocks"])
    rows: list[pd.DataFrame] = []
    layers: list[pd.DataFrame] = []

    def add_rows(task: IFEval, setting: str, kind: str, steer: Intervention | None) -> None:
        plain, _ = answers(bench, task)
        steered = plain if steer is None else answers(bench, task, steer)[0]
        for table, name in ((plain, False), (steered, True)):
            rows.append(table.assign(setting=setting, asked=kind, steered=name, vector=steer is not None))

    for half, other in zip(halves, reversed(halves), strict=True):
        vectors = _vectors(bench, other, kinds, grid_of_layers, n_pairs)
        chosen: dict[str, int] = {}
        for setting, instructed in SETTINGS.items():
            for kind in kinds:
                bench.bar.set_postfix_str(f"{kind}, {setting}")
                table = _layers(bench, other, kind, instructed, n_validation, vectors[kind])
                layer = best_layer(table)
                layers.append(table.assign(setting=setting, kind=kind, half=other.name, chosen=table["layer"] == layer))
                if instructed:
                    chosen[kind] = layer
                mine = of_kind(half, kind)
                if mine.samples:
                    task = mine if instructed else without_instruction(mine)
                    add_rows(task, setting, kind, _steering(vectors, {kind: layer}))
        bench.bar.set_postfix_str("several instructions")
        for wanted, task in together(half).items():
            if at := {kind: chosen[kind] for kind in wanted if kind in chosen}:
                add_rows(task, "several instructions", task.samples[0].kind, _steering(vectors, at))
    table = pd.concat(rows, ignore_index=True)
    return {
        "summary": summary(table),
        "by_kind": by_kind(table),
        "layers": pd.concat(layers, ignore_index=True),
        "rows": table,
    }


def _layers(
    bench: Bench, half: IFEval, kind: str, instructed: bool, count: int, vectors: Mapping[int, Direction]
) -> "pd.DataFrame":
    """No steering and each layer on a half's prompts of a kind: layer, n, loose and collapsed, as shares."""
    import pandas as pd

    task = of_kind(half, kind)
    task = replace(task, samples=task.samples[:count])
    if not task.samples:
        return pd.DataFrame([{"layer": NONE, "n": 0, "loose": float("nan"), "collapsed": float("nan")}])
    task = task if instructed else without_instruction(task)
    made = []
    for layer in (NONE, *vectors):
        table, _ = answers(bench, task, _steering({kind: vectors}, {kind: layer}))
        shares = {"loose": float(table["loose"].mean()), "collapsed": float(table["collapsed"].mean())}
        made.append({"layer": layer, "n": len(table), **shares})
    return pd.DataFrame(made)
