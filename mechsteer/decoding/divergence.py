"""How far a way to steer moves the model: one axis of strength for all of them, which needs no generated token.

For the first tokens y_1 .. y_n of the unsteered model's answers to a few prompts x, the Jensen-Shannon divergences

    JSD(p(. | x, y_<t), q(. | x, y_<t))    (nats, 0 to ln 2)

of the unsteered p and the steered q, and of all these tokens the 95th percentile: steering moves a few tokens and
leaves the rest, which a mean would hide.

A gate (DIRECTER) has no q: it takes one token, which need not be the most likely one. There, q is p with the
probabilities of the token taken and of the most likely one exchanged, the least that makes it so, and the tokens are
those that it writes itself. A gate beside an intervention is compared with the unsteered p on its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.distributions import jsd
from mechsteer.decoding.generate import Generation, generate
from mechsteer.models import advance
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, begin, run_batches

PROMPTS, TOKENS = 3, 16
"""How many prompts, and how many tokens of each answer."""


@dataclass(frozen=True)
class Probe:
    """What candidates are compared with.

    Attributes:
        model: A loaded model.
        prompts: What is asked.
        answers: The first tokens of the unsteered model's answers.
        unsteered: For each, the log-probabilities of the next token.
        batch_size: Prompts computed together.
    """

    model: Any
    prompts: Sequence[Prompt]
    answers: Sequence[Sequence[int]]
    unsteered: Sequence[Float[Tensor, "_ d_vocab"]]
    batch_size: int = PROMPTS

    def divergence(self, way: Any) -> float:
        """The 95th percentile over all tokens, in nats, of anything with a ``steer`` and a ``strategy`` (or None)."""
        if way.strategy is not None:
            return self._gated(way)
        steer = way.steer or Intervention()
        steered = _log_probabilities(self.model, self.prompts, self.answers, steer, self.batch_size)
        found = [jsd(p, q) for p, q in zip(self.unsteered, steered, strict=True)]
        return float(torch.cat(found).quantile(0.95))

    def _gated(self, way: Any) -> float:
        how = {"strategy": way.strategy, "max_new_tokens": TOKENS, "batch_size": self.batch_size}
        made = generate(self.model, self.prompts, steer=way.steer, **how)
        taken, likeliest = (torch.tensor(made.trace[name].to_numpy(float)) for name in ("p_token", "p_raw"))
        if way.steer is not None:  # these are of the model under the intervention
            taken, likeliest = self._said(said(made))
        return float(exchanged(likeliest, taken).quantile(0.95))

    def _said(self, answers: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]:
        """Of each token of some answers, its probability in the unsteered model, and that of the likeliest."""
        read = _log_probabilities(self.model, self.prompts, answers, Intervention(), self.batch_size)
        pairs = [(p.exp(), torch.tensor(list(ids), dtype=torch.long)) for p, ids in zip(read, answers, strict=True)]
        taken = [p[: len(ids)].gather(-1, ids[:, None])[:, 0] for p, ids in pairs]
        return torch.cat(taken), torch.cat([p[: len(ids)].amax(-1) for p, ids in pairs])


def said(made: Generation) -> list[list[int]]:
    """The tokens of each answer, without what fills up those that end before others."""
    return [ids[:length] for ids, length in zip(made.tokens.tolist(), made.lengths, strict=True)]


def exchanged(a: Float[Tensor, "tokens"], b: Float[Tensor, "tokens"]) -> Float[Tensor, "tokens"]:
    """The divergence of a distribution from the one in which two probabilities have changed places, in nats.

    JSD = a ln(a / m) + b ln(b / m) with m = (a + b) / 2.
    """
    mean = (a + b) / 2
    return (torch.xlogy(a, a / mean) + torch.xlogy(b, b / mean)).clamp(min=0.0)


def probe(
    model: Any,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    *,
    count: int = PROMPTS,
    batch_size: int = PROMPTS,
) -> Probe:
    """Read what the unsteered model says.

    Args:
        model: A loaded model.
        prompts: What is asked.
        answers: The tokens that it answered; of answers without any, its next token alone counts.
        count: How many of the prompts are used: the first ones.
        batch_size: Prompts computed together.
    """
    kept = [list(ids)[:TOKENS] for ids in answers[:count]]
    chosen = list(prompts[:count])
    return Probe(model, chosen, kept, _log_probabilities(model, chosen, kept, Intervention(), batch_size), batch_size)


@torch.no_grad()
def _log_probabilities(
    model: Any, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], steer: Intervention, batch_size: int
) -> list[Float[Tensor, "_ d_vocab"]]:
    """For each prompt, of the tokens of its answer (at least the first), all read in one pass."""
    found: list[Tensor] = [torch.empty(0)] * len(prompts)

    def run(step: Step) -> None:
        index = list(step.index or range(len(step.batch)))
        fed = [list(answers[i])[:-1] for i in index]
        longest = max(map(len, fed))
        target = torch.zeros((len(fed), longest), dtype=torch.long)
        real = torch.zeros_like(target, dtype=torch.bool)
        for row, ids in enumerate(fed):
            target[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            real[row, : len(ids)] = True
        state, tokens, mask = begin(model, step)
        logits = advance(model, state, tokens, mask)
        if longest:
            logits = torch.cat([logits, advance(model, state, target, real, logits_at="all")], dim=1)
        for row, place in enumerate(index):
            found[place] = logits[row, : len(fed[row]) + 1].float().log_softmax(-1).cpu()

    run_batches(model, prompts, run, steer=steer, batch_size=batch_size)
    return found
