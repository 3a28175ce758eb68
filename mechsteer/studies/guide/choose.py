"""Choosing delta without generating: as much Influence as capitals have, or as a short context leaves.

The paper matches the Influence of the instruction in capitals (:mod:`mechsteer.analysis.match_influence`). A model that
cannot read capitals, like the bundled one, still has an Influence of them. ``shortest context`` is ours: the Influence
that the same instructions have at the shortest length, where they are followed.
"""

from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.bootstrap import mean_interval
from mechsteer.analysis.match_influence import influences, match_influence
from mechsteer.errors import MechsteerError
from mechsteer.identity import cell_key
from mechsteer.studies.core.cells import cell
from mechsteer.studies.guide.tables import Work, bias, means
from mechsteer.studies.guide.tasks import Subject, worded

if TYPE_CHECKING:
    import pandas as pd

N = 2
"""Prompts of a kind to measure Influence on."""

LOW, HIGH = -4.0, 8.0
TOLERANCE = 0.02


def influence_by_delta(work: Work, subject: Subject) -> "pd.DataFrame":
    """Mean Influence of the span by length, wording and delta; percentages of nothing, with intervals over prompts."""
    import pandas as pd

    frames = []
    for length in subject.lengths:
        key = _key(work, subject, length, {"influence_by": subject.deltas})
        frames.append(cell(work.folder, key, lambda length=length: _influence(work, subject, length)))
        work.bar.update()
    return pd.concat(frames, ignore_index=True)


def _influence(work: Work, subject: Subject, length: int) -> "pd.DataFrame":
    import pandas as pd

    plain, capitals = _prompts(work, subject, length)
    cases = [("plain", plain, delta) for delta in subject.deltas] + [("uppercase", capitals, 0.0)]
    rows = []
    for wording, prompts, delta in cases:
        values = influences(work.model, prompts, subject.span, last=subject.last, delta=delta)
        mean, low, high = (float(v) for v in mean_interval(torch.tensor(values)))
        rows.append(
            {
                "task": subject.name,
                "length": length,
                "wording": wording,
                "delta": delta,
                "influence": mean,
                "influence_low": low,
                "influence_high": high,
                "n": len(values),
            }
        )
    return pd.DataFrame(rows)


def choice(work: Work, subject: Subject, strength: "pd.DataFrame") -> "pd.DataFrame":
    """The delta of each length and target, its score, and the score of the grid's best delta (which needs labels)."""
    import pandas as pd

    rows = []
    for length in subject.lengths:
        grid = strength[(strength["task"] == subject.name) & (strength["form"] == "every step")]
        grid = grid[grid["length"] == length].set_index("delta")["score_percent"]
        best = float(grid.index.to_numpy()[int(grid.to_numpy().argmax())])  # the least, of equal ones
        for target in ("uppercase", "shortest context"):
            if target == "shortest context" and length == subject.lengths[0]:
                continue
            key = _key(work, subject, length, {"choice": target, "bounds": [LOW, HIGH, TOLERANCE]})
            found = cell(work.folder, key, lambda length=length, target=target: _match(work, subject, length, target))
            row = {"task": subject.name, "length": length, "unit": subject.unit, **found.iloc[0].to_dict()}
            delta = round(float(row["delta"]), 2)
            if delta == delta:
                row |= means(work.scores(subject, work.task(subject, length), bias(subject, delta)))
            rows.append({**row, "unbiased_percent": float(grid[0.0]), "best_delta": best, "best_percent": grid[best]})
    return pd.DataFrame(rows)


def _match(work: Work, subject: Subject, length: int, target: str) -> "pd.DataFrame":
    import pandas as pd

    plain, capitals = _prompts(work, subject, length)
    aim = capitals if target == "uppercase" else _prompts(work, subject, subject.lengths[0])[0]
    options: dict[str, Any] = {"together": True, "last": subject.last, "low": LOW, "high": HIGH, "tolerance": TOLERANCE}
    try:
        found = match_influence(work.model, plain, aim, subject.span, **options)
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


def _prompts(work: Work, subject: Subject, length: int) -> tuple[list[Any], list[Any]]:
    """A few prompts of a length, and the same with the instruction in capitals."""
    task = subject.make(length, min(N if subject.name == "instructions" else 14, work.n))
    return task.prompts(work.model), worded(task, "uppercase").prompts(work.model)


def _key(work: Work, subject: Subject, length: int, options: dict[str, Any]) -> str:
    tasks = [subject.make(length, work.n), subject.make(subject.lengths[0], work.n)]
    return cell_key(work.model, tasks, options={"n": N, "span": subject.span, "last": subject.last, **options})
