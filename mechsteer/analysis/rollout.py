"""Attention rollout from a span: how much of it has reached each position, if stream and attention weigh the same.

Paper: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928): A^ = r I + (1 - r) A with A
the mean over heads and r = 0.5, R^(l) = A^(l) R^(l-1). GUIDE (arXiv 2409.19001) applies it to a span U, which needs one
column of it only: R^(0) = 1 in U, 0 elsewhere, and then :mod:`mechsteer.analysis.propagation` with the fixed share r.

Encoder-decoders (ours; both papers have decoders only): the encoder's self-attention as above. The decoder starts at 0,
for no decoder token is in U; then in each block S = r R^(l-1) + (1 - r) A_self R^(l-1) over the decoder's positions,
and R^(l) = r S + (1 - r) A_cross E with E what the encoder's last layer has.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.propagation import recursion
from mechsteer.analysis.propagation.hooks import Weighing
from mechsteer.analysis.propagation.table import CHUNK, measure
from mechsteer.errors import MechsteerError, finite
from mechsteer.prompts import Prompts
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd


def rollout_of(
    attention: Float[Tensor, "layers pos pos"], start: Float[Tensor, "pos"], *, residual: float = 0.5
) -> Float[Tensor, "layers pos"]:
    """Rollout over given attention weights (mean over heads), from 1 in the span and 0 elsewhere.

    Raises:
        MechsteerError: for shapes that do not fit together, numbers that are not finite, or a residual outside [0, 1].
    """
    return recursion(attention, start, _share(residual))


@torch.no_grad()
def rollout(
    model: Any,
    prompt: Prompts | Any = None,
    span: str | Sequence[str] = "instruction",
    *,
    residual: float = 0.5,
    skip_first: bool = False,
    delta: float | Iterable[float] = 0.0,
    steer: Intervention | None = None,
    continuation: str | Sequence[str] | None = None,
    chunk: int = CHUNK,
) -> "pd.DataFrame":
    """Attention rollout of spans at every layer and position.

    Args:
        model: A loaded model; or captured activations: a store or what :func:`mechsteer.capture` returned, with
            ``sites="rollout:instruction"`` at ``positions="all"``, or the library's cache, which has all forms.
        prompt: One prompt or several; each is run alone. Of captured activations None.
        span: One span of the prompts or several, measured in one forward pass.
        residual: The share of the residual stream, 0 to 1.
        skip_first: Leave the first position out, where a model has its attention sink: of each layer's mean over heads,
            the weights of the other keys alone, renormalised. The table lacks that position and has the column
            ``skip_first``, from which :func:`mechsteer.plots.token_map` says it in its title.
        delta: GUIDE's bias on the span's keys, in nats, put on after ``steer``; several for a sweep. Each span is
            biased alone.
        steer: An intervention to measure under.
        continuation: Text that follows the prompts, one for all or one each; in encoder-decoders, in the decoder.
        chunk: Positions in one pass of the predicting stack. Less takes less memory.

    Returns:
        One row a prompt, span, delta, stack, layer and position: columns prompt (its place), span, delta, stack, layer,
        position, token and rollout, which is what the position has after that layer.

    Raises:
        MechsteerError: for a span that a prompt lacks or that is empty, a prompt longer than the context, a residual
            outside [0, 1], a delta that is not finite, NaN in the attention scores (with the site), or an intervention
            that does not fit.

    Example:
        >>> ms.rollout(model, prompt, skip_first=True)
    """
    return measure(
        model,
        prompt,
        span,
        Weighing(residual=_share(residual), skip_first=skip_first),
        quantity="rollout",
        delta=delta,
        steer=steer,
        continuation=continuation,
        chunk=chunk,
    )


def _share(residual: float) -> float:
    share = finite("residual", residual)
    if not 0 <= share <= 1:
        raise MechsteerError(f"residual must be between 0 and 1, got {residual}.")
    return share
