"""The measured parts of the study of composition, one function a table."""

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.bootstrap import interval, resamples
from mechsteer.studies.compose.interference import (
    first_logits,
    interference_of,
    order_difference,
    overlap,
    with_interval,
)
from mechsteer.studies.compose.methods import METHODS, REFERENCE, Point, Ways, together
from mechsteer.studies.directer.bench import MEASURES, ZERO_SHOT, Way, Work, difference, means

if TYPE_CHECKING:
    import pandas as pd

PAIRS = tuple(combinations(METHODS, 2))

Setting = Mapping[str, Point]
"""The strength, and layer, of every method."""


def chosen(work: Work, made: Ways) -> "pd.DataFrame":
    """Layers at the reference strength, then strengths at the best layer, on the prompts to choose on.

    ``chosen`` has the best average; of equals the lowest layer, the weakest strength. ``half`` is a weaker strength:
    the one whose adherence is nearest to halfway between the unsteered model's and the chosen one's.
    """
    import pandas as pd

    task = work.validation()
    start = means(work.samples(ZERO_SHOT, task))
    rows: list[dict[str, Any]] = [{"method": "none", "stage": "", "layer": -1, "strength": 0.0, **start}]
    for method, grid in METHODS.items():
        points = [Point(REFERENCE[method], layer) for layer in made.layers[method]] if method in REFERENCE else []
        layers = [_tried(work, made, method, "layer", point) for point in points]
        layer = best(layers)["layer"] if layers else -1
        cells = [_tried(work, made, method, "strength", Point(strength, layer)) for strength in grid]
        top = best(cells)
        half = halfway(cells[: cells.index(top)] or [top], start["adherence_percent"], top["adherence_percent"])
        rows += [{**row, "chosen": row["layer"] == layer, "half": False} for row in layers]
        rows += [{**row, "chosen": row is top, "half": row is half} for row in cells]
    return pd.DataFrame(rows).fillna({"chosen": False, "half": False}).astype({"chosen": bool, "half": bool})


def _tried(work: Work, made: Ways, method: str, stage: str, point: Point) -> dict[str, Any]:
    task = work.validation()
    measured = means(work.samples(made.make(method, point, task), task))
    return {"method": method, "stage": stage, "layer": point.layer, "strength": point.strength, **measured}


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the best average; of equals the first."""
    return max(rows, key=lambda row: row["average_percent"])


def halfway(rows: list[dict[str, Any]], low: float, high: float) -> dict[str, Any]:
    """The row whose adherence is nearest to the middle; of equals the first."""
    return min(rows, key=lambda row: abs(row["adherence_percent"] - (low + high) / 2))


def settings(choice: "pd.DataFrame") -> dict[str, dict[str, Point]]:
    """Every method's point by setting, ``chosen`` and ``half``."""
    rows = choice[choice["stage"] == "strength"].to_dict("records")
    return {
        name: {row["method"]: Point(float(row["strength"]), int(row["layer"])) for row in rows if row[name]}
        for name in ("chosen", "half")
    }


def _way(work: Work, made: Ways, setting: Setting, names: tuple[str, ...]) -> Way:
    """The named methods together, in that order; none for the unsteered model."""
    way = ZERO_SHOT
    for name in names:
        way = together(way, made.make(name, setting[name], work.task()))
    return way


def summary(work: Work, made: Ways, strengths: Mapping[str, Setting]) -> "pd.DataFrame":
    """Nothing, every method alone and every pair, at each setting."""
    import pandas as pd

    rows = [{"setting": "", "first": "", "second": "", **means(work.samples(ZERO_SHOT))}]
    for name, setting in strengths.items():
        for names in (*((one,) for one in METHODS), *PAIRS):
            table = work.samples(_way(work, made, setting, names))
            first, second = (*names, "")[:2]
            at = {
                f"{place}_strength": setting[n].strength for place, n in zip(("first", "second"), names, strict=False)
            }
            rows.append({"setting": name, "first": first, "second": second, **at, **means(table)})
    return pd.DataFrame(rows)


def gains(work: Work, made: Ways, strengths: Mapping[str, Setting]) -> "pd.DataFrame":
    """What each pair adds to the better of its two, and what is beyond the sum of both gains."""
    import pandas as pd

    start, rows = work.samples(ZERO_SHOT), []
    for name, setting in strengths.items():
        alone = {method: work.samples(_way(work, made, setting, (method,))) for method in METHODS}
        for first, second in PAIRS:
            pair = work.samples(_way(work, made, setting, (first, second)))
            for measure in MEASURES:
                columns = [table[measure] for table in (start, alone[first], alone[second], pair)]
                values = torch.tensor(pd.concat(columns, axis=1).to_numpy(dtype=float))
                better = first if values[:, 1].mean() >= values[:, 2].mean() else second
                where = {"setting": name, "first": first, "second": second, "measure": measure, "better": better}
                rows.append({**where, **gain(values)})
    return pd.DataFrame(rows)


def gain(values: Float[Tensor, "n four"]) -> dict[str, Any]:
    """Gain and excess of a pair, in percentage points, from each prompt's scores: unsteered, A, B, A + B (0 to 1)."""
    estimates = 100 * torch.cat([torch.ones(1, len(values)), resamples(len(values))]).double() @ values / len(values)
    zero, one, two, both = estimates.unbind(-1)
    found: dict[str, Any] = {"pair_percent": float(both[0]), "better_percent": float(torch.maximum(one, two)[0])}
    for label, x in (("gain", both - torch.maximum(one, two)), ("excess", both - one - two + zero)):
        low, high = (float(end) for end in interval(x[1:]))
        found |= {f"{label}_pp": float(x[0]), f"{label}_low_pp": low, f"{label}_high_pp": high}
        found[f"{label}_verdict"] = "above" if low > 0 else "below" if high < 0 else "not told apart"
    return {**found, "n": len(values)}


def interference(work: Work, made: Ways, strengths: Mapping[str, Setting]) -> "pd.DataFrame":
    """How far the logit changes of each pair are from additive, and how much alike those of its two are."""
    import pandas as pd

    start, rows = _logits(work, ZERO_SHOT), []
    for name, setting in strengths.items():
        alone = {method: _logits(work, _way(work, made, setting, (method,))) - start for method in METHODS}
        for first, second in PAIRS:
            both = _logits(work, _way(work, made, setting, (first, second))) - start
            values = interference_of(alone[first], alone[second], both)
            changes = {"first": alone[first], "second": alone[second], "pair": both}
            rows.append(
                {
                    "setting": name,
                    "first": first,
                    "second": second,
                    **with_interval("interference", values),
                    **with_interval("overlap", overlap(alone[first], alone[second])),
                    **{f"change_{key}": float(d.norm(dim=-1).mean()) for key, d in changes.items()},
                    "undefined": int(values.isnan().sum()),
                    "n": len(values),
                }
            )
    return pd.DataFrame(rows)


def _logits(work: Work, way: Way) -> Float[Tensor, "prompts d_vocab"]:
    work.bar.update()
    return first_logits(work.model, work.task().prompts(work.model), way, batch_size=work.batch_size)


def orders(work: Work, made: Ways, setting: Setting) -> "pd.DataFrame":
    """A vector and features at the SAE's hook point, in both orders."""
    import pandas as pd

    task, rows = work.task(), []
    start = _logits(work, ZERO_SHOT)
    for vector in ("means", "gradient"):
        one = made.make(vector, Point(setting[vector].strength, made.sae_layer), task)
        for operation in ("set", "add"):
            other = Way(made.edited(operation, setting["features"].strength, task))
            both = together(one, other), together(other, one)
            changes = [_logits(work, way) - start for way in (one, other, *both)]
            apart = with_interval("logit_difference", order_difference(*changes))
            forward, backward = (work.samples(way) for way in both)
            for row in difference(backward, forward)[:2]:
                measure = row["measure"]
                shares = {
                    "vector_first_percent": 100 * float(forward[measure].mean()),
                    "features_first_percent": 100 * float(backward[measure].mean()),
                }
                kept = {key: row[key] for key in ("measure", "difference_pp", "low_pp", "high_pp", "verdict", "n")}
                rows.append({"vector": vector, "operation": operation, **kept, **shares, **apart})
    return pd.DataFrame(rows)


def matrix(table: "pd.DataFrame", column: str) -> "pd.DataFrame":
    """A symmetric matrix of a column by method: pairs, and on the diagonal what one does alone; NaN where unknown."""
    import pandas as pd

    found = pd.DataFrame(float("nan"), index=list(METHODS), columns=list(METHODS))
    for row in table.to_dict("records"):
        first, second = row["first"], row["second"] or row["first"]
        if first:
            found.loc[first, second] = found.loc[second, first] = row[column]
    return found
