"""The plausibility gate of DIRECTER: which steered tokens the unsteered model lets pass.

Paper: <https://arxiv.org/abs/2603.06745>. With p the unsteered next-token distribution, i* its most likely token and
i** the next one, a steered pass's most likely token j is accepted iff

    p[j] >= beta p[i*]

and where ``p[i**] < beta p[i*]`` no token but i* could be: no steered pass is needed. For greedy decoding that is
exact.

The released code asks for ``p[j] > beta p[i*]``, and needs no steered pass where ``p[i**] < beta p[i*] - 1e-9``.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, finite, shown

_RELEASED_MARGIN = 1e-9

Beta = float | Float[Tensor, "rows 1"]
"""One threshold for all rows, or one for each."""


def beta_of(beta: float | Sequence[float], places: Sequence[int], device: torch.device) -> Beta:
    """The thresholds of some prompts, by their places in the list.

    Raises:
        MechsteerError: if there are fewer than prompts.
    """
    if not isinstance(beta, list | tuple):
        return float(beta)  # type: ignore[arg-type]
    if max(places) >= len(beta):
        raise MechsteerError(f"beta is {len(beta)} numbers, one a prompt, but there are more prompts than that.")
    return torch.tensor([beta[place] for place in places], device=device)[:, None]


def checked_betas(beta: float | Sequence[float]) -> None:
    """Check one threshold, or one a prompt.

    Raises:
        MechsteerError: for one that is not above 0 and at most 1, or none.
    """
    if not isinstance(beta, list | tuple):
        checked_beta(beta)  # type: ignore[arg-type]
        return
    if not beta:
        raise MechsteerError(f"beta must be a number above 0 and at most 1, or one for each prompt, got {shown(beta)}.")
    for one in beta:
        checked_beta(one)


def checked_beta(beta: float) -> float:
    """Return ``beta`` as a float if it is above 0 and at most 1.

    Raises:
        MechsteerError: otherwise.
    """
    if not 0 < finite("beta", beta) <= 1:
        raise MechsteerError(f"beta must be above 0 and at most 1, got {beta}.")
    return float(beta)


def settled(p: Float[Tensor, "rows d_vocab"], beta: Beta, *, released: bool = False) -> Bool[Tensor, "rows"]:
    """Whether no other token than the most likely one could be accepted."""
    first, second = p.topk(2, dim=-1).values.split(1, dim=-1)
    return (second < beta * first - (_RELEASED_MARGIN if released else 0.0))[:, 0]


def plausible(
    p: Float[Tensor, "rows d_vocab"], tokens: Int[Tensor, "rows trials"], beta: Beta, *, released: bool = False
) -> Bool[Tensor, "rows trials"]:
    """Whether the tokens are likely enough in the unsteered distribution."""
    least = beta * p.max(dim=-1, keepdim=True).values
    likelihood = p.gather(1, tokens)
    return likelihood > least if released else likelihood >= least
