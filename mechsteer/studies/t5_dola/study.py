"""Gradient steering against memorisation (arXiv 2512.03803v2, section 4.2): MemoTrap by layer and strength.

The paper mines a vector at each decoder layer on 100 traps and reports, for 300 others, the improvement of greedy
success over the unsteered model by layer and absolute strength (Figures 6 and 7, Tables 2 and 3), the best cell picked
on those 300. Here the same is measured, and beside it: the classification by log-probability, strengths relative to the
residual stream's norm, a cell chosen on the mining split alone, the flipped vector and random ones of the same norm as
controls, vectors mined from contrasts that must not work (:mod:`mechsteer.studies.t5_dola.controls`), and what steering
does to plain recall and to copying. Intervals are 95 %, with the two traps of a proverb as one cluster.
"""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.directions import Direction, gradient_direction, random_direction
from mechsteer.errors import MechsteerError, finite, listed, one_of, positive_int, shown, wholes
from mechsteer.evaluation import Task
from mechsteer.files import writable_dir
from mechsteer.models import load, model_info, provenance, stacks
from mechsteer.stats import mean_interval
from mechsteer.steering import add
from mechsteer.studies.core.bench import Bench, Wanted, opened
from mechsteer.studies.core.choose import at_edge, best
from mechsteer.studies.core.published import published
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.sweep.executors import Executor
from mechsteer.studies.t5_dola.controls import SCORES, by_trap_word, improvement, null_vectors, nulls, percentages
from mechsteer.tasks import MemoTrap, copying, memotrap, recall

if TYPE_CHECKING:
    import pandas as pd

NAME = "t5-dola"
MEASURED = ("generation_config", "n_tokens", "truncated", "empty", "repetition", "compressibility", "copied")
"""Columns of :func:`mechsteer.evaluate` that this study does not report."""

_SIDE_TASKS = (recall, copying)


def run(
    model: Any = "organism:trap-t5",
    out: str | os.PathLike[str] = "results/t5-dola",
    *,
    data: str | os.PathLike[str] | None = None,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5),
    absolute: Sequence[float] | None = None,
    n_random: int = 24,
    compat: str = "paper",
    batch_size: int = 128,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded model, or a name for :func:`mechsteer.load`.
        out: The folder for tables, figures and directions.
        data: Traps in the public CSV format; default: the bundled ones.
        layers: Layers to steer; default: all.
        strengths: Relative strengths, in units of the mean residual norm at the layer.
        absolute: Absolute strengths; default: the paper's 500, 1000 and 1500 for its models, and otherwise half, one
            and one and a half times the median over layers of the mean residual norm, rounded.
        n_random: How many random directions to compare the chosen cell with.
        compat: Passed to :func:`mechsteer.gradient_direction`.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables: ``summary``, ``grid``, ``controls``, ``null_vectors``, ``by_trap_word``, ``side_effects``,
        ``samples``; ``reference`` (the paper's best cells, ours beside); ``published`` for the paper's models. ``edge``
        in ``summary``: nothing stronger was tried.

    Raises:
        MechsteerError: for bad arguments, unreadable data, or a folder that cannot be written to.
    """
    positive_int("n_random", n_random)
    positive_int("batch_size", batch_size)
    one_of("compat", compat, ("paper", "released"))
    strengths = _positive("strengths", strengths)
    absolute = None if absolute is None else _positive("absolute", absolute)
    task = memotrap(data)
    folder = writable_dir(out)
    loaded = load(model) if isinstance(model, str) else model
    chosen_layers = _layers(loaded, layers)
    about: dict[str, Any] = {"compat": compat, "data": task.name, **provenance(loaded)}
    with opened(NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor) as bench:
        mined = {layer: _mine(bench, task.on("mining"), layer, compat) for layer in chosen_layers}
        if absolute is None:
            absolute = _default_absolute(model_info(loaded).name, mined)
        cells = 2 * len(mined) * (len(strengths) + len(absolute))
        bench.bar.reset(total=2 + cells + n_random + 2 + 2 * (len(strengths) + 1))
        tables = of_model(_tables(bench, task, mined, strengths, absolute, n_random, compat), loaded)
    about["same_first_token"] = {layer: d.meta.get("same_first_token", "0") for layer, d in mined.items()}
    paper = _published(model_info(loaded).name)
    if paper is not None:
        tables["published"] = paper
    return finished(NAME, folder, about, tables, draw=draw)


def _mine(bench: Bench, traps: MemoTrap, layer: int, compat: str) -> Direction:
    """The vector of a layer, from the mining traps."""

    def make(layers: Sequence[int]) -> dict[int, Direction]:
        with warnings.catch_warnings():  # study.json says how many traps are left out
            warnings.filterwarnings("ignore", "Target and trap start with the same token")
            return {n: gradient_direction(bench.model, traps.samples, layer=n, compat=compat) for n in layers}

    return bench.directions(f"layer-{layer:02d}", [layer], {"gradient of": traps, "compat": compat}, make)[layer]


def _cell(task: Task, direction: Direction, scale: float) -> Wanted:
    return Wanted(task, add(direction, scale))


def _tables(
    bench: Bench,
    task: MemoTrap,
    mined: dict[int, Direction],
    strengths: Sequence[float],
    absolute: Sequence[float],
    n_random: int,
    compat: str,
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    baseline = {split: bench.evaluate(task.on(split)) for split in ("mining", "evaluation")}
    grid = _grid(bench, task, mined, strengths, absolute, baseline)
    chosen = _best(grid[(grid["kind"] == "relative") & (grid["split"] == "mining")])
    layer, scale = int(chosen["layer"]), float(chosen["scale"])
    plain = baseline["evaluation"]
    controls, runs = _controls(bench, task, mined[layer], layer, scale, n_random, plain)
    steered = runs["mined"][0]
    vectors = null_vectors(bench, task.on("mining"), layer, compat)
    bench.bar.total += len(vectors)
    missing = nulls(bench, task, vectors, mined[layer], scale).assign(layer=layer)
    for name, _, direction in vectors:
        runs.setdefault(name, []).append(bench.known(_cell(task, direction, scale)))
    return {
        "summary": _summary(grid, controls, chosen, plain).assign(
            edge=lambda table: (table["scale"] == scale) & at_edge(strengths, chosen["strength"])
        ),
        "grid": grid,
        "controls": controls,
        "null_vectors": missing,
        "by_trap_word": by_trap_word(task, {"unsteered": [plain], **runs}),
        "side_effects": _side_effects(bench, mined[layer], layer, strengths),
        "reference": _reference(grid, plain),
        "samples": pd.concat([plain, steered], ignore_index=True).drop(columns=[*MEASURED]),
    }


def _grid(
    bench: Bench,
    task: MemoTrap,
    mined: dict[int, Direction],
    strengths: Sequence[float],
    absolute: Sequence[float],
    baseline: "dict[str, pd.DataFrame]",
) -> "pd.DataFrame":
    """One row a layer, strength and split."""
    import pandas as pd

    cells = [
        ({"kind": kind, "layer": layer, "strength": s, "scale": s * unit, "split": split}, direction)
        for layer, direction in mined.items()
        for kind, unit, steps in (("relative", direction.activation_norm, strengths), ("absolute", 1.0, absolute))
        for s in steps
        for split in baseline
    ]
    wanted = [_cell(task.on(where["split"]), direction, where["scale"]) for where, direction in cells]
    bench.prefetch(wanted)
    rows = []
    for (where, _), one in zip(cells, wanted, strict=True):
        steered, plain = bench.rows(one), baseline[where["split"]]
        changes = improvement(plain, steered, "correct", "improvement_pp")
        changes |= improvement(plain, steered, "success", "success_improvement_pp")
        rows.append(where | percentages(steered) | changes)
    return pd.DataFrame(rows)


def _best(cells: "pd.DataFrame") -> dict[str, Any]:
    """The cell with the highest mean of log-probability accuracy and strict greedy success; ties to the weaker one.

    Log-probability accuracy alone would favour strengths at which the text itself is already ruined.
    """
    rows = cells.sort_values(["scale", "layer"], kind="stable").to_dict("records")
    found = best(rows, lambda row: row["correct_percent"] + row["strict_percent"])
    assert found is not None
    return {str(name): value for name, value in found.items()}


def _controls(
    bench: Bench,
    task: MemoTrap,
    direction: Direction,
    layer: int,
    scale: float,
    n_random: int,
    baseline: "pd.DataFrame",
) -> "tuple[pd.DataFrame, dict[str, list[pd.DataFrame]]]":
    """The chosen cell beside the flipped vector and random directions of the same norm; and the sample rows of all."""
    import pandas as pd

    random = [random_direction(bench.model, seed=seed, site=direction.site) for seed in range(n_random)]
    cells = [("mined", None, _cell(task, direction, scale)), ("mined, flipped", None, _cell(task, direction, -scale))]
    cells += [("random", seed, _cell(task, one, scale)) for seed, one in enumerate(random)]
    bench.prefetch(wanted for *_, wanted in cells)
    tables = [bench.rows(wanted) for *_, wanted in cells]
    rows = [{"control": "unsteered", "seed": None, **percentages(baseline)}]
    rows += [
        {"control": name, "seed": seed, **percentages(found)}
        for (name, seed, _), found in zip(cells, tables, strict=True)
    ]
    table = pd.DataFrame(rows).astype({"seed": "Int64"})
    runs: dict[str, list[pd.DataFrame]] = {}
    for (name, *_), found in zip(cells, tables, strict=True):
        runs.setdefault(name, []).append(found)
    return table.assign(layer=layer, scale=scale), runs


def _side_effects(bench: Bench, direction: Direction, layer: int, strengths: Sequence[float]) -> "pd.DataFrame":
    """Accuracy by strength with its interval, at the chosen layer, on the bundled organism's other questions."""
    import pandas as pd

    cells = []
    for task in (make() for make in _SIDE_TASKS):
        for strength in (0.0, *strengths):
            scale = strength * direction.activation_norm
            wanted = _cell(task, direction, scale) if strength else Wanted(task)
            cells.append(({"task": task.name, "layer": layer, "strength": strength, "scale": scale}, wanted))
    bench.prefetch(wanted for _, wanted in cells)
    rows = []
    for row, wanted in cells:
        found = mean_interval(bench.rows(wanted)["correct"].astype(float))
        rows.append(row | interval_columns(["percent"], found[:3], factor=100) | {"n": found.n})
    return pd.DataFrame(rows)


def _summary(grid: "pd.DataFrame", controls: "pd.DataFrame", chosen: Any, baseline: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    on_evaluation = grid[(grid["split"] == "evaluation") & (grid["kind"] == "relative")]
    same = (on_evaluation["layer"] == chosen["layer"]) & (on_evaluation["strength"] == chosen["strength"])
    paper = _best(grid[grid["split"] == "evaluation"])
    random = controls[controls["control"] == "random"]
    flipped = controls[controls["control"] == "mined, flipped"].iloc[0]
    rows = [
        {"row": "unsteered", **percentages(baseline)},
        _row("mined vector, cell chosen on the mining traps", on_evaluation[same].iloc[0], chosen),
        _row("mined vector, best cell on the evaluation traps", paper, paper),
        _row("flipped vector, same cell", flipped, chosen),
    ]
    for name, reduce in (("mean", "mean"), ("smallest", "min"), ("largest", "max")):
        values = getattr(random[[f"{s}_percent" for s in SCORES]], reduce)()
        rows.append(_row(f"random directions ({len(random)}), {name}", values, chosen))
    return pd.DataFrame(rows).astype({"n": "Int64", "layer": "Int64"})


def _row(name: str, scores: Any, at: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"row": name, "layer": int(at["layer"]), "scale": float(at["scale"])}
    columns = [f"{s}_percent{end}" for s in SCORES for end in ("", "_low", "_high")]
    return row | {column: float(scores[column]) for column in columns if column in scores}


def _layers(model: Any, layers: Sequence[int] | None) -> list[int]:
    sizes = stacks(model)
    count = sizes.get("decoder", sizes.get("blocks", 0))
    if layers is None:
        return list(range(count))
    chosen = wholes(listed("layers", layers))
    if not chosen or not all(0 <= layer < count for layer in chosen):
        raise MechsteerError(f"layers must be some of 0 to {count - 1}, got {shown(layers)}.")
    return sorted(set(chosen))


def _positive(name: str, values: Sequence[float]) -> list[float]:
    """The values, smallest first and each once."""
    numbers = sorted({finite(name, value) for value in listed(name, values)})
    if not numbers or numbers[0] <= 0:
        raise MechsteerError(
            f"{name} must be numbers above 0, got {list(values)}; the unsteered model and the flipped vector are "
            "always run."
        )
    return numbers


def _default_absolute(name: str, mined: dict[int, Direction]) -> list[float]:
    if _published(name) is not None:
        return [500.0, 1000.0, 1500.0]
    norms = sorted(direction.activation_norm for direction in mined.values())
    median = norms[len(norms) // 2]
    return sorted({float(f"{factor * median:.1g}") for factor in (0.5, 1.0, 1.5)})


def _reference(grid: "pd.DataFrame", baseline: "pd.DataFrame") -> "pd.DataFrame":
    """The paper's Tables 2 and 3, the best cell on the evaluation traps, beside ours by the same measure and choice."""
    on_evaluation = grid[grid["split"] == "evaluation"].to_dict("records")
    ours = best(on_evaluation, lambda row: row["success_percent"])
    assert ours is not None
    before = 100 * float(baseline["success"].mean())
    return published("t5_dola_best").assign(
        our_baseline_percent=before,
        our_best_percent=ours["success_percent"],
        our_delta_pp=ours["success_percent"] - before,
        our_best_layer=ours["layer"],
        our_best_strength=ours["strength"],
        our_strength_kind=ours["kind"],
        our_n=ours["n"],
    )


def _published(name: str) -> "pd.DataFrame | None":
    """The paper's heat map for this model, if it is one of the paper's."""
    table = published("t5_dola_heatmap")
    found = table[table["model"] == name]
    return None if found.empty else found.reset_index(drop=True)
