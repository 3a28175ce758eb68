"""Every steering family on one model: adherence and fidelity by strength (the quick profile of the intervention core).

No paper's table; a map of what each family does to the bundled instruction follower, by strength:

- attention families (GUIDE, PASTA, SpotLight, key scaling) on prompts that have their instruction, but so many notes
  after it that the model follows it only in part;
- vector families (add, project) on prompts without the instruction, by difference in means: the direction of each kind
  of instruction from pairs of validation prompts, its layer chosen on the validation split. A kind for which no layer
  works there has no rows; the column ``kinds`` of the summary counts those that have.

Adherence asks whether the output follows the instruction, fidelity how much of it is true of the topic; a method that
only ruins the text loses the second.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.directions import Direction, differences_in_means
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import is_encoder_decoder, load, model_info, provenance, stacks
from mechsteer.steering import Intervention, add, attention_bias, pasta, project, scale_keys, spotlight
from mechsteer.studies.core.cells import evaluated
from mechsteer.studies.core.result import Result, finished
from mechsteer.tasks import instructions
from mechsteer.tasks.checkers import KINDS

if TYPE_CHECKING:
    import pandas as pd

NAME = "steering"

ATTENTION: dict[str, tuple[Callable[[float], Intervention], tuple[float, ...]]] = {
    "attention_bias": (lambda s: attention_bias("instruction", s), (0.0, 1.0, 2.0, 3.0, 5.0)),
    "pasta": (lambda s: pasta("instruction", s), (1.0, 0.3, 0.1, 0.03, 0.01)),
    "spotlight": (lambda s: spotlight("instruction", s), (0.0, 0.1, 0.3, 0.5, 0.9)),
    "scale_keys": (lambda s: scale_keys("instruction", s), (1.0, 1.5, 2.0, 4.0, 100.0)),
}
"""Attention families: an intervention from a strength, and the strengths; the first changes nothing."""

VECTOR: dict[str, Callable[[Direction, float], Intervention]] = {
    "add": lambda d, s: add(d, s * d.norm),
    "project": lambda d, s: project(d, target=d.mean_projection + (s - 1) * d.norm),
}
"""Vector families: an intervention from a direction and a strength, 1 being the step from without to with."""

STEPS = (0.5, 1.0, 2.0, 4.0)


def run(
    model: Any = "organism:instruct-llama",
    out: str | os.PathLike[str] = "results/steering",
    *,
    kinds: Sequence[str] | None = None,
    notes: int = 24,
    n: int = 10,
    batch_size: int = 64,
    draw: bool = True,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        kinds: Kinds of instructions; default: all.
        notes: How many notes stand between instruction and question for the attention families.
        n: Prompts of each kind.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        progress: Show a bar.

    Returns:
        The tables ``cells`` (method, setting, kind, layer, strength, adherence and fidelity in percent) and ``summary``
        (the same, mean over kinds).

    Raises:
        MechsteerError: for bad arguments, or a folder that cannot be written to.
    """
    import pandas as pd

    positive_int("n", n)
    chosen = tuple(KINDS) if kinds is None else tuple(kinds)
    instructions(chosen, notes=notes, n=n)  # refuses what is wrong before anything is written
    loaded = load(model) if isinstance(model, str) else model
    if is_encoder_decoder(loaded):
        raise MechsteerError(
            f"This study is for decoder-only models; {model_info(loaded).name!r} is an encoder-decoder."
        )
    folder = writable_dir(out)
    about = {"notes": notes, "n": n, **provenance(loaded)}
    count = stacks(loaded)["blocks"]
    total = 3 + sum(len(s) for _, s in ATTENTION.values()) + len(chosen) * (count + len(VECTOR) * len(STEPS))
    with tqdm(desc=NAME, unit="cell", total=total, disable=not progress) as bar:
        work = _Work(loaded, folder, batch_size, bar, n)
        rows = [*_baselines(work, chosen, notes), *_attention(work, chosen, notes), *_vectors(work, chosen)]
    cells = pd.DataFrame(rows)
    measures = ["adherence_percent", "fidelity_percent"]
    groups = cells.groupby(["method", "setting", "strength"], sort=False)
    summary = groups[measures].mean().assign(kinds=groups.size()).reset_index()
    tables = {name: table.assign(**provenance(loaded)) for name, table in {"cells": cells, "summary": summary}.items()}
    return finished(NAME, folder, about, tables, draw=draw)


@dataclass
class _Work:
    """What every cell needs."""

    model: Any
    folder: Path
    batch_size: int
    bar: Any
    n: int

    def measure(self, task: Any, steer: Intervention | None = None) -> "pd.DataFrame":
        table = evaluated(self.folder, self.model, task, steer, batch_size=self.batch_size)
        self.bar.update()
        return table


def _rows(table: "pd.DataFrame", method: str, setting: str, strength: float, layer: int | None = None) -> list[dict]:
    """One row a kind of instruction."""
    return [
        {
            "method": method,
            "setting": setting,
            "kind": kind,
            "layer": -1 if layer is None else layer,
            "strength": strength,
            "adherence_percent": 100 * float(part["adherence"].mean()),
            "fidelity_percent": 100 * float(part["fidelity"].mean()),
            "n": len(part),
        }
        for kind, part in table.groupby("kind", sort=False)
    ]


def _baselines(work: _Work, kinds: Sequence[str], notes: int) -> list[dict]:
    """The unsteered model: with the instruction, with it far away, and without it."""
    settings = {
        "instructed": instructions(kinds, n=work.n),
        f"instructed, {notes} notes": instructions(kinds, notes=notes, n=work.n),
        "uninstructed": instructions(kinds, with_instruction=False, n=work.n),
    }
    return [row for name, task in settings.items() for row in _rows(work.measure(task), "unsteered", name, 0.0)]


def _attention(work: _Work, kinds: Sequence[str], notes: int) -> list[dict]:
    task = instructions(kinds, notes=notes, n=work.n)
    return [
        row
        for method, (make, strengths) in ATTENTION.items()
        for strength in strengths
        for row in _rows(work.measure(task, make(strength)), method, f"instructed, {notes} notes", strength)
    ]


def _vectors(work: _Work, kinds: Sequence[str]) -> list[dict]:
    rows = []
    for kind in kinds:
        validation = instructions(kind, with_instruction=False, split="validation")
        pairs = list(
            zip(
                validation.prompts(work.model, with_instruction=True),
                validation.prompts(work.model, with_instruction=False),
                strict=True,
            )
        )
        directions = differences_in_means(work.model, pairs)
        layer = _best_layer(work, kind, directions)
        if layer is None:
            work.bar.update(len(VECTOR) * len(STEPS))
            continue
        task = instructions(kind, with_instruction=False, n=work.n)
        for method, make in VECTOR.items():
            for step in STEPS:
                table = work.measure(task, make(directions[layer], step))
                rows += _rows(table, method, "uninstructed", step, layer)
    return rows


def _best_layer(work: _Work, kind: str, directions: dict[int, Direction]) -> int | None:
    """The layer whose projection gives the most followed and true answers on validation prompts; ties to the first.

    None if no layer gives any: then there is nothing to sweep.
    """
    task = instructions(kind, with_instruction=False, split="validation", n=work.n)
    scores = {}
    for layer, direction in directions.items():
        table = work.measure(task, project(direction))
        scores[layer] = float((table["adherence"] * table["fidelity"]).mean())
    best = max(scores, key=lambda layer: (scores[layer], -layer))
    return best if scores[best] > 0 else None
