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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.directions import Direction, differences_in_means
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.evaluation import evaluate
from mechsteer.files import digest, writable_dir
from mechsteer.identity import cell_key
from mechsteer.measured import Run
from mechsteer.models import is_encoder_decoder, load, model_info, provenance, stacks
from mechsteer.steering import Intervention, add, project
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.ifeval.study import fitting, one_process, prompts_of
from mechsteer.studies.ifeval_vectors.prompts import kinds_in, kinds_of, of_kind, pairs, without_instruction
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
    loaded = load(model) if isinstance(model, str) else model
    if is_encoder_decoder(loaded):
        raise MechsteerError(
            f"This study is for decoder-only models; {model_info(loaded).name!r} is an encoder-decoder."
        )
    chosen = kinds_in(task, kinds)
    if not chosen:
        raise MechsteerError("No prompt has one of these instructions alone, so there is nothing to make vectors of.")
    kept = fitting(loaded, replace(task, max_new_tokens=max_new_tokens))
    with tqdm(desc=NAME, unit="answer", disable=not progress) as bar:
        bench = Bench(loaded, folder, batch_size, bar, grid(stacks(loaded)["blocks"]), n_pairs)
        tables = _tables(bench, [kept.on(split) for split in SPLITS], chosen, n_validation)
    left = len(task.samples) - len(kept.samples)
    tables = {name: table.assign(n_left_out=left, **provenance(loaded)) for name, table in tables.items()}
    sizes = {"n_validation": n_validation, "n_pairs": n_pairs, "max_new_tokens": max_new_tokens}
    about = {**sizes, "data": task.name, "data_hash": task.data_hash, **provenance(loaded)}
    return finished(NAME, folder, about, tables, draw=draw)


@dataclass
class Bench:
    """Where vectors and answers are made and kept.

    Attributes:
        model: The model.
        folder: The study's folder.
        batch_size: Prompts computed together.
        bar: Moves with every answer.
        layers: Where the model can be steered.
        n_pairs: The most pairs for a vector.
        made: Vectors by half and kind.
    """

    model: Any
    folder: Path
    batch_size: int
    bar: tqdm
    layers: Sequence[int]
    n_pairs: int
    made: dict[tuple[str, str], dict[int, Direction]] = field(default_factory=dict)

    def rows(self, task: IFEval, steer: Intervention | None = None) -> "pd.DataFrame":
        """The rows of a task with quality."""
        key = Run(self.model, task, steer, None, self.batch_size, quality=True).key()
        place = self.folder / "answers" / digest(key)
        made = evaluate(self.model, task, steer=steer, batch_size=self.batch_size, quality=True, out=place)
        self.bar.update(len(task.samples))
        return made

    def vectors(self, half: IFEval, kind: str) -> dict[int, Direction]:
        """A kind's vectors by layer, from one half of the prompts; none where it has no wording."""
        name = (half.name, kind)
        if name not in self.made:
            found = pairs(self.model, half, kind, self.n_pairs)
            self.made[name] = self._kept(kind, found) if found else {}
        return self.made[name]

    def _kept(self, kind: str, found: list[Any]) -> dict[int, Direction]:
        key = cell_key(self.model, found, options={"difference in means": self.layers})
        path = self.folder / "directions" / f"{kind.replace(':', '-')}-{key}.safetensors"
        if not path.exists():
            made = differences_in_means(self.model, found, layers=self.layers, batch_size=self.batch_size)
            sum((add(made[layer]) for layer in self.layers), start=Intervention()).save(path)
        edits = Intervention.load(path).edits
        return {layer: e.direction for layer, e in zip(self.layers, edits, strict=True) if e.direction is not None}

    def steering(self, half: IFEval, layers: Mapping[str, int]) -> Intervention | None:
        """The projections of some kinds at their layers, with vectors of a half; None where nothing is steered."""
        made = Intervention()
        for kind, layer in layers.items():
            vector = self.vectors(half, kind).get(layer)
            if vector is not None:
                made += project(vector, scope="content")
        return made if made.edits else None


def _tables(
    bench: Bench, halves: Sequence[IFEval], kinds: Sequence[str], n_validation: int
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    rows: list[pd.DataFrame] = []
    layers: list[pd.DataFrame] = []

    def add_rows(task: IFEval, setting: str, kind: str, steer: Intervention | None) -> None:
        plain = bench.rows(task)
        steered = plain if steer is None else bench.rows(task, steer)
        for table, name in ((plain, False), (steered, True)):
            rows.append(table.assign(setting=setting, asked=kind, steered=name, vector=steer is not None))

    for half, other in zip(halves, reversed(halves), strict=True):
        chosen: dict[str, int] = {}
        for setting, instructed in SETTINGS.items():
            for kind in kinds:
                bench.bar.set_postfix_str(f"{kind}, {setting}")
                table = _layers(bench, other, kind, instructed, n_validation)
                layer = best_layer(table)
                layers.append(table.assign(setting=setting, kind=kind, half=other.name, chosen=table["layer"] == layer))
                if instructed:
                    chosen[kind] = layer
                mine = of_kind(half, kind)
                if mine.samples:
                    task = mine if instructed else without_instruction(mine)
                    add_rows(task, setting, kind, bench.steering(other, {kind: layer}))
        for sample in half.samples:
            if len(sample.instructions) > 1 and any(kind in chosen for kind in kinds_of(sample)):
                at = {kind: chosen[kind] for kind in dict.fromkeys(kinds_of(sample)) if kind in chosen}
                one = replace(half, samples=(sample,))
                add_rows(one, "several instructions", sample.kind, bench.steering(other, at))
    together = pd.concat(rows, ignore_index=True)
    return {
        "summary": summary(together),
        "by_kind": by_kind(together),
        "layers": pd.concat(layers, ignore_index=True),
        "rows": together,
    }


def _layers(bench: Bench, half: IFEval, kind: str, instructed: bool, count: int) -> "pd.DataFrame":
    """No steering and each layer on a half's prompts of a kind: layer, n, loose and collapsed, as shares."""
    import pandas as pd

    task = of_kind(half, kind)
    task = replace(task, samples=task.samples[:count])
    if not task.samples:
        return pd.DataFrame([{"layer": NONE, "n": 0, "loose": float("nan"), "collapsed": float("nan")}])
    task = task if instructed else without_instruction(task)
    made = []
    for layer in (NONE, *bench.vectors(half, kind)):
        table = bench.rows(task, bench.steering(half, {kind: layer}))
        shares = {"loose": float(table["loose"].mean()), "collapsed": float(table["collapsed"].mean())}
        made.append({"layer": layer, "n": len(table), **shares})
    return pd.DataFrame(made)
