"""Steering attention: changing the pre-softmax scores s (or, the same, the weights A = softmax(s)) of a span's keys.

G are the keys of the span, psi = sum_{j in G} A_j, and all edits are made at ``hook_attn_scores``, after a soft cap.

``attention_bias``: s_ij + Delta for j in G; psi' = e^Delta psi / (e^Delta psi + 1 - psi). GUIDE (arXiv 2409.19001) does
it for all queries, heads and layers; InstABoost (arXiv 2506.13734) multiplies the weights by M and renormalises, which
is Delta = ln M. GUIDE's experiments biased the prompt's pass only (scope ``"prompt"``), its released pipeline every
step (``"all"``).

``pasta``: A'_ij = A_ij / C_i for j in G and alpha A_ij / C_i otherwise, C_i renormalising, in chosen heads (arXiv
2311.02262): the same as ln alpha on the scores outside G. The released code leaves the keys of generated tokens alone,
and takes several stretches of text one by one, each of which scales down all outside itself, so that of n stretches
those that are steered get alpha^(n - 1) and all else alpha^n (``compat="released"``).

``spotlight``: for each query, head and layer, if psi_i < tau then s_ij + ln(tau / psi_i) for j in G (arXiv 2505.12025);
psi' = tau / (1 + tau - psi), a little below tau. The released code takes one psi for all heads and queries of a layer
and sample, and adds the bias to ln(A + 1e-10) (``compat="released"``); there the size of a step matters, so cached
steps differ from a whole pass.

In encoder-decoders the paper's form is defined by nobody; here the edits act where the prompt's tokens are keys: in the
encoder's self-attention, the decoder's cross-attention, or both.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.errors import MechsteerError, finite, one_of, shown, wholes
from mechsteer.models import Fused, parse
from mechsteer.steering.intervention import Edit, Intervention, Where
from mechsteer.steering.registry import METHODS, method
from mechsteer.steering.scope import Scope
from mechsteer.steering.sites import Sites, checked_layers, checked_spans

PLACES = {
    "encoder": (("encoder", "attn_scores"),),
    "cross": (("decoder", "cross_attn_scores"),),
    "both": (("encoder", "attn_scores"), ("decoder", "cross_attn_scores")),
}
"""Where attention is steered in an encoder-decoder; a decoder-only model has its self-attention alone."""

_MASKED = -1e30  # a score at or below this is a mask, and stays one

_FAR = 64.0
"""From here on a bias is taken from the side that it leaves nothing of: scores of 1e6 + s hold little of s."""
_FARTHEST = {torch.float32: 1e30}
_FARTHEST_IN_HALF = 4096.0

Scores = Float[Tensor, "rows heads queries keys"]


def attention_bias(
    span: str | Sequence[str] = "instruction",
    delta: float = 1.0,
    *,
    layers: Sequence[int] | None = None,
    at: str = "both",
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
) -> Intervention:
    """Add ``delta`` to the attention scores of a span's keys (GUIDE; InstABoost(M) is ``delta=math.log(M)``).

    Args:
        span: The prompt's span or spans.
        delta: Delta, in nats; 0 changes nothing.
        layers: Layers to act in, negative ones from the end; None for all.
        at: Encoder-decoders: ``"encoder"``, ``"cross"`` or ``"both"``.
        scope: Which queries: ``"prompt"`` as in GUIDE's experiments, ``"all"`` as in its pipeline.
        rows: Prompts to act on, by their place in the list; None for all.

    Raises:
        MechsteerError: for an infinite delta, unknown options; when run, for a span that the prompt lacks, spans that
            overlap, or layers that the model lacks.

    Example:
        >>> ms.generate(model, prompt, steer=ms.attention_bias("instruction", delta=2.0))
    """
    return _edit("attention_bias", span, finite("delta", delta), layers, at, scope, rows, {})


def pasta(
    span: str | Sequence[str] = "instruction",
    alpha: float = 0.01,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    at: str = "both",
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
    compat: str = "paper",
) -> Intervention:
    """Scale the attention to everything outside a span by ``alpha`` and renormalise (PASTA).

    Args:
        span: The prompt's span or spans.
        alpha: In (0, 1]; 1 changes nothing. The paper's value is 0.01.
        heads: ``(layer, head)`` pairs to steer; None for all, which the paper found worse than a profiled choice.
        at: Encoder-decoders: ``"encoder"``, ``"cross"`` or ``"both"``.
        scope: Which queries; the paper steers all.
        rows: Prompts to act on, by their place in the list; None for all.
        compat: ``"paper"``, or ``"released"``: the keys of generated tokens are not scaled down, and each stretch of
            the spans scales down all outside itself, the other stretches included.

    Raises:
        MechsteerError: for an alpha outside (0, 1], unknown options; when run, for spans, layers or heads that are not
            there.

    Example:
        >>> ms.pasta("instruction", 0.01, heads=[(2, 0), (3, 1)]).explain(model, prompt)
    """
    _check_values("pasta", alpha, compat)
    options: dict[str, Any] = {"compat": compat}
    layers = None
    if heads is not None:
        options["heads"] = [[layer, head] for layer, head in _pairs(heads)]
        layers = sorted({layer for layer, _ in options["heads"]})
    return _edit("pasta", span, float(alpha), layers, at, scope, rows, options)


def _check_values(method: str, strength: float, compat: Any) -> None:
    """Raise for a strength of PASTA or SpotLight, or a form of them, that there is not.

    Raises:
        MechsteerError: with the value.
    """
    if method == "pasta" and not 0 < finite("alpha", strength) <= 1:
        raise MechsteerError(f"alpha must be above 0 and at most 1, got {strength}.")
    if method == "spotlight" and not 0 <= finite("target", strength) <= 1:
        raise MechsteerError(f"target must be between 0 and 1, got {strength}.")
    one_of("compat", str(compat), ("paper", "released"))


def _pairs(heads: Any) -> list[tuple[int, int]]:
    """Layer and head of each.

    Raises:
        MechsteerError: for anything but pairs of whole numbers from 0, or none of them.
    """
    try:
        pairs = [wholes(pair) for pair in heads]
    except TypeError:
        pairs = []
    if not pairs or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise MechsteerError(f"heads must be (layer, head) pairs from 0, e.g. [(2, 0), (3, 1)], got {shown(heads)}.")
    return [(layer, head) for layer, head in pairs]


def spotlight(
    span: str | Sequence[str] = "instruction",
    target: float = 0.1,
    *,
    layers: Sequence[int] | None = None,
    at: str = "both",
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
    compat: str = "paper",
) -> Intervention:
    """Raise each query's share of attention on a span towards ``target`` where it is below (SpotLight).

    Args:
        span: The prompt's span or spans.
        target: tau in [0, 1]; 0 changes nothing. The paper's value is 0.1.
        layers: Layers to act in; None for all, as in the paper.
        at: Encoder-decoders: ``"encoder"``, ``"cross"`` or ``"both"``.
        scope: Which queries; the paper steers all.
        rows: Prompts to act on, by their place in the list; None for all.
        compat: ``"paper"``: a share for each query and head. ``"released"``: one for a layer and sample.

    Raises:
        MechsteerError: for a target outside [0, 1], unknown options; when run, for spans or layers that are not there.

    Example:
        >>> ms.generate(model, prompt, steer=ms.spotlight("instruction", target=0.1))
    """
    _check_values("spotlight", target, compat)
    return _edit("spotlight", span, float(target), layers, at, scope, rows, {"compat": compat})


def _edit(
    name: str,
    span: str | Sequence[str],
    strength: float,
    layers: Sequence[int] | None,
    at: str,
    scope: str | Sequence[int],
    rows: Sequence[int] | None,
    options: dict[str, Any],
) -> Intervention:
    kinds = (("blocks", "attn_scores"), *PLACES[one_of("at", at, PLACES)])
    spans = checked_spans(span, name, METHODS[name].strength)
    sites = Sites(kinds, checked_layers(layers))
    return Intervention.of(name, sites, strength, scope=scope, rows=rows, spans=spans, options=options)


def check_attention(edit: Edit, model: Any) -> None:
    """Raise if a head is out of range, or a value that came from a file is none that the methods take.

    Raises:
        MechsteerError: with the head and the number of heads, or the value.
    """
    if edit.method in ("pasta", "spotlight"):
        _check_values(edit.method, edit.strength, edit.options.get("compat"))
    for layer, head in _pairs(edit.options["heads"]) if "heads" in edit.options else ():
        if head >= model.cfg.n_heads:
            raise MechsteerError(
                f"{edit.method}: head {head} of layer {layer} is out of range: heads are 0 to {model.cfg.n_heads - 1}."
            )


def fuse_bias(edit: Edit, fused: Fused, where: Where) -> bool:
    """s_ij + Delta for j in G, in the inputs of the fused kernel."""
    columns = where.columns(edit.span_scopes(), fused.keys, fused.like.device)
    if not edit.strength:
        return True  # so that it is the unsteered pass to the last bit
    if abs(edit.strength) > _FAR:
        left, by = _far_side(edit.strength, columns, fused.like.dtype)
        both = fused.sees(~left) & where.query_mask(fused.rows, fused.queries, fused.like.device)
        return fused.bias(both.to(fused.like), left.to(fused.like) * -by)
    queries = None if isinstance(where.queries, bool) else where.queries.to(fused.like)
    return fused.bias(queries, columns.to(fused.like) * edit.strength)


@method(
    "attention_bias",
    check=check_attention,
    fuse=fuse_bias,
    takes="span",
    make=lambda span, delta: attention_bias(span, delta),
    strength="delta",
)
def apply_bias(edit: Edit, x: Scores, where: Where) -> Scores:
    """s_ij + Delta for j in G."""
    columns = where.columns(edit.span_scopes(), x.shape[-1], x.device)
    if abs(edit.strength) <= _FAR:
        return _biased(x, where, columns, edit.strength)
    left, by = _far_side(edit.strength, columns, x.dtype)
    seen = x > max(_MASKED, torch.finfo(x.dtype).min / 2)
    both = (seen & ~left[:, None, None, :]).any(-1, keepdim=True)
    return torch.where(both, _biased(x, where, left, -by), x)


def _far_side(
    delta: float, columns: Bool[Tensor, "rows keys"], dtype: torch.dtype
) -> tuple[Bool[Tensor, "rows keys"], float]:
    """The keys that a large bias leaves nothing of, and how much is to be taken from their scores.

    A softmax is the same when all scores of a query move together. So a query that sees keys of both sides may have the
    bias on either, and one that sees those of one side needs none.
    """
    return (columns if delta < 0 else ~columns), min(abs(delta), _FARTHEST.get(dtype, _FARTHEST_IN_HALF))


@method(
    "pasta",
    check=check_attention,
    fuse=lambda edit, fused, where: edit.strength == 1.0,  # without the scores, only what changes nothing
    takes="span",
    make=lambda span, alpha: pasta(span, alpha),
    strength="alpha",
)
def apply_pasta(edit: Edit, x: Scores, where: Where) -> Scores:
    """s_ij + ln alpha for j outside G, in the chosen heads."""
    inside = where.columns(edit.span_scopes(), x.shape[-1], x.device)
    outside, bias = ~inside, math.log(edit.strength)
    if edit.options["compat"] == "released":
        stretches = where.stretches(edit.span_scopes(), x.device)
        outside = where.columns((Scope("prompt"),), x.shape[-1], x.device)
        bias = bias * (stretches[:, None] - inside.to(x.dtype))[:, None, None, :]
    biased = _biased(x, where, outside, bias)
    if "heads" not in edit.options:
        return biased
    parsed = parse(where.site)
    chosen = {head for layer, head in edit.options["heads"] if parsed is not None and layer == parsed[1]}
    mask = torch.tensor([head in chosen for head in range(x.shape[1])], device=x.device)
    return torch.where(mask[None, :, None, None], biased, x)


@method(
    "spotlight",
    check=check_attention,
    fuse=lambda edit, fused, where: edit.strength == 0.0,
    pools=lambda edit: edit.options.get("compat") == "released",
    takes="span",
    make=lambda span, target: spotlight(span, target),
    strength="target",
)
def apply_spotlight(edit: Edit, x: Scores, where: Where) -> Scores:
    """s_ij + ln(tau / psi_i) for j in G, where psi_i < tau."""
    inside = where.columns(edit.span_scopes(), x.shape[-1], x.device)
    queries = where.query_mask(x.shape[0], x.shape[2], x.device)[:, None, :]
    scores = x.float()
    if edit.options["compat"] == "released":
        return _spotlight_released(edit.strength, scores, inside, queries).to(x.dtype)
    among = torch.where(inside[:, None, None, :] & (scores > _MASKED), scores, -math.inf)
    share = among.logsumexp(-1) - scores.logsumexp(-1)  # ln psi: a psi that would underflow is raised like any other
    target = math.log(edit.strength) if edit.strength else -math.inf
    low = queries & (share > -math.inf) & (share < target)
    bias = torch.where(low, target - share, 0.0)
    return (scores + bias[..., None] * inside[:, None, None, :]).to(x.dtype)


def _spotlight_released(
    target: float,
    scores: Scores,
    inside: Bool[Tensor, "rows keys"],
    queries: Bool[Tensor, "rows 1 queries"],
) -> Scores:
    """One psi for the queries and heads of a layer and sample; ln(A + 1e-10) + ln(tau / psi) for j in G."""
    weights = scores.softmax(-1).nan_to_num()  # padded queries may see no key at all
    counted = queries.expand(weights.shape[:3])
    share = ((weights * inside[:, None, None, :]).sum(-1) * counted).sum((1, 2), keepdim=True)
    share = share / counted.sum((1, 2), keepdim=True).clamp(min=1)
    low = counted & (share > 0) & (share < target)
    bias = torch.where(low, math.log(target or 1.0) - share.clamp(min=torch.finfo(share.dtype).tiny).log(), 0.0)
    start = torch.where(scores > _MASKED, (weights + 1e-10).log(), scores)
    return torch.where(low[..., None], start + bias[..., None] * inside[:, None, None, :], scores)


def _biased(x: Scores, where: Where, columns: Bool[Tensor, "rows keys"], bias: float | Tensor) -> Scores:
    """Add a number, or one a row and key, to the scores of some keys, for the queries that are meant."""
    meant = columns[:, None, None, :]
    if not isinstance(where.queries, bool):
        meant = meant & where.queries[:, None, :, None]
    return torch.where(meant, (x + bias).to(x.dtype), x)
