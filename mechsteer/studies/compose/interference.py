"""How far the changes that two ways to steer make to the first new token's logits are from adding up.

See :mod:`mechsteer.studies.compose` for the definition, which is ours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.bootstrap import interval, interval_columns, resamples
from mechsteer.decoding.strategies import Pass
from mechsteer.decoding.trials import GatedChooser
from mechsteer.errors import MechsteerError
from mechsteer.models import advance
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, begin, run_batches
from mechsteer.studies.directer.bench import Way

Logits = Float[Tensor, "prompts d_vocab"]


@torch.no_grad()
def first_logits(model: Any, prompts: Sequence[Prompt], way: Way, *, batch_size: int) -> Logits:
    """The logits that the first new token of each prompt is chosen by, each row centred; float32, on the CPU.

    Raises:
        MechsteerError: for a strategy other than greedy decoding or a gated one.
    """
    rows: list[Tensor] = [torch.empty(0)] * len(prompts)
    chooser = None if way.strategy is None else way.strategy.chooser(model)
    if chooser is not None and not isinstance(chooser, GatedChooser):
        raise MechsteerError(f"Logits are known of greedy and gated decoding, not of {way.strategy!r}.")

    def run(step: Step) -> None:
        state, tokens, mask = begin(model, step)
        index = list(step.index or range(len(step.batch)))
        if chooser is None:
            found = advance(model, state, tokens, mask)[:, -1].float()
        else:
            found = chooser.first_logits(Pass(model, state, tokens, mask, step, index, [[] for _ in index]))
        for place, row in zip(index, (found - found.mean(-1, keepdim=True)).cpu(), strict=True):
            rows[place] = row

    steer = way.steer if way.steer is not None else Intervention(())
    run_batches(model, prompts, run, steer=steer, batch_size=batch_size)
    return torch.stack(rows)


def interference_of(first: Logits, second: Logits, both: Logits) -> Float[Tensor, "prompts"]:
    """|d(A + B) - d(A) - d(B)| / (|d(A)| + |d(B)|) from the three changes; NaN where neither changes anything."""
    return _relative(both - first - second, first, second)


def order_difference(first: Logits, second: Logits, one: Logits, other: Logits) -> Float[Tensor, "prompts"]:
    """|d(A + B) - d(B + A)| / (|d(A)| + |d(B)|); NaN where neither changes anything."""
    return _relative(one - other, first, second)


def _relative(difference: Logits, first: Logits, second: Logits) -> Float[Tensor, "prompts"]:
    sizes = first.double().norm(dim=-1) + second.double().norm(dim=-1)
    return torch.where(sizes > 0, difference.double().norm(dim=-1) / sizes, torch.nan)


def overlap(first: Logits, second: Logits) -> Float[Tensor, "prompts"]:
    """The cosine of d(A) and d(B); NaN where one of them is zero."""
    sizes = first.double().norm(dim=-1) * second.double().norm(dim=-1)
    return torch.where(sizes > 0, (first.double() * second.double()).sum(-1) / sizes, torch.nan)


def with_interval(name: str, values: Float[Tensor, "prompts"]) -> dict[str, float]:
    """The mean over the prompts where there is a value, with its interval; NaN where there are none."""
    known = values[~values.isnan()].double()
    if not len(known):
        return interval_columns([name], [float("nan")] * 3)
    ends = interval(resamples(len(known)).double() @ known / len(known))
    return interval_columns([name], [known.mean(), *ends])
