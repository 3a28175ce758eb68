"""How surprising an answer is to the unsteered model that did not write it.

For the tokens y_1 .. y_n of an answer to a prompt x, the negative log-likelihoods

    s_t = -log p(y_t | x, y_<t)    (nats, natural logarithm, no intervention)

in one pass; a prompt that has several answers is read once. Their mean is high for word salad and low for what anybody
could go on with, such as a loop, so neither end is better: a good answer lies in a band. Where the band lies depends on
the model and on how tokens were chosen: a sample at temperature 1 has the model's own entropy. Hence also the
``excess`` over it,

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
from mechsteer.models import State, advance, is_encoder_decoder, select_rows
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
        batch_size: Answers computed together; fewer where they are long. Does not change the result.

    Raises:
        MechsteerError: if there is not one answer a prompt.
    """
    if len(prompts) != len(answers):
        raise MechsteerError(f"There are {len(prompts)} prompts, but {len(answers)} answers.")
    found = [Surprise(math.nan, math.nan, math.nan)] * len(prompts)
    places = [place for place, ids in enumerate(answers) if len(ids)]
    if not places:
        return found
    asked: dict[tuple[int, ...], list[int]] = {}
    for place in places:
        asked.setdefault(tuple(prompts[place].tokens.tolist()), []).append(place)
    groups = list(asked.values())
    longest = max(len(answers[place]) for place in places)
    if not is_encoder_decoder(model) and max(map(len, prompts)) + longest > model.cfg.n_ctx:
        batch_size = 1  # together, a long prompt and another's long answer would not fit the context

    def run(step: Step) -> None:
        state, tokens, mask = begin(model, step)
        first = advance(model, state, tokens, mask)
        index = step.index or range(len(step.batch))
        waiting = [(place, row) for row, group in enumerate(index) for place in groups[group]]
        waiting.sort(key=lambda one: -len(answers[one[0]]))
        while waiting:
            size = max(1, min(batch_size, LOGITS // (len(answers[waiting[0][0]]) * model.cfg.d_vocab)))
            some, waiting = waiting[:size], waiting[size:]
            rows = torch.tensor([row for _, row in some], device=first.device)
            losses = _losses(model, select_rows(state, rows), first[rows], [answers[place] for place, _ in some])
            for (place, _), (loss, over) in zip(some, losses, strict=True):
                found[place] = Surprise(float(loss.mean()), float(loss.quantile(0.95)), float(over.mean()))

    alone = [prompts[group[0]] for group in groups]
    run_batches(model, alone, run, steer=Intervention(), batch_size=batch_size)
    return found


def _losses(
    model: Any, state: State, logits: Float[Tensor, "rows 1 d_vocab"], answers: Sequence[Sequence[int]]
) -> list[tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]]:
    """The negative log-likelihood of each token of each answer, and its excess over the entropy.

    Args:
        model: A loaded model.
        state: After the prompt of each.
        logits: Of the first token of each.
        answers: Their tokens.
    """
    longest = max(map(len, answers))
    target = torch.zeros((len(answers), longest), dtype=torch.long)
    real = torch.zeros_like(target, dtype=torch.bool)
    for row, ids in enumerate(answers):
        target[row, : len(ids)] = torch.tensor(list(ids))
        real[row, : len(ids)] = True
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
