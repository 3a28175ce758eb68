"""Runs in which one layer's keys of a span are scaled, all layers' in one forward pass of one token.

Row 0 of each prompt is raw and row l + 1 has layer l scaled, on the shared cache of the tokens before; an
encoder-decoder needs a pass of one row first, for its cross-attention's keys. Where keys are scaled is as in
:mod:`mechsteer.steering.keys`: after the rotary embedding, or where there is none in the scores, before what an
intervention does to them. What is measured is in :mod:`mechsteer.analysis.sensitivity`.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mechsteer.errors import MechsteerError, finite, one_of
from mechsteer.models import (
    State,
    fork,
    hooked,
    is_encoder_decoder,
    multiplier,
    post_norm,
    predicting_stack,
    refuse_folded,
    repeat_rows,
    residual,
)
from mechsteer.models.hooking import Kept, check_finite
from mechsteer.steering import Step

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: 1 - cosine_similarity(a, b, dim=-1),
    "l2": lambda a, b: (a - b).norm(dim=-1),
}
"""How far apart two states are; the paper's is the cosine, and L2 its ablation."""


@dataclass(frozen=True)
class KeyScalingDistances:
    """Distances between the input and the output of each layer's attention, when one layer's keys are scaled.

    Attributes:
        raw: dist(Hpre_j, Hpost_j).
        direct: dist(Hpre_j, Hpost_j^l), l first.
        propagated: dist(Hpre_j^l, Hpost_j), l first.
    """

    raw: Float[Tensor, "rows receiving"]
    direct: Float[Tensor, "rows source receiving"]
    propagated: Float[Tensor, "rows source receiving"]


def check_key_scaling(alpha: float, distance: str) -> float:
    """Return ``alpha`` as a float if it is above 0 and ``distance`` is a known one.

    Raises:
        MechsteerError: otherwise.
    """
    one_of("distance", distance, DISTANCES)
    if not finite("alpha", alpha) > 0:
        raise MechsteerError(f"alpha must be above 0, got {alpha}.")
    return float(alpha)


@torch.no_grad()
def key_scaling_distances(
    model: Any,
    state: State,
    tokens: Int[Tensor, "rows 1"],
    mask: Bool[Tensor, "rows 1"],
    columns: Bool[Tensor, "rows keys"],
    *,
    alpha: float = 100.0,
    distance: str = "cosine",
    step: Step | None = None,
) -> KeyScalingDistances:
    """Scale each layer's keys in a run of its own, for a batch that stands before its last prompt token.

    Args:
        model: A loaded model.
        state: What was computed before that token; it stays as it is.
        tokens: The last prompt token of each row; of an encoder-decoder, its start token.
        mask: True at real tokens.
        columns: The keys to scale, that token's own included: of an encoder-decoder, the encoder's positions.
        alpha: Above 0.
        distance: ``"cosine"`` or ``"l2"``.
        step: What the state announces its passes to, when interventions are on the model.

    Raises:
        MechsteerError: for an alpha that is not above 0, another distance, a model whose norms are folded, or
            activations that are not finite.
    """
    refuse_folded(model, "The input of attention is compared as its norm makes it")
    alpha = check_key_scaling(alpha, distance)
    copies = predicting_stack(model)[1] + 1
    if is_encoder_decoder(model) and not state.cross:
        first = fork(state)
        residual(model, first, tokens, mask)
        state = replace(state, cross=first.cross)
    names = _names(model)
    inside = [name for _, *both in names for name in both]
    kept = Kept(inside, lambda x, site: x[:, -1].unflatten(0, (-1, copies)))
    factors = torch.where(columns, alpha, 1.0)
    scaling = [(keys, _scaled(factors, copies, layer)) for layer, (keys, _, _) in enumerate(names)]
    alive = None if step is None else list(range(len(step.batch)) if step.alive is None else step.alive)
    each = [row for row in alive or () for _ in range(copies)]
    shown = nullcontext() if step is None else step.copied(each, [False] * len(each))
    with shown, hooked(model, scaling, first=True), hooked(model, kept.hooks):
        repeated = [x.repeat_interleave(copies, 0) for x in (tokens, mask)]
        residual(model, repeat_rows(state, copies), *repeated)
    found = {name: kept.take(name) for name in dict.fromkeys(inside)}
    for name, x in found.items():
        check_finite(x, name, _places(step, alive, len(x)))
    pre, post = _inputs_and_outputs(model, names, found)
    between = DISTANCES[distance]
    return KeyScalingDistances(
        raw=between(pre[:, 0], post[:, 0]),
        direct=between(pre[:, :1], post[:, 1:]),
        propagated=between(pre[:, 1:], post[:, :1]),
    )


def scaled_sites(model: Any) -> list[str]:
    """For each layer, the hook point where its keys of a span are scaled for one query.

    Scaling a key multiplies its score, so it is the scores; unless a soft cap has bent them, or in an encoder-decoder,
    where they are cross-attention's, which have no position bias.
    """
    if is_encoder_decoder(model):
        name = "cross_attn.hook_attn_scores"
    else:
        name = "attn.hook_rot_k" if model.cfg.attn_scores_soft_cap > 0 else "attn.hook_attn_scores"
    stack, layers = predicting_stack(model)
    return [f"{stack}.{layer}.{name}" for layer in range(layers)]


def _names(model: Any) -> list[tuple[str, str, str]]:
    """For each layer: where its keys are scaled, the input of its attention, and its heads' outputs.

    The input is normalised, unless the norms come after the sublayers.
    """
    norm, attention = ("ln2", "cross_attn") if is_encoder_decoder(model) else ("ln1", "attn")
    read = "hook_resid_pre" if post_norm(model.cfg) else f"{norm}.hook_normalized"
    stack, _ = predicting_stack(model)
    return [
        (keys, f"{stack}.{layer}.{read}", f"{stack}.{layer}.{attention}.hook_z")
        for layer, keys in enumerate(scaled_sites(model))
    ]


def _scaled(factors: Float[Tensor, "rows keys"], copies: int, layer: int) -> Callable[..., None]:
    """A hook that scales one layer's keys in its own row of each prompt, before other edits of that hook point."""

    def scale(x: Tensor, hook: Any) -> None:
        mine = x.unflatten(0, (-1, copies))[:, layer + 1]
        by_key = factors.to(x)
        # In place: the keys after the rotary embedding and the scores were both made for this pass alone.
        mine.mul_(by_key[:, :, None, None] if hook.name.endswith("hook_rot_k") else by_key[:, None, None, :])

    return scale


def _places(step: Step | None, alive: Sequence[int] | None, rows: int) -> list[int]:
    """The place of each row's prompt in the caller's list."""
    here = list(range(rows) if alive is None else alive)
    return here if step is None or step.index is None else [step.index[row] for row in here]


def _inputs_and_outputs(
    model: Any, names: Sequence[tuple[str, str, str]], kept: dict[str, Tensor]
) -> tuple[Float[Tensor, "rows runs layer d_model"], Float[Tensor, "rows runs layer d_model"]]:
    """Hpre and Hpost, float64, on the CPU."""
    pre, post, held = [], [], multiplier(model, "residual")
    blocks = getattr(model, predicting_stack(model)[0])
    for block, (_, normalised, heads) in zip(blocks, names, strict=True):
        norm, attention = (block.ln2, block.cross_attn) if is_encoder_decoder(model) else (block.ln1, block.attn)
        x = kept[normalised] if post_norm(model.cfg) else kept[normalised] * norm.w
        pre.append(x + norm.b if hasattr(norm, "b") and not post_norm(model.cfg) else x)
        made = torch.einsum("rchd,hdm->rcm", kept[heads], attention.W_O) + attention.b_O
        post.append(made / held)
    return torch.stack(pre, 2).double().cpu(), torch.stack(post, 2).double().cpu()
