"""What happens when attention to the span is cut, layer group by layer group, beside control spans.

Cut means: 10,000 nats are taken from the attention scores of the span's keys, for all queries, so that their weights
are 0 wherever there is another key. It is done in all layers, and in each quarter of them. What changes is measured on

- ``answer``: the log-probability of the model's own first answer tokens, nats a token;
- ``state``: the last layer's state where the first answer token is predicted, |h' - h| / |h|;
- ``margin``: the log-probability of the token that decides for following, minus that of the one that decides against,
  nats, where both are known (:mod:`mechsteer.diagnosis.decision`).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.decoding.score import score_ids
from mechsteer.diagnosis.decision import Decision, margins
from mechsteer.diagnosis.windows import SPANS
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
        One row a prompt, group of layers and span: columns place, layers, span, answer, state, margin (intact minus
        cut: above 0 where attention to the span speaks for following; NaN where nobody knows), intact (the margin).
    """
    import pandas as pd

    intact = _measured(model, prompts, answers, decisions, None, batch_size)
    frames = []
    for name, layers, span in _cuts(model):
        now = _measured(model, prompts, answers, decisions, cut(span, layers), batch_size)
        state = (now[1] - intact[1]).norm(dim=-1) / intact[1].norm(dim=-1)
        columns = {
            "place": range(len(prompts)),
            "layers": name,
            "span": span,
            "answer": (intact[0] - now[0]).tolist(),
            "state": state.tolist(),
            "margin": [a - b for a, b in zip(intact[2], now[2], strict=True)],
            "intact": intact[2],
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _cuts(model: Any) -> Iterator[tuple[str, list[int] | None, str]]:
    for name, layers in layer_groups(model).items():
        for span in SPANS:
            yield name, layers, span


def _measured(
    model: Any,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    decisions: Sequence[Decision | None],
    steer: Intervention | None,
    batch_size: int,
) -> tuple[Float[Tensor, "prompts"], Float[Tensor, "prompts width"], list[float]]:
    """Log-probability a token, state, and margin of each prompt."""
    scores, _ = score_ids(model, prompts, [[list(ids)] for ids in answers], steer=steer, batch_size=batch_size)
    lengths = torch.tensor([len(ids) for ids in answers])
    name = site(model, "resid_post", predicting_stack(model)[1] - 1)
    states = last_states(model, prompts, [name], steer=steer, batch_size=batch_size)[name]
    return scores[:, 0] / lengths, states, margins(model, prompts, decisions, steer=steer, batch_size=batch_size)
