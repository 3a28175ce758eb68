"""Volatility: how much the lens's distribution changes from one block to the next. Ours.

"DoLa Adaptations for T5" (arXiv 2512.03803) speaks of volatile token preferences without measuring them. Between exits
e - 1 and e, at the position that predicts:

- flip: whether the most likely token changes;
- rank-biased overlap (Webber, Moffat and Zobel 2010, extrapolated to the depth k) of the k most likely tokens,
  ``RBO = p^k X_k / k + (1 - p) / p sum_{d=1..k} p^d X_d / d`` with X_d how many of the first d they share: 1 for equal
  lists, 0 for lists without a common token;
- the Jensen-Shannon divergence of the two distributions, in nats.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.bootstrap import SAMPLES, mean_interval
from mechsteer.analysis.distributions import jsd, most_likely
from mechsteer.analysis.exits import Exits, captured, each_prompts_exits
from mechsteer.analysis.lens import exit_logits
from mechsteer.errors import MechsteerError, finite, positive_int
from mechsteer.models import as_prompts
from mechsteer.prompts import Prompts
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = ("flip_rate", "rbo", "jsd")


@torch.no_grad()
def volatility(
    model: Any,
    prompts: Prompts | Any,
    *,
    normalise: bool = True,
    p: float = 0.9,
    top_k: int = 50,
    steer: Intervention | None = None,
    batch_size: int = 32,
    n_boot: int = SAMPLES,
    seed: int = 0,
    progress: bool = False,
) -> "pd.DataFrame":
    """Change of the lens's distribution at each block.

    Args:
        model: A loaded model. Of captured activations only its read-out is used.
        prompts: One or many; or captured activations: a store, what :func:`mechsteer.capture` returned, one group of
            either (``store.group("with")``), or the library's cache.
        normalise: Apply the final norm at every exit; without it at the last alone.
        p: How much weight deeper ranks have in the overlap, between 0 and 1: 0.9 puts 86 % on the first ten.
        top_k: The depth of the lists that are compared.
        steer: An intervention.
        batch_size: Prompts in one pass; does not change the result.
        n_boot: Resamples of the prompts for the intervals.
        seed: Of the resamples.
        progress: Show a bar.

    Returns:
        One row a block. Columns: exit (after the block), layer (the block), n (prompts), and for each of flip_rate, rbo
        and jsd the mean over prompts and the ends of its 95 % bootstrap interval, e.g. jsd, jsd_low, jsd_high; NaN ends
        for a single prompt.

    Raises:
        MechsteerError: for a p outside (0, 1), activations that are not finite, or an intervention that does not fit.

    Example:
        >>> ms.volatility(model, prompts)
    """
    import pandas as pd

    if not 0 < finite("p", p) < 1:
        raise MechsteerError(f"p must be between 0 and 1, got {p}.")
    positive_int("top_k", top_k)
    given = captured(model, prompts, steer=steer) or as_prompts(model, prompts)
    found: dict[int, Tensor] = {}

    def take(exits: Exits) -> None:
        found[exits.place] = _changes(model, exits, normalise, p, top_k)

    each_prompts_exits(
        model, given, take, steer=steer, batch_size=batch_size, progress="volatility" if progress else ""
    )
    mean, low, high = mean_interval(torch.stack([found[place] for place in sorted(found)]), samples=n_boot, seed=seed)
    blocks = len(mean)
    columns: dict[str, Any] = {"exit": range(1, blocks + 1), "layer": range(blocks), "n": len(found)}
    for place, name in enumerate(QUANTITIES):
        columns |= {name: mean[:, place], f"{name}_low": low[:, place], f"{name}_high": high[:, place]}
    return pd.DataFrame({name: v.tolist() if isinstance(v, Tensor) else v for name, v in columns.items()})


def _changes(model: Any, found: Exits, normalise: bool, p: float, top_k: int) -> Float[Tensor, "blocks 3"]:
    """Flip, overlap and divergence at each block of one prompt."""
    rows, before = [], None
    last = len(found.states) - 1
    for exit, states in enumerate(found.states):
        logits = exit_logits(model, states[0], last=exit == last, normalise=normalise, prompt=found.place)
        now = (logits.log_softmax(-1), most_likely(logits, top_k))
        if before is not None:
            flip = float(now[1][0] != before[1][0])
            rows.append((flip, rank_biased_overlap(before[1], now[1], p), float(jsd(before[0], now[0]))))
        before = now
    return torch.tensor(rows)


def rank_biased_overlap(first: Int[Tensor, "k"], second: Int[Tensor, "k"], p: float = 0.9) -> float:
    """RBO of two lists of k different items each, the most important first."""
    equal = first[:, None] == second[None, :]
    shared = equal.cumsum(0).cumsum(1).diagonal().double()  # X_d
    depth = torch.arange(1, len(first) + 1, dtype=torch.float64, device=first.device)
    agreement = shared / depth
    return float(agreement[-1] * p ** len(first) + (1 - p) / p * (agreement * p**depth).sum())
