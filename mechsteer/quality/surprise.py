"""How surprising an answer is to the unsteered model that did not write it.

For the tokens y_1 .. y_n of an answer to a prompt x, the negative log-likelihoods

    s_t = -log p(y_t | x, y_<t)    (nats, natural logarithm, no intervention)

in one pass. Their mean is high for word salad and low for what anybody could go on with, such as a loop, so neither end
is better: a good answer lies in a band. Where the band lies depends on the model and on how tokens were chosen: a
sample at temperature 1 has the model's own entropy. Hence also the ``excess`` over it,

    e_t = s_t - H(p(. | x, y_<t)),

whose mean is below 0 for greedy text, about 0 for samples and above it for what the model would not say (the local
typicality of arXiv 2202.00666).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models import advance, is_encoder_decoder
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, begin, run_batches

LOGITS = 2**25
"""The most numbers in the logits of a batch: 128 MB in float32."""


@dataclass(frozen=True)
class Surprise:
    """Of one answer's negative log-likelihoods, in nats; NaN without tokens.

    Attributes:
        mean: Their mean.
        p95: Their 95th percentile.
        excess: The mean of what they are over the model's entropy.
    """

    mean: float
    p95: float
    excess: float


@torch.no_grad()
def surprises(
    model: Any, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], *, batch_size: int = 32
) -> list[Surprise]:
    """The surprise of each answer, under the model without any intervention.

    Args:
        model: A loaded model.
        prompts: What was asked.
        answers: The token ids of each answer, without the token that ends it.
        batch_size: Prompts computed together; fewer where answers are long. Does not change the result.

    Raises:
        MechsteerError: if there is not one answer a prompt.
    """
    if len(prompts) != len(answers):
        raise MechsteerError(f"There are {len(prompts)} prompts, but {len(answers)} answers.")
    found = [Surprise(math.nan, math.nan, math.nan)] * len(prompts)
    places = [place for place, ids in enumerate(answers) if len(ids)]
    if not places:
        return found
    longest = max(len(answers[place]) for place in places)
    rows = max(1, min(batch_size, LOGITS // (longest * model.cfg.d_vocab)))
    if not is_encoder_decoder(model) and max(map(len, prompts)) + longest > model.cfg.n_ctx:
        rows = 1  # together, a long prompt and another's long answer would not fit the context

    def run(step: Step) -> None:
        mine = [places[i] for i in (step.index or range(len(step.batch)))]
        for place, (losses, over) in zip(mine, _losses(model, step, [answers[p] for p in mine]), strict=True):
            found[place] = Surprise(float(losses.mean()), float(losses.quantile(0.95)), float(over.mean()))

    run_batches(model, [prompts[place] for place in places], run, steer=Intervention(), batch_size=rows)
    return found


def _losses(
    model: Any, step: Step, answers: Sequence[Sequence[int]]
) -> list[tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]]:
    """The negative log-likelihood of each token of each answer of a batch, and its excess over the entropy."""
    longest = max(map(len, answers))
    target = torch.zeros((len(answers), longest), dtype=torch.long)
    real = torch.zeros_like(target, dtype=torch.bool)
    for row, ids in enumerate(answers):
        target[row, : len(ids)] = torch.tensor(list(ids))
        real[row, : len(ids)] = True
    state, tokens, mask = begin(model, step)
    logits = advance(model, state, tokens, mask)
    if longest > 1:
        more = advance(model, state, target[:, :-1], real[:, :-1], logits_at="all")
        logits = torch.cat([logits, more], dim=1)
    return [_row(logits[row, : len(ids)], target[row, : len(ids)]) for row, ids in enumerate(answers)]


def _row(
    logits: Float[Tensor, "tokens d_vocab"], target: Int[Tensor, "tokens"]
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]:
    logprobs = logits.float().log_softmax(-1)
    losses = -logprobs.gather(1, target[:, None].to(logprobs.device))[:, 0]
    entropy = -(logprobs.exp() * logprobs).nansum(-1)  # 0 * -inf counts nothing
    return losses.cpu(), (losses - entropy).cpu()
