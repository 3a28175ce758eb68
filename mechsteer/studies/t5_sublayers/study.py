"""Inside a T5 that obeys or is trapped: which sublayers write the answer, and what cross-attention is for.

"DoLa Adaptations for T5" (arXiv 2512.03803) says that a T5's preferences are volatile and shift through
cross-attention, without numbers. This study makes them, on MemoTrap: prompts are parted into those where the target is
likelier than the trap and the others, and both are measured by
:func:`mechsteer.analysis.cross_attention.cross_attention_shift`,
:func:`mechsteer.analysis.frozen_cross_attention.frozen_cross_attention`, the logit lens and volatility.
"""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.analysis import cross_attention_shift, frozen_cross_attention, logit_lens, volatility
from mechsteer.analysis.bootstrap import interval_columns, mean_interval
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import is_encoder_decoder, load, model_info, provenance
from mechsteer.studies.core.bench import Bench, opened
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import MemoTrap, memotrap

if TYPE_CHECKING:
    import pandas as pd

NAME = "inside"
GROUPS = {True: "obeyed", False: "trapped"}
QUANTITIES = ("relative_update", "cosine", "path_share", "jsd", "logit_difference", "attention_entropy")


def run(
    model: Any = "organism:trap-t5",
    out: str | os.PathLike[str] = "results/inside",
    *,
    data: str | os.PathLike[str] | None = None,
    n: int | None = None,
    batch_size: int = 128,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study.

    Args:
        model: A loaded encoder-decoder, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        data: Traps in MemoTrap's public CSV format; default: the bundled ones.
        n: The most traps; default: all of the evaluation split.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Not needed by this study, which has one cell; taken as by all others.
        progress: Show bars.

    Returns:
        The tables. ``summary``: for each group of prompts, layer and sublayer the means of the shift's quantities, with
        95 % bootstrap intervals (``_low``, ``_high``); ``frozen``: the decision with cross-attention frozen; ``ranks``:
        median rank of target and trap by exit; ``volatility``: by exit. All but ``frozen`` have the column ``group``.

    Raises:
        MechsteerError: for a decoder-only model, data that cannot be read, fewer than two traps, or a folder that
            cannot be written to.
    """
    positive_int("batch_size", batch_size)
    if n is not None:
        positive_int("n", n)
    folder = writable_dir(out)
    task = memotrap(data)
    loaded = load(model) if isinstance(model, str) else model
    if not is_encoder_decoder(loaded):
        raise MechsteerError(
            f"This study is about cross-attention; {model_info(loaded).name} has none. Use an encoder-decoder."
        )
    about = {"data": task.name, **provenance(loaded)}
    with opened(NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor, total=1) as bench:
        tables = _tables(bench, _first(task, n), progress)
    return finished(NAME, folder, about, of_model(tables, loaded, data_hash=task.data_hash), draw=draw)


def _first(task: MemoTrap, n: int | None) -> MemoTrap:
    return task if n is None else replace(task, samples=tuple(task.samples[:n]))


def _tables(bench: Bench, task: MemoTrap, progress: bool) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    model, batch_size, traps = bench.model, bench.batch_size, list(task.samples)
    prompts = [trap.prompt for trap in traps]
    correct = bench.evaluate(task)["correct"].astype(bool).tolist()
    group = {place: GROUPS[flag] for place, flag in enumerate(correct)}
    shift = cross_attention_shift(model, prompts, traps, batch_size=batch_size, progress=progress)
    lens = logit_lens(model, prompts, _words(traps), batch_size=batch_size, progress=progress)
    lens = lens.assign(group=lens["prompt"].map(group), word=_roles(lens, _words(traps)))
    lens = lens.explode("word", ignore_index=True)
    ranks = lens.groupby(["group", "word", "exit"], sort=False)
    volatile = [
        volatility(model, [p for p, flag in zip(prompts, correct, strict=True) if flag == kept], batch_size=batch_size)
        .assign(group=name)
        for kept, name in GROUPS.items()
        if kept in correct
    ]  # fmt: skip
    return {
        "summary": _means(shift.assign(group=shift["prompt"].map(group))),
        "frozen": frozen_cross_attention(
            model, prompts, traps, which=("one", "from", "up_to"), batch_size=batch_size, progress=progress
        ),
        "ranks": ranks.agg(
            rank=("rank", "median"), probability=("probability", "mean"), n=("rank", "size")
        ).reset_index(),
        "volatility": pd.concat(volatile, ignore_index=True),
    }


def _words(traps: list[Any]) -> list[list[str]]:
    return [[trap.target.strip(" ."), trap.trap.strip(" .")] for trap in traps]


def _roles(lens: "pd.DataFrame", words: list[list[str]]) -> "pd.Series":
    """Whose token each row of the lens follows: both words', where they begin with the same one."""
    import pandas as pd

    rows = zip(lens["prompt"], lens["word"], strict=True)
    named = [(words[place], names.split(" / ")) for place, names in rows]
    roles = ("target", "trap")
    return pd.Series([[r for r, word in zip(roles, pair, strict=True) if word in names] for pair, names in named])


def _means(shift: "pd.DataFrame") -> "pd.DataFrame":
    """The means over prompts, with their intervals."""
    import pandas as pd
    import torch

    rows = []
    for (group, layer, sublayer), part in shift.groupby(["group", "layer", "sublayer"], sort=False):
        row: dict[str, Any] = {"group": group, "layer": layer, "sublayer": sublayer, "n": len(part)}
        values = torch.tensor(part[list(QUANTITIES)].to_numpy(dtype=float))
        rows.append(row | interval_columns(QUANTITIES, mean_interval(values)))
    return pd.DataFrame(rows)
