"""Choosing delta without generating: as much Influence as capitals have, or as a short context leaves.

The paper matches the Influence of the instruction in capitals (:mod:`mechsteer.analysis.match_influence`). A model that
cannot read capitals, like the bundled one, still has an Influence of them. ``shortest context`` is ours: the Influence
that the same instructions have at the shortest length, where they are followed.
"""

from typing import TYPE_CHECKING, Any

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.analysis.match_influence import influences, match_influence
from mechsteer.errors import MechsteerError
from mechsteer.stats import mean_interval
from mechsteer.studies.core.bench import Bench, Wanted
from mechsteer.studies.core.choose import at_edge
from mechsteer.studies.guide.tables import bias, means, scored
from mechsteer.studies.guide.tasks import TaskByLength, worded

if TYPE_CHECKING:
    import pandas as pd

N = 2
"""Prompts of a kind to measure Influence on."""

LOW, HIGH = -4.0, 8.0
TOLERANCE = 0.02


def influence_by_delta(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """Mean Influence of the span by length, wording and delta, with intervals over prompts."""
    import pandas as pd

    frames = []
    for length in series.lengths:
        options = _options(series, {"influence_by": series.deltas})
        frames.append(
            bench.cell(lambda length=length: _influence(bench, series, length), _tasks(series, length), options)
        )
        bench.bar.update()
    return pd.concat(frames, ignore_index=True)


def _influence(bench: Bench, series: TaskByLength, length: int) -> "pd.DataFrame":
    import pandas as pd

    plain, capitals = _prompts(bench, series, length)
    cases = [("plain", plain, delta) for delta in series.deltas] + [("uppercase", capitals, 0.0)]
    rows = []
    for wording, prompts, delta in cases:
        values = influences(bench.model, prompts, series.span, last=series.last, delta=delta)
        found = interval_columns(["influence"], mean_interval(values)[:3])
        rows.append(
            {"task": series.name, "length": length, "wording": wording, "delta": delta, **found, "n": len(values)}
        )
    return pd.DataFrame(rows)


def choice(bench: Bench, series: TaskByLength, strength: "pd.DataFrame") -> "pd.DataFrame":
    """The delta of each length and target, its score, and the score of the grid's best delta (which needs labels).

    ``edge``: whether that is the grid's largest, beyond which a better one may be.
    """
    import pandas as pd

    rows = []
    for length in series.lengths:
        grid = strength[(strength["task"] == series.name) & (strength["form"] == "every step")]
        grid = grid[grid["length"] == length].set_index("delta")["score_percent"]
        best = float(grid.index.to_numpy()[int(grid.to_numpy().argmax())])  # the least, of equal ones
        for target in ("uppercase", "shortest context"):
            if target == "shortest context" and length == series.lengths[0]:
                continue
            options = _options(series, {"choice": target, "bounds": [LOW, HIGH, TOLERANCE]})
            found = bench.cell(
                lambda length=length, target=target: _match(bench, series, length, target),
                _tasks(series, length),
                options,
            )
            row = {"task": series.name, "length": length, "unit": series.unit, **found.iloc[0].to_dict()}
            delta = round(float(row["delta"]), 2)
            if delta == delta:
                row |= means(scored(bench, series, Wanted(series.task(length), bias(series, delta))))
            row |= {"unbiased_percent": float(grid[0.0]), "best_delta": best, "best_percent": grid[best]}
            rows.append(row | {"edge": at_edge(series.deltas, best)})
    return pd.DataFrame(rows)


def _match(bench: Bench, series: TaskByLength, length: int, target: str) -> "pd.DataFrame":
    import pandas as pd

    plain, capitals = _prompts(bench, series, length)
    aim = capitals if target == "uppercase" else _prompts(bench, series, series.lengths[0])[0]
    options: dict[str, Any] = {"together": True, "last": series.last, "low": LOW, "high": HIGH, "tolerance": TOLERANCE}
    try:
        found = match_influence(bench.model, plain, aim, series.span, **options)
    except MechsteerError as error:
        return pd.DataFrame([{"target": target, "delta": float("nan"), "reason": str(error)}])
    row = found.iloc[0]
    return pd.DataFrame(
        [
            {
                "target": target,
                "delta": row["delta"],
                "target_influence": row["target"],
                "unbiased_influence": row["unbiased"],
                "influence": row["influence"],
                "evaluations": int(row["evaluations"]),
                "prompts": len(plain),
                "reason": "",
            }
        ]
    )


def _prompts(bench: Bench, series: TaskByLength, length: int) -> tuple[list[Any], list[Any]]:
    """A few prompts of a length, and the same with the instruction in capitals."""
    task = series.make(length, min(N if series.name == "instructions" else 14, series.n))
    return task.prompts(bench.model), worded(task, "uppercase").prompts(bench.model)


def _tasks(series: TaskByLength, length: int) -> list[Any]:
    return [series.task(length), series.task(series.lengths[0])]


def _options(series: TaskByLength, options: dict[str, Any]) -> dict[str, Any]:
    return {"n": N, "span": series.span, "last": series.last, **options}
