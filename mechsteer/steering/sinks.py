"""Attention sinks, and edits that move one.

In a trained model the first token of a sequence often has a residual stream of a hundred times the norm of any other
("massive activations", arXiv 2402.17762), and other tokens attend to it when they attend to nothing (arXiv 2309.17453).
An edit whose size depends on the state, such as a projection, is then largest where it was never meant, and the model
collapses. The scope ``"content"`` leaves the first token out.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.models import position_stack
from mechsteer.steering.registry import is_own
from mechsteer.steering.scope import Scope

if TYPE_CHECKING:
    from mechsteer.steering.intervention import Edit, Where

SINK_RATIO = 10.0
"""A position is a sink if its norm is at least this many times the median of the sequence's positions."""

_CLEARLY = 1.01  # more than rounding

_said: WeakKeyDictionary[Any, WeakSet[Any]] = (
    WeakKeyDictionary()
)  # by edit: the hook points, which are each a model's own


class SinkWarning(UserWarning):
    """An edit changes the state of an attention sink by more than it changes others.

    Example:
        >>> import warnings
        >>> warnings.filterwarnings("ignore", category=ms.SinkWarning)  # where it is meant
    """


def norm_ratios(
    norms: Float[Tensor, "rows positions"], real: Bool[Tensor, "rows positions"]
) -> Float[Tensor, "rows positions"]:
    """Each norm over the median of its row's real positions; NaN at others."""
    known = norms.masked_fill(~real, torch.nan)
    return known / known.nanmedian(-1, keepdim=True).values


@torch.no_grad()
def watch_sinks(edit: "Edit", x: Float[Tensor, "rows positions *width"], where: "Where", point: Any) -> None:
    """Warn, once for a model and edit, if the edit changes a sink by more than any other position.

    What the edit does elsewhere is taken of all real positions of the row, whether its scope means them or not.

    Args:
        edit: The edit.
        x: What it is about to change.
        where: Where it acts.
        point: The hook point.
    """
    attention = bool(edit.spans)  # what acts on keys of spans changes attention, and no state
    if attention or is_own(edit) or x.shape[1] < 2 or point in _said.get(edit, ()):
        return
    norms, real = x.float().flatten(2).norm(dim=-1), _real(x, where)
    ratios = norm_ratios(norms, real)
    sink = ratios >= SINK_RATIO
    meant = sink & where.query_mask(sink.shape[0], sink.shape[1], sink.device)
    if not meant.any():
        return
    changes = _changes(edit, x.float(), where)
    elsewhere = changes.masked_fill(sink | ~real, 0.0).amax(1, keepdim=True)
    moved = meant & (changes > _CLEARLY * elsewhere)
    if not moved.any():
        return
    row, position = moved.nonzero()[0].tolist()
    _said.setdefault(edit, WeakSet()).add(point)
    warnings.warn(
        f"{edit.method} at {where.site!r} (scope {str(edit.scope)!r}) changes the state of an attention sink, whose "
        f"norm is {ratios[row, position].item():.0f} times the median, by {changes[row, position].item():.4g}, and "
        f'others by at most {elsewhere[row, 0].item():.4g}. scope="content" leaves the first token of a sequence out.',
        SinkWarning,
        stacklevel=3,
    )


def _real(x: Tensor, where: "Where") -> Bool[Tensor, "rows positions"]:
    stack = position_stack(where.site, two_stacks=where.two_stacks)
    chosen = True if where.step is None else where.step.select(Scope(), stack, x.shape[1])
    if isinstance(chosen, bool):
        return torch.full(x.shape[:2], chosen, device=x.device)
    return chosen.to(x.device).expand(x.shape[:2])


def _changes(
    edit: "Edit", x: Float[Tensor, "rows positions *width"], where: "Where"
) -> Float[Tensor, "rows positions"]:
    """How far the edit would move every position; in float32, where a large state does not round a small change."""
    apply: Callable[..., Tensor | None] = edit.apply
    edited = apply(edit, x, replace(where, queries=True))
    return torch.zeros(x.shape[:2], device=x.device) if edited is None else (edited - x).flatten(2).norm(dim=-1)
