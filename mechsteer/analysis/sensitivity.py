"""Layer sensitivity: how much each layer's attention, and what follows it, answers to the scaling of the span's keys.

Paper: DIRECTER (arXiv 2603.06745), equations 3-6. For each layer l, one run in which only layer l's keys of the span
are multiplied by alpha; with ``Hpre_j`` and ``Hpost_j`` the input and output of layer j's attention at the last prompt
token, raw or (``^l``) in that run, and dist = 1 - cos::

    D_j(l) = [dist(Hpre_j, Hpost_j^l) - dist(Hpre_j, Hpost_j)]      the direct effect
           + [dist(Hpre_j^l, Hpost_j) - dist(Hpre_j, Hpost_j)]      the effect of propagation
    Sensitivity(l) = (1 / L) sum_j D_j(l)

Hpre is what the attention reads: after the input norm, its weight and bias included. Hpost is what its output
projection gives, before a norm that follows it (Gemma 2) and before it is added to the stream.

The released code differs in three ways. It leaves out the subtracted terms; it takes the mean over the scaled layers l
for each receiving layer j (``aggregate="receiving"`` is the paper's, ``"released"`` is this one, clamped at 0), so that
it ranks the layers whose attention's input and output differ most; and its span ends one token late, but the key of the
last prompt token, which is not in its cache yet, is never scaled here. With ``compat="released"`` all three hold, and
``aggregate="released"`` is the first two.

Ours: for an encoder-decoder, the layers are the decoder's, the attention is cross-attention, and the token is the
decoder's start token; the encoder's own attention is left alone. And where the last prompt token is in the span, its
key is scaled with the others, as :func:`mechsteer.steering.scale_keys` does, except under ``compat="released"``.

All runs are one forward pass of that one token: :mod:`mechsteer.analysis.key_scaling`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.analysis.key_scaling import KeyScalingDistances, check_key_scaling, key_scaling_distances
from mechsteer.errors import MechsteerError, one_of, shown
from mechsteer.models import as_prompts, is_encoder_decoder, residual
from mechsteer.prompts import Batch, Prompt, Prompts
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

if TYPE_CHECKING:
    import pandas as pd

AGGREGATES = ("receiving", "released")


@torch.no_grad()
def layer_sensitivity(
    model: Any,
    prompts: Prompts,
    span: str | Sequence[str] = "instruction",
    *,
    alpha: float = 100.0,
    aggregate: str | None = None,
    distance: str = "cosine",
    compat: str = "paper",
    steer: Intervention | None = None,
    batch_size: int = 1,
) -> "pd.DataFrame":
    """How sensitive each layer is to the scaling of a span's keys, by the last prompt token.

    Args:
        model: A loaded model.
        prompts: One prompt or several.
        span: The prompt's span or spans.
        alpha: Above 0; what the keys are multiplied by.
        aggregate: ``"receiving"`` (the paper's mean) or ``"released"`` (the code's); None: as ``compat`` says.
        distance: ``"cosine"`` or ``"l2"``.
        compat: ``"paper"`` or ``"released"``; see the module's text.
        steer: An intervention, in all runs alike.
        batch_size: Prompts in one pass; each is as many rows as there are layers, and one.

    Returns:
        One row a prompt and layer: prompt (its place in the list), layer, sensitivity, direct and propagation (the two
        parts of it), rank (1 is the most sensitive; of equals, the lower layer comes first).

    Raises:
        MechsteerError: for an alpha that is not above 0, unknown options, a span that a prompt does not have or that is
            empty, or activations that are not finite.

    Example:
        >>> ms.layer_sensitivity(model, prompts).groupby("layer")["rank"].median()
    """
    one_of("compat", compat, ("paper", "released"))
    if aggregate is None:
        aggregate = "released" if compat == "released" else "receiving"
    one_of("aggregate", aggregate, AGGREGATES)
    check_key_scaling(alpha, distance)
    if not isinstance(span, str | Sequence):
        raise MechsteerError(f"span must be a name or a list of names, got {shown(span)}.")
    made = as_prompts(model, prompts)
    beyond = int(compat == "released")
    found: list[Tensor] = [torch.empty(0)] * len(made)

    def run(step: Step) -> None:
        columns = span_columns(step.batch, span, beyond=beyond)
        columns = cached_columns(model, columns) if beyond else columns
        state, tokens, mask = begin(model, step)
        if tokens.shape[1] > 1:
            residual(model, state, tokens[:, :-1], mask[:, :-1])
        distances = key_scaling_distances(
            model, state, tokens[:, -1:], mask[:, -1:], columns, alpha=alpha, distance=distance, step=step
        )
        for row, scores in zip(step.index or (), layer_scores(distances, aggregate), strict=True):
            found[row] = scores

    for p in made:
        span_positions(p, span, beyond)  # before anything is run
    run_batches(model, made, run, steer=as_intervention(steer), batch_size=batch_size)
    return _table(found)


def _table(found: Sequence[Float[Tensor, "layer 3"]]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for prompt, scores in enumerate(found):
        for layer, ((total, direct, propagation), rank) in enumerate(
            zip(scores.tolist(), ranking(scores[:, 0]).argsort().tolist(), strict=True)
        ):
            rows.append((prompt, layer, total, direct, propagation, rank + 1))
    return pd.DataFrame(rows, columns=["prompt", "layer", "sensitivity", "direct", "propagation", "rank"])


def ranking(scores: Float[Tensor, "*rows layer"]) -> Int[Tensor, "*rows layer"]:
    """The layers from the most sensitive down; of equals, the lower one first."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def aggregate_scores(
    matrix: Float[Tensor, "*rows source receiving"], aggregate: str = "receiving"
) -> Float[Tensor, "*rows layer"]:
    """One score a layer from the effects of scaling layer ``source`` on layer ``receiving``.

    Args:
        matrix: The effects.
        aggregate: ``"receiving"``: the mean over what each scaled layer does to all; the paper's. ``"released"``: the
            mean, for each receiving layer, over what all scaled ones do to it, effects below 0 counted as 0.

    Raises:
        MechsteerError: for another aggregate.
    """
    one_of("aggregate", aggregate, AGGREGATES)
    return matrix.clamp(min=0).mean(-2) if aggregate == "released" else matrix.mean(-1)


def layer_scores(distances: KeyScalingDistances, aggregate: str = "receiving") -> Float[Tensor, "rows layer 3"]:
    """Sensitivity and its direct and propagation parts, for each layer.

    Args:
        distances: From :func:`key_scaling_distances`.
        aggregate: As :func:`aggregate_scores` has it; ``"released"`` also leaves the distances of the raw run in.

    Raises:
        MechsteerError: for another aggregate.
    """
    subtracted = 0.0 if aggregate == "released" else distances.raw[:, None, :]
    direct, propagation = distances.direct - subtracted, distances.propagated - subtracted
    return torch.stack([aggregate_scores(part, aggregate) for part in (direct + propagation, direct, propagation)], -1)


def span_columns(prompts: Batch, span: str | Sequence[str], *, beyond: int = 0) -> Bool[Tensor, "rows keys"]:
    """Where a span lies among the padded prompts.

    Args:
        prompts: The batch.
        span: The span or spans.
        beyond: How many tokens after the end of each stretch to take in.

    Raises:
        MechsteerError: if a prompt does not have the span, or it is empty.
    """
    columns = torch.zeros_like(prompts.mask)
    for row, (p, start) in enumerate(zip(prompts.prompts, prompts.starts, strict=True)):
        columns[row, [start + position for position in span_positions(p, span, beyond)]] = True
    return columns


def cached_columns(model: Any, columns: Bool[Tensor, "rows keys"]) -> Bool[Tensor, "rows keys"]:
    """The columns whose keys the released code has in its cache at the last prompt token: all but that token's own.

    The keys of cross-attention are there in full.
    """
    if is_encoder_decoder(model):
        return columns
    return torch.cat([columns[:, :-1], torch.zeros_like(columns[:, -1:])], dim=1)


def span_positions(p: Prompt, span: str | Sequence[str], beyond: int = 0) -> list[int]:
    """The positions of a span or spans, and of so many tokens after each stretch.

    Raises:
        MechsteerError: if the prompt does not have one of them, or they are empty.
    """
    names = [span] if isinstance(span, str) else list(span)
    inside = {position for name in names for position in p.positions(name)}
    wider = {position + shift for position in inside for shift in range(beyond + 1)}
    if not inside:
        raise MechsteerError(f"The span {span!r} of {p!r} is empty.")
    return sorted(position for position in wider if position < len(p))
