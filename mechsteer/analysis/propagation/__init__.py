"""How much of a span's tokens has reached each position: the recursion that attention rollout and Influence share.

Of a span U, position k has, before the first layer and after layer l,

    R_k^(0) = 1 if k in U else 0
    J_k     = sum_i A_ki^(l) R_i^(l-1)                      what attention brings, A its weights
    R_k^(l) = s_k^(l) R_k^(l-1) + (1 - s_k^(l)) J_k         s the share of the residual stream

Rollout has one fixed s; Influence takes it from norms (:func:`stream_share`). MLPs act within a position and leave R as
it is. R stays between 0 and 1, and is 1 everywhere if U is the whole input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError


def p_norm(x: Float[Tensor, "*batch size"], p: float) -> Float[Tensor, "*batch"]:
    """The p-norm over the last dimension, for any p from 1 to infinity without overflow or underflow."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return torch.linalg.vector_norm(x / largest, p, dim=-1) * largest[..., 0]


def stream_share(stream: Float[Tensor, "*batch"], update: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """||e|| / (||e|| + ||a||): the share of the stream e beside the update a; 1 where both are 0."""
    total = stream + update
    return torch.where(total > 0, stream / total, 1.0)


def mix(
    before: Float[Tensor, "pos spans"], arriving: Float[Tensor, "pos spans"], share: Float[Tensor, "pos"] | float
) -> Float[Tensor, "pos spans"]:
    """One step of the recursion: R from the R before and what attention brings."""
    weight = share[:, None] if isinstance(share, Tensor) else share
    return weight * before + (1 - weight) * arriving


def recursion(
    attention: Float[Tensor, "layers pos pos"],
    start: Float[Tensor, "pos"],
    share: Float[Tensor, "layers pos"] | float,
) -> Float[Tensor, "layers pos"]:
    """The whole recursion over given attention weights.

    Args:
        attention: The weights of each layer, query by key, mean over heads.
        start: R before the first layer: 1 in the span, 0 elsewhere.
        share: The share of the residual stream, by layer and position or one number.

    Raises:
        MechsteerError: for shapes that do not fit together.
    """
    norms = {"share": share} if isinstance(share, Tensor) else {}
    check_shapes(attention, {"start": start}, norms)
    now, out = start[:, None], []
    for layer, weights in enumerate(attention):
        now = mix(now, weights @ now, share[layer] if isinstance(share, Tensor) else share)
        out.append(now[:, 0])
    return torch.stack(out)


def check_shapes(attention: Any, by_position: Mapping[str, Any], by_layer: Mapping[str, Any]) -> None:
    """Refuse what does not fit attention weights of ``[layers, pos, pos]``, or is not finite.

    Args:
        attention: The weights.
        by_position: By name what should be ``[pos]``.
        by_layer: By name what should be ``[layers, pos]``.

    Raises:
        MechsteerError: naming what does not fit.
    """
    square = isinstance(attention, Tensor) and attention.ndim == 3 and attention.shape[1] == attention.shape[2]
    if not square or not len(attention):
        raise MechsteerError(f"attention must be a tensor [layers, pos, pos], got {_described(attention)}.")
    wanted = dict.fromkeys(by_position, attention.shape[1:2]) | dict.fromkeys(by_layer, attention.shape[:2])
    for name, value in {"attention": attention, **by_position, **by_layer}.items():
        if not isinstance(value, Tensor) or value.shape != wanted.get(name, value.shape):
            raise MechsteerError(f"{name} must be a tensor {list(wanted[name])}, got {_described(value)}.")
        if not value.isfinite().all():
            raise MechsteerError(f"{name} has NaN or infinite numbers.")


def _described(value: Any) -> str:
    return f"{type(value).__name__} {list(getattr(value, 'shape', ()))}" if hasattr(value, "shape") else repr(value)
