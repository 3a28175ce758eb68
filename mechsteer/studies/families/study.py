"""Every steering family on one model: adherence and fidelity by strength.

Ours; no paper has it. What each family does to a model that follows instructions about form:

- attention families (GUIDE, PASTA, SpotLight, key scaling) on prompts that have their instruction, but so many notes
  after it that the model follows it only in part;
- vector families (add, project) on prompts without the instruction, by difference in means: the direction of each kind
  of instruction from pairs of validation prompts, its layer chosen on the validation split. A kind for which no layer
  works there has no rows; the column ``kinds`` of the summary counts those that have.

Adherence asks whether the output follows the instruction, fidelity how much of it is true of the topic; a method that
only ruins the text loses the second. Intervals are 95 %; over kinds, the prompts of one topic are a cluster.

``scopes``: the vector families at strength 1, at all positions and at the last one of the prompt only, each with the
layer that is best in that scope on the validation split.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.directions import Direction, differences_in_means
from mechsteer.errors import positive_int
from mechsteer.files import writable_dir
from mechsteer.models import provenance, stacks
from mechsteer.stats import cluster_interval, mean_interval
from mechsteer.steering import Intervention, add, attention_bias, pasta, project, scale_keys, spotlight
from mechsteer.studies.core.bench import Bench, Wanted, decoder_only, opened
from mechsteer.studies.core.choose import best
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import instructions
from mechsteer.tasks.checkers import KINDS
from mechsteer.tasks.instructions import named_kinds

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

VECTOR: dict[str, Callable[..., Intervention]] = {
    "add": lambda d, s, scope="all": add(d, s * d.norm, scope=scope),
    "project": lambda d, s, scope="all": project(d, target=d.mean_projection + (s - 1) * d.norm, scope=scope),
}
"""Vector families: an intervention from a direction and a strength, 1 being the step from without to with."""

STEPS = (0.5, 1.0, 2.0, 4.0)
SCOPES = ("all", "last_prompt")


def run(
    model: Any = "organism:instruct-llama",
    out: str | os.PathLike[str] = "results/steering",
    *,
    kinds: str | Sequence[str] | None = None,
    notes: int = 24,
    n: int = 10,
    batch_size: int = 64,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        kinds: Kinds of instructions, or one; default: all.
        notes: How many notes stand between instruction and question for the attention families.
        n: Prompts of each kind.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables ``cells`` (method, setting, kind, layer, strength, adherence and fidelity in percent with intervals),
        ``summary`` (the same, mean over kinds) and ``scopes`` (kind, method, scope, layer: -1 where no layer works).

    Raises:
        MechsteerError: for bad arguments, or a folder that cannot be written to.
    """
    import pandas as pd

    positive_int("n", n)
    chosen = tuple(KINDS) if kinds is None else named_kinds(kinds)
    instructions(chosen, notes=notes, n=n)  # refuses what is wrong before anything is written
    loaded = decoder_only(model)
    folder = writable_dir(out)
    about = {"notes": notes, "n": n, **provenance(loaded)}
    count = stacks(loaded)["blocks"]
    total = 3 + sum(len(s) for _, s in ATTENTION.values()) + len(chosen) * (count + len(VECTOR) * len(STEPS))
    total += len(chosen) * len(SCOPES) * (count + len(VECTOR))
    with opened(
        NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor, total=total
    ) as bench:
        rows = [*_prompted(bench, chosen, notes, n), *_vectors(bench, chosen, n)]
        scopes = pd.DataFrame([row for kind in chosen for row in _scopes(bench, kind, n)])
    samples = pd.concat([row.pop("samples") for row in rows], ignore_index=True)
    cells = pd.DataFrame(rows)
    measures = ["adherence_percent", "fidelity_percent"]
    groups = cells.groupby(["method", "setting", "strength"], sort=False)
    summary = groups[measures].mean().assign(kinds=groups.size()).reset_index()
    summary = summary.merge(_ends(samples), on=["method", "setting", "strength"], sort=False)
    tables = {"cells": cells, "summary": summary, "scopes": scopes}
    return finished(NAME, folder, about, of_model(tables, loaded), draw=draw)


def _ends(samples: "pd.DataFrame") -> "pd.DataFrame":
    """The intervals of the means over kinds, all of which have as many prompts."""
    import pandas as pd

    rows = []
    for key, part in samples.groupby(["method", "setting", "strength"], sort=False):
        row: dict[str, Any] = dict(zip(("method", "setting", "strength"), key, strict=True))  # type: ignore[arg-type]
        for name in ("adherence", "fidelity"):
            ends = cluster_interval(part[name].astype(float), part["topic"])[:3]
            row |= interval_columns([f"{name}_percent"], ends, factor=100)
            del row[f"{name}_percent"]
        rows.append(row)
    return pd.DataFrame(rows)


def _rows(table: "pd.DataFrame", method: str, setting: str, strength: float, layer: int | None = None) -> list[dict]:
    """One row a kind of instruction; ``samples`` are the rows of its prompts."""
    where: dict[str, Any] = {"method": method, "setting": setting, "strength": strength}
    return [
        {
            "method": method,
            "setting": setting,
            "kind": kind,
            "layer": -1 if layer is None else layer,
            "strength": strength,
            **_percentages(part),
            "samples": part[["topic", "adherence", "fidelity"]].assign(**where),
        }
        for kind, part in table.groupby("kind", sort=False)
    ]


def _percentages(part: "pd.DataFrame") -> dict[str, Any]:
    """Adherence and fidelity of prompts of one kind, which are of different topics."""
    found: dict[str, Any] = {}
    for name in ("adherence", "fidelity"):
        ends = mean_interval(part[name].astype(float))[:3]
        found |= interval_columns([f"{name}_percent"], ends, factor=100)
    return found | {"n": len(part)}


def _prompted(bench: Bench, kinds: Sequence[str], notes: int, n: int) -> list[dict]:
    """The unsteered model with the instruction, with it far away and without it; attention families far away."""
    far = instructions(kinds, notes=notes, n=n)
    cells: list[tuple[str, str, float, Wanted]] = [
        ("unsteered", "instructed", 0.0, Wanted(instructions(kinds, n=n))),
        ("unsteered", f"instructed, {notes} notes", 0.0, Wanted(far)),
        ("unsteered", "uninstructed", 0.0, Wanted(instructions(kinds, with_instruction=False, n=n))),
    ]
    for method, (make, strengths) in ATTENTION.items():
        cells += [(method, f"instructed, {notes} notes", s, Wanted(far, make(s))) for s in strengths]
    bench.prefetch(wanted for *_, wanted in cells)
    return [row for method, where, s, wanted in cells for row in _rows(bench.rows(wanted), method, where, s)]


def _vectors(bench: Bench, kinds: Sequence[str], n: int) -> list[dict]:
    rows = []
    for kind in kinds:
        directions = _directions(bench, kind)
        layer = _best_layer(bench, kind, directions, n)
        if layer is None:
            bench.bar.update(len(VECTOR) * len(STEPS))
            continue
        task = instructions(kind, with_instruction=False, n=n)
        cells = [
            (method, s, Wanted(task, make(directions[layer], s))) for method, make in VECTOR.items() for s in STEPS
        ]
        bench.prefetch(wanted for *_, wanted in cells)
        for method, step, wanted in cells:
            rows += _rows(bench.rows(wanted), method, "uninstructed", step, layer)
    return rows


def _directions(bench: Bench, kind: str) -> dict[int, Direction]:
    """The difference in means of a kind of instruction, by layer."""
    validation = instructions(kind, with_instruction=False, split="validation")
    pairs = zip(*(validation.prompts(bench.model, with_instruction=told) for told in (True, False)), strict=True)
    return differences_in_means(bench.model, list(pairs))


def _scopes(bench: Bench, kind: str, n: int) -> list[dict]:
    """Each vector family in each scope, at strength 1; where no layer works, nothing is steered."""
    rows = []
    task, directions = instructions(kind, with_instruction=False, n=n), _directions(bench, kind)
    for scope in SCOPES:
        layer = _best_layer(bench, kind, directions, n, scope)
        for method, make in VECTOR.items():
            table = bench.rows(Wanted(task, None if layer is None else make(directions[layer], 1.0, scope)))
            where = {"kind": kind, "method": method, "scope": scope, "layer": -1 if layer is None else layer}
            rows.append(where | _percentages(table))
    return rows


def _best_layer(bench: Bench, kind: str, directions: dict[int, Direction], n: int, scope: str = "all") -> int | None:
    """The layer whose projection gives the most followed and true answers on validation prompts; ties to the first.

    None if no layer gives any: then there is nothing to sweep.
    """
    task = instructions(kind, with_instruction=False, split="validation", n=n)
    wanted = {layer: Wanted(task, project(direction, scope=scope)) for layer, direction in directions.items()}
    bench.prefetch(wanted.values())
    tables = {layer: bench.rows(one) for layer, one in wanted.items()}
    worth = {layer: float((table["adherence"] * table["fidelity"]).mean()) for layer, table in tables.items()}
    return best(worth, worth.__getitem__, passes=lambda layer: worth[layer] > 0)
