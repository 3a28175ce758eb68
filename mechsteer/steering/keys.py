"""Steering by scaling keys: k'_j = alpha k_j for the tokens j of a span, in chosen layers.

Paper: DIRECTER (arXiv 2603.06745), equation 1, on cached keys after the rotary embedding, alpha = 100. Scaling a key
multiplies its pre-softmax score by alpha, so it is not "more attention to the span": positive scores grow and negative
ones are pushed away.

Where it acts, so that it is exact for each architecture:

- with rotary embeddings: ``hook_rot_k``, after rotation, after a norm of the keys (Qwen 3, where scaling before
  the norm would do nothing) and before a soft cap, on the key-value heads, so on every query head that shares them;
- GPT-2: ``hook_attn_scores``, where a score is nothing but the scaled product;
- T5: ``hook_k`` in the encoder's self-attention (its scores have a position bias that must not be scaled) and
  ``hook_attn_scores`` in cross-attention (which has none). Which of the two is a choice of ours; the paper has no
  encoder-decoder.

The cache keeps the unscaled keys, so a later pass without the edit is an unsteered one.

Keys are made before scores: in a sum with edits of scores (a bias, PASTA, SpotLight) the keys are scaled first, in
whatever order it was written, and alpha multiplies the product of query and key alone, in every architecture.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from mechsteer.errors import MechsteerError, finite, one_of
from mechsteer.models import Fused, parse
from mechsteer.steering.intervention import Edit, Intervention, Where
from mechsteer.steering.registry import method
from mechsteer.steering.scope import Scope, Selection
from mechsteer.steering.sites import Sites, checked_layers, checked_spans

PLACES = {
    "encoder": (("encoder", "k"),),
    "cross": (("decoder", "cross_attn_scores"),),
    "both": (("encoder", "k"), ("decoder", "cross_attn_scores")),
}
"""Where keys are scaled in an encoder-decoder."""


def scale_keys(
    span: str | Sequence[str] = "instruction",
    alpha: float = 100.0,
    *,
    layers: Sequence[int] | None = None,
    at: str = "both",
    scope: str = "all",
    rows: Sequence[int] | None = None,
) -> Intervention:
    """Multiply the keys of a span by ``alpha``.

    Args:
        span: The prompt's span or spans.
        alpha: Above 0; 1 changes nothing. The paper's value is 100.
        layers: Layers to act in, negative ones from the end; None for all.
        at: Encoder-decoders: ``"encoder"``, ``"cross"`` or ``"both"``.
        scope: For which queries: ``"all"``, ``"prompt"`` or ``"generated"``.
        rows: Prompts to act on, by their place in the list; None for all.

    Raises:
        MechsteerError: for an alpha that is not above 0, unknown options; when run, for spans or layers that are not
            there, or a scope that takes some queries of one pass and not others.

    Example:
        >>> ms.scale_keys("instruction", alpha=1.5, layers=[2, 3]).explain(model, prompt)
    """
    one_of("scope", scope, ("all", "prompt", "generated"))
    one_of("at", at, PLACES)
    if not finite("alpha", alpha) > 0:
        raise MechsteerError(f"alpha must be above 0, got {alpha}.")
    spans = checked_spans(span, "scale_keys", "alpha")
    sites = Sites((("blocks", "rot_k"), ("blocks", "attn_scores"), *PLACES[at]), checked_layers(layers))
    return Intervention.of("scale_keys", sites, alpha, scope=scope, rows=rows, spans=spans, options={"at": at})


def fuse_scale_keys(edit: Edit, fused: Fused, where: Where) -> bool:
    """Scale the keys where :func:`apply_scale_keys` would scale the scores; not if some queries are not meant."""
    if where.site.replace("hook_attn_scores", "hook_rot_k") in where.reached:
        return True  # done before the scores were made
    chosen = where.query_mask(fused.rows, fused.queries, fused.like.device)
    if not bool((chosen.any(1) == chosen.all(1)).all()):
        return False
    columns = where.columns(edit.span_scopes(), fused.keys, fused.like.device) & chosen[:, :1]
    return fused.scale(torch.where(columns, edit.strength, 1.0).to(fused.like))


@method(
    "scale_keys",
    fuse=fuse_scale_keys,
    keys=True,
    takes="span",
    make=lambda span, alpha: scale_keys(span, alpha),
    strength="alpha",
)
def apply_scale_keys(edit: Edit, x: Tensor, where: Where) -> Tensor | None:
    """Scale the span's keys, or where there is no place for that, their scores."""
    parsed = parse(where.site)
    kind = parsed[2] if parsed else ""
    if kind in ("attn_scores", "cross_attn_scores"):
        if where.site.replace("hook_attn_scores", "hook_rot_k") in where.reached:
            return None  # done before the scores were made
        columns = where.columns(edit.span_scopes(), x.shape[-1], x.device)
        chosen = where.query_mask(x.shape[0], x.shape[2], x.device)
        return torch.where(chosen[:, None, :, None] & columns[:, None, None, :], x * edit.strength, x)
    rows = _rows(edit, where, x.shape[0], x.shape[1])
    if not rows.any():
        return None
    columns = where.columns(edit.span_scopes(), x.shape[1], x.device) & rows[:, None].to(x.device)
    return torch.where(columns[:, :, None, None], x * edit.strength, x)


def _rows(edit: Edit, where: Where, rows: int, keys: int) -> Bool[Tensor, "rows"]:
    """The rows whose queries are meant; keys are shared by all queries of a pass, so it must be all of a row's or none.

    Which positions a pass has as queries, its keys do not tell. Where the step does not say it either, prompts and what
    follows them are in passes of their own, and a forward without a step's end has all positions as both.

    Raises:
        MechsteerError: if a scope splits a row's queries.
    """
    step, stack = where.step, where.key_stack()
    if step is None:
        return torch.ones(rows, dtype=torch.bool)
    later = stack == "blocks" and step.end is not None and step.end > step.batch.length
    queries = step.new or (keys - step.batch.length if later else keys)
    meant, real = (_mask(step.select(scope, stack, queries), rows, queries) for scope in (edit.scope, Scope()))
    chosen = meant.any(1)
    if bool((meant != real)[chosen].any()):
        raise MechsteerError(
            f"The scope {str(edit.scope)!r} takes some queries of one pass and not others, which scaled keys cannot "
            "do; run it through mechsteer.generate, where prompt and generated tokens are passes of their own."
        )
    return chosen


def _mask(chosen: Selection, rows: int, count: int) -> Bool[Tensor, "rows count"]:
    return torch.full((rows, count), chosen) if isinstance(chosen, bool) else chosen
