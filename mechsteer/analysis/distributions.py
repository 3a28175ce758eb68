"""Comparing next-token distributions; all in nats, summed over the vocabulary."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def jsd(log_p: Float[Tensor, "*batch d_vocab"], log_q: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence, 0 to ln 2: 1/2 KL(p || m) + 1/2 KL(q || m) with m = (p + q) / 2.

    Args:
        log_p: Log-probabilities; -inf where a probability is 0.
        log_q: The other ones.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))).clamp(min=0.0)


def _kl(log_p: Float[Tensor, "*batch d_vocab"], log_m: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch"]:
    """KL(p || m), where p = 0 counts as 0."""
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_m), 0.0).sum(-1)


def entropy(log_p: Float[Tensor, "*batch outcomes"]) -> Float[Tensor, "*batch"]:
    """Shannon entropy."""
    return -torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0.0).sum(-1)


def ranks(values: Float[Tensor, "*batch d_vocab"], tokens: Int[Tensor, "*batch named"]) -> Int[Tensor, "*batch named"]:
    """The place of tokens when all are sorted from the largest value down, from 1; equals share the better place."""
    chosen = values.gather(-1, tokens)
    return (values[..., None, :] > chosen[..., :, None]).sum(-1) + 1


def most_likely(values: Float[Tensor, "d_vocab"], k: int) -> Int[Tensor, "k"]:
    """The tokens with the k largest values, the largest first; of equals the lower token, as argmax has it.

    The logits of a model in half precision have many equals. PyTorch's ``topk`` puts these in any order, which would
    look like a change.
    """
    k = min(k, len(values))
    among = (values >= values.topk(k).values[-1]).nonzero()[:, 0]
    return among[values[among].argsort(descending=True, stable=True)][:k]
