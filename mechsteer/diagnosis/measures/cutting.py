"""What happens when attention to the span is cut, layer group by layer group, beside control spans.

Cut means: 10,000 nats are taken from the attention scores of the span's keys, for all queries, so that their weights
are 0 wherever there is another key. It is done in all layers, and in each quarter of them. What changes is measured on

- ``answer``: the log-probability of the model's own first answer tokens, nats a token;
- ``state``: the last layer's state where the first answer token is predicted, |h' - h| / |h|;
- ``margin``: the log-probability of the token that decides for following, minus that of the one that decides against,
  nats, where both are known (:mod:`mechsteer.diagnosis.decision`).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.decoding.score import score_ids
from mechsteer.diagnosis.decision import Decision, margins
from mechsteer.diagnosis.measures.windows import SPANS
from mechsteer.models import predicting_stack, site
from mechsteer.prompts import Prompt
from mechsteer.sources import last_states
from mechsteer.steering import Intervention, attention_bias

if TYPE_CHECKING:
    import pandas as pd

CUT = -1e4
GROUPS = 4
ALL = "all"


def cut(span: str, layers: Sequence[int] | None = None, rows: Sequence[int] | None = None) -> Intervention:
    """No attention to a span."""
    return attention_bias(span, CUT, layers=layers, rows=rows)


def layer_groups(model: Any) -> dict[str, list[int] | None]:
    """All layers, and quarters of the predicting stack's."""
    count = predicting_stack(model)[1]
    parts = [part.tolist() for part in np.array_split(np.arange(count), min(GROUPS, count))]
    named = {f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]): part for part in parts}
    return {ALL: None, **(named if count > 1 else {})}


def cut_effects(
    model: Any,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    decisions: Sequence[Decision | None],
    batch_size: int,
) -> "pd.DataFrame":
    """What cutting attention to each span changes.

    Args:
        model: A loaded model.
        prompts: Prompts that have the spans :data:`SPANS`.
        answers: The first tokens of each prompt's own answer.
        decisions: The tokens that decide, where they are known.
        batch_size: Prompts computed together.

    Returns:
        One row a prompt, group of layers and span: columns place, layers, span, answer, state (of all layers only),
        margin (of the instruction only; intact minus cut: above 0 where attention to it speaks for following; NaN where
        nobody knows), intact (the margin).
    """
    import pandas as pd

    def answered(steer: Intervention | None) -> Float[Tensor, "prompts"]:
        choices = [[list(ids)] for ids in answers]
        scores, _ = score_ids(model, prompts, choices, steer=steer, batch_size=batch_size)
        return scores[:, 0] / torch.tensor([len(ids) for ids in answers])

    def state(steer: Intervention | None) -> Float[Tensor, "prompts width"]:
        last = site(model, "resid_post", predicting_stack(model)[1] - 1)
        return last_states(model, prompts, [last], steer=steer, batch_size=batch_size)[last]

    def margin(steer: Intervention | None) -> list[float]:
        return margins(model, prompts, decisions, steer=steer, batch_size=batch_size)

    answer, before, intact = answered(None), state(None), margin(None)
    unknown = [math.nan] * len(prompts)
    frames = []
    for name, layers in layer_groups(model).items():
        for span in SPANS:
            steer = cut(span, layers)
            moved = (state(steer) - before).norm(dim=-1) / before.norm(dim=-1) if name == ALL else None
            now = margin(steer) if span == SPANS[0] else unknown
            columns = {
                "place": range(len(prompts)),
                "layers": name,
                "span": span,
                "answer": (answer - answered(steer)).tolist(),
                "state": unknown if moved is None else moved.tolist(),
                "margin": [a - b for a, b in zip(intact, now, strict=True)],
                "intact": intact,
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
