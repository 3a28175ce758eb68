"""The measured parts of the study of composition, one function a table."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.bootstrap import interval, resamples
from mechsteer.stats import paired_p
from mechsteer.studies.compose.interference import (
    first_logits,
    interference_of,
    order_difference,
    overlap,
    with_interval,
)
from mechsteer.studies.compose.methods import METHODS, REFERENCE, Point, Ways, together
from mechsteer.studies.core.choose import at_edge, best
from mechsteer.studies.directer.bench import MEASURES, ZERO_SHOT, Setup, Way, adjusted, difference, means, topics
from mechsteer.studies.directer.samples import side_by_side

if TYPE_CHECKING:
    import pandas as pd

PAIRS = tuple(combinations(METHODS, 2))

Setting = Mapping[str, Point]
"""The strength, and layer, of every method."""


def chosen(setup: Setup, made: Ways) -> "pd.DataFrame":
    """Layers at the reference strength, then strengths at the best layer, on the prompts to choose on.

    ``chosen`` has the best average; of equals the lowest layer, the weakest strength. ``half`` is a weaker strength:
    the one whose adherence is nearest to halfway between the unsteered model's and the chosen one's. ``edge`` marks a
    chosen strength beyond which nothing was tried.
    """
    import pandas as pd

    task = setup.validation()
    start = means(setup.samples(ZERO_SHOT, task))
    rows: list[dict[str, Any]] = [{"method": "none", "stage": "", "layer": -1, "strength": 0.0, **start}]
    for method, grid in METHODS.items():
        points = [Point(REFERENCE[method], layer) for layer in made.layers[method]] if method in REFERENCE else []
        layers = _tried(setup, made, method, "layer", points)
        layer = top_of(layers)["layer"] if layers else -1
        cells = _tried(setup, made, method, "strength", [Point(strength, layer) for strength in grid])
        top = top_of(cells)
        half = halfway(cells[: cells.index(top)] or [top], start["adherence_percent"], top["adherence_percent"])
        rows += [{**row, "chosen": row["layer"] == layer, "half": False} for row in layers]
        rows += [
            {**row, "chosen": row is top, "half": row is half, "edge": row is top and at_edge(grid, row["strength"])}
            for row in cells
        ]
    flags = ("chosen", "half", "edge")
    return pd.DataFrame(rows).fillna(dict.fromkeys(flags, False)).astype(dict.fromkeys(flags, bool))


def _tried(setup: Setup, made: Ways, method: str, stage: str, points: Sequence[Point]) -> list[dict[str, Any]]:
    task = setup.validation()
    ways = [made.make(method, point, task) for point in points]
    setup.prefetch(ways, task)
    return [
        {"method": method, "stage": stage, "layer": point.layer, "strength": point.strength}
        | means(setup.samples(way, task))
        for point, way in zip(points, ways, strict=True)
    ]


def top_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the best average; of equals the first."""
    found = best(rows, lambda row: row["average_percent"])
    assert found is not None
    return found


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


def _way(setup: Setup, made: Ways, setting: Setting, names: tuple[str, ...]) -> Way:
    """The named methods together, in that order; none for the unsteered model."""
    way = ZERO_SHOT
    for name in names:
        way = together(way, made.make(name, setting[name], setup.task()))
    return way


def summary(setup: Setup, made: Ways, strengths: Mapping[str, Setting]) -> "pd.DataFrame":
    """Nothing, every method alone and every pair, at each setting."""
    import pandas as pd

    rows = [{"setting": "", "first": "", "second": "", **means(setup.samples(ZERO_SHOT))}]
    for name, setting in strengths.items():
        chosen = {names: _way(setup, made, setting, names) for names in (*((one,) for one in METHODS), *PAIRS)}
        setup.prefetch(chosen.values())
        for names, way in chosen.items():
            table = setup.samples(way)
            first, second = (*names, "")[:2]
            at = {
                f"{place}_strength": setting[n].strength for place, n in zip(("first", "second"), names, strict=False)
            }
            rows.append({"setting": name, "first": first, "second": second, **at, **means(table)})
    return pd.DataFrame(rows)


def answers(setup: Setup, made: Ways, strengths: Mapping[str, Setting], summary: "pd.DataFrame") -> "pd.DataFrame":
    """Answers side by side: the unsteered model's, and at each setting those of the best pair and of its two alone."""
    task = setup.task()
    shown = {"unsteered": (ZERO_SHOT, task)}
    for name, setting in strengths.items():
        pairs = summary[(summary["setting"] == name) & (summary["second"] != "")].reset_index(drop=True)
        top = pairs.loc[int(pairs["average_percent"].to_numpy().argmax())]
        first, second = str(top["first"]), str(top["second"])
        for names in ((first,), (second,), (first, second)):
            shown[f"{' + '.join(names)}, {name} strengths"] = (_way(setup, made, setting, names), task)
    return side_by_side(setup, shown)


def gains(setup: Setup, made: Ways, strengths: Mapping[str, Setting]) -> "pd.DataFrame":
    """What each pair adds to the better of its two, and what is beyond the sum of both gains.

    ``gain_p_by_topic`` flips the signs of whole topics; ``gain_p_adjusted`` is Holm's, over the pairs.
    """
    import pandas as pd

    start, rows = setup.samples(ZERO_SHOT), []
    for name, setting in strengths.items():
        alone = {method: setup.samples(_way(setup, made, setting, (method,))) for method in METHODS}
        for first, second in PAIRS:
            pair = setup.samples(_way(setup, made, setting, (first, second)))
            for measure in MEASURES:
                columns = [table[measure] for table in (start, alone[first], alone[second], pair)]
                values = torch.tensor(pd.concat(columns, axis=1).to_numpy(dtype=float))
                better = first if values[:, 1].mean() >= values[:, 2].mean() else second
                where = {"setting": name, "first": first, "second": second, "measure": measure, "better": better}
                p = paired_p((pair[measure] - alone[better][measure]).tolist(), topics(pair))
                rows.append({**where, **gain(values), "gain_p_by_topic": p})
    table = pd.DataFrame(rows)
    return table.assign(gain_p_adjusted=adjusted(table, "gain_p_by_topic", ["setting", "measure"]))


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


def interference(setup: Setup, made: Ways, strengths: Mapping[str, Setting]) -> "pd.DataFrame":
    """How far the logit changes of each pair are from additive, and how much alike those of its two are."""
    import pandas as pd

    start, rows = _logits(setup, ZERO_SHOT), []
    for name, setting in strengths.items():
        alone = {method: _logits(setup, _way(setup, made, setting, (method,))) - start for method in METHODS}
        for first, second in PAIRS:
            both = _logits(setup, _way(setup, made, setting, (first, second))) - start
            values = interference_of(alone[first], alone[second], both)
            found = with_interval("interference", values)
            changes = {"first": alone[first], "second": alone[second], "pair": both}
            rows.append(
                {
                    "setting": name,
                    "first": first,
                    "second": second,
                    **found,
                    "second_way": beside_half(found["interference_low"], found["interference_high"]),
                    **with_interval("overlap", overlap(alone[first], alone[second])),
                    **{f"change_{key}": float(d.norm(dim=-1).mean()) for key, d in changes.items()},
                    "undefined": int(values.isnan().sum()),
                    "n": len(values),
                }
            )
    return pd.DataFrame(rows)


def beside_half(low: float, high: float) -> str:
    """What interference says beside 1/2, where A + B does only what A does and B does that too."""
    if math.isnan(low):
        return ""
    return "adds" if high < 0.5 else "is in the way" if low > 0.5 else "not told apart from adding nothing"


def _logits(setup: Setup, way: Way) -> Float[Tensor, "prompts d_vocab"]:
    setup.bench.bar.update()
    return first_logits(setup.model, setup.task().prompts(setup.model), way, batch_size=setup.bench.batch_size)


def orders(setup: Setup, made: Ways, setting: Setting) -> "pd.DataFrame":
    """A vector and features at the SAE's hook point, in both orders."""
    import pandas as pd

    task, rows = setup.task(), []
    start = _logits(setup, ZERO_SHOT)
    for vector in ("means", "gradient"):
        one = made.make(vector, Point(setting[vector].strength, made.sae_layer), task)
        for operation in ("set", "add"):
            other = Way(made.edited(operation, setting["features"].strength, task))
            both = together(one, other), together(other, one)
            changes = [_logits(setup, way) - start for way in (one, other, *both)]
            apart = with_interval("logit_difference", order_difference(*changes))
            forward, backward = (setup.samples(way) for way in both)
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
