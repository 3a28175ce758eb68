"""Influence of a span: attention rollout with the shares of stream and attention taken from their norms.

Paper: GUIDE, "Pay Attention to What Matters" (arXiv 2409.19001). For a span U, I^(0) = 1 in U and 0 elsewhere, and

    J_k     = sum_i A_ki^(l) I_i^(l-1)                                          A the mean over heads
    I_k^(l) = (||e_k|| I_k^(l-1) + ||a_k|| J_k) / (||e_k|| + ||a_k||)

with a_k what the attention adds to the residual stream and e_k the stream it adds it to (``source="residual"``). That
e_k is the stream itself is our reading: the paper's text could not be obtained in full, and asks for the ratio of
"the residual stream and the attention output".

Released code (pay-attention-pipeline): e_k is the attention's input, after the norm (``source="ln_input"``), taken one
layer too early, so that layers 0 and 1 both have layer 0's (``source="ln_input_lagged"``, which reproduces it); a_k is
the attention block's output, in Gemma 2 before the norm that follows it, in Granite before it is scaled. Norms are
1-norms there.

Two options that are off there by default are ours in the details, and do not reproduce its numbers:

- ``values`` weighs keys by their values' norms in each head, J_k = sum_i A_ki ||v_i|| I_i / sum_i A_ki ||v_i|| (0 where
  all are 0; heads that share values share norms). The released code takes one norm a position, over the values of all
  heads together, after a reshape that mixes heads and positions.
- ``heads="weighted"`` weighs the heads' J_k by ||o_k||_2 of what they add to the stream, z_k W_O. The released code
  takes the norms of z_k, before W_O.

Encoder-decoders (ours; the paper has decoders only): the encoder's self-attention as above. The decoder starts at 0,
for no decoder token is in U. In each of its blocks

    S_k     = (||e_k|| I_k^(l-1) + ||a_k|| J_k) / (||e_k|| + ||a_k||)           J = A_self I^(l-1)
    I_k^(l) = (||m_k|| S_k + ||c_k|| K_k) / (||m_k|| + ||c_k||)                 K = A_cross E

with E what the encoder's last layer has, c_k what cross-attention adds and m_k the stream it adds it to; the options
mean the same in each sublayer, and the lag is that of the same sublayer one block before.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.propagation import check_shapes, recursion, stream_share
from mechsteer.analysis.propagation.hooks import Weighing
from mechsteer.analysis.propagation.table import CHUNK, measure
from mechsteer.errors import MechsteerError, one_of, shown
from mechsteer.models import refuse_folded
from mechsteer.prompts import Prompts
from mechsteer.sources import as_recorded
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("residual", "ln_input", "ln_input_lagged")
HEADS = ("mean", "weighted")


def influence_of(
    attention: Float[Tensor, "layers pos pos"],
    stream_norms: Float[Tensor, "layers pos"],
    attention_norms: Float[Tensor, "layers pos"],
    start: Float[Tensor, "pos"],
) -> Float[Tensor, "layers pos"]:
    """Influence over given attention weights (mean over heads) and norms, from 1 in the span and 0 elsewhere.

    Raises:
        MechsteerError: for shapes that do not fit together, or numbers that are not finite.
    """
    norms = {"stream_norms": stream_norms, "attention_norms": attention_norms}
    check_shapes(attention, {"start": start}, norms)
    return recursion(attention, start, stream_share(stream_norms, attention_norms))


@torch.no_grad()
def influence(
    model: Any,
    prompt: Prompts | Any = None,
    span: str | Sequence[str] = "instruction",
    *,
    norm: float = 1,
    source: str = "residual",
    values: bool = False,
    heads: str = "mean",
    delta: float | Iterable[float] = 0.0,
    steer: Intervention | None = None,
    continuation: str | Sequence[str] | None = None,
    chunk: int = CHUNK,
) -> "pd.DataFrame":
    """Influence of spans at every layer and position.

    Args:
        model: A loaded model; or captured activations: a store or what :func:`mechsteer.capture` returned, with
            ``sites="influence:instruction"`` at ``positions="all"``, or the library's cache, which has all forms.
        prompt: One prompt or several; each is run alone. Of captured activations None.
        span: One span of the prompts or several, measured in one forward pass.
        norm: p of the norms, from 1 to infinity.
        source: ``"residual"`` (the paper's, as we read it), ``"ln_input"`` or ``"ln_input_lagged"`` (released code).
        values: Weigh keys by the norms of their values, in each head; not as the released code does.
        heads: ``"mean"``, or ``"weighted"`` by the norms of the heads' outputs; not as the released code does.
        delta: GUIDE's bias on the span's keys, in nats, put on after ``steer``; several for a sweep. Each span is
            biased alone.
        steer: An intervention to measure under.
        continuation: Text that follows the prompts, one for all or one each; in encoder-decoders, in the decoder.
        chunk: Positions in one pass of the predicting stack. Less takes less memory.

    Returns:
        One row a prompt, span, delta, stack, layer and position: columns prompt (its place), span, delta, stack, layer,
        position, token and influence, which is what the position has after that layer.

    Raises:
        MechsteerError: for a span that a prompt lacks or that is empty, a prompt longer than the context, an unknown
            source or heads, a norm below 1, a delta that is not finite, NaN in what is measured (with the site), or an
            intervention that does not fit.

    Example:
        >>> table = ms.influence(model, prompt, delta=[0.0, 2.0])
        >>> table.groupby(["delta", "layer"])["influence"].last()
    """
    weighing = Weighing(
        norm=_norm(norm), source=one_of("source", source, SOURCES), values=values, heads=one_of("heads", heads, HEADS)
    )
    recorded = as_recorded(model)
    made_by = model if recorded is None else recorded.model
    if made_by is not None and (values or (source, heads) != ("residual", "mean")):
        refuse_folded(made_by, "source, values and heads read inputs, values and outputs of heads as they were trained")
    return measure(
        model,
        prompt,
        span,
        weighing,
        quantity="influence",
        delta=delta,
        steer=steer,
        continuation=continuation,
        chunk=chunk,
    )


def _norm(norm: float) -> float:
    try:
        p = float(norm)
    except (TypeError, ValueError):
        p = math.nan
    if not p >= 1:
        raise MechsteerError(f"norm must be a number from 1 to infinity (the p of a p-norm), got {shown(norm)}.")
    return p
