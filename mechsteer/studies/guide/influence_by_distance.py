"""The paper's second figure: how Influence and rollout of an instruction change with layer and distance.

Of the prompts of the longest context, the value of every token behind the instruction, mean over blocks of 20 tokens,
as in the authors' plots. In the paper rollout grows with the distance, because each token mixes in what all before it
have; Influence, which weighs what attention writes against what the stream has, falls.
"""

from typing import TYPE_CHECKING, Any

from mechsteer.analysis import influence, rollout
from mechsteer.stats import mean_interval
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.guide.tasks import TaskByLength

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 20
N = 4
"""Prompts of each kind."""

MEASURES = {"influence": influence, "rollout": rollout}


def flows(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """One row a quantity, layer and block.

    Columns: task, length, quantity, layer, distance (from the end of the span to the middle of the block, in tokens),
    value with low and high (95 %, over prompts; no interval of one prompt), n.
    """
    task = series.make(series.lengths[-1], min(N, series.n))
    made = bench.cell(lambda: _flows(bench.model, task, series.span), task, {"flows": BLOCK, "span": series.span})
    return made.assign(task=series.name, length=series.lengths[-1])


def _flows(model: Any, task: Any, span: str) -> "pd.DataFrame":
    import pandas as pd

    prompts = task.prompts(model)
    ends = [max(p.positions(span)) for p in prompts]
    frames = []
    for quantity, measure in MEASURES.items():
        table = measure(model, prompts, span)
        block = (table["position"] - table["prompt"].map(dict(enumerate(ends))) - 1) // BLOCK
        blocks = table.assign(block=block)[block >= 0].rename(columns={quantity: "value"})
        each = blocks.groupby(["layer", "block", "prompt"])["value"].mean().reset_index()
        for (layer, place), part in each.groupby(["layer", "block"]):
            mean, low, high, n = mean_interval(part["value"])
            where = {"quantity": quantity, "layer": layer, "distance": BLOCK * place + BLOCK / 2}
            frames.append(where | {"value": mean, "low": low, "high": high, "n": n})
    return pd.DataFrame(frames)
