"""Steering the outputs of a layer's heads: z' = z + c Delta at ``hook_z``, Delta in R^(heads x d_head).

Paper: "Task-driven Layerwise Additive Activation Intervention" (arXiv 2502.06115). It adds a learned vector to the
activations of the last token in one layer. Its text could not be obtained in full: that the activations are the
concatenated head outputs, before the output projection, is an inference from its dimensions (D = d x heads, groups are
heads), and whether generated tokens are steered as well is unknown. So the site is ``hook_z``, the default scope is the
last token of the prompt, and ``scope="generated"`` (or a sum of both) expresses the other reading.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError, finite
from mechsteer.models import parse
from mechsteer.steering.intervention import Edit, Intervention, Where
from mechsteer.steering.registry import method
from mechsteer.steering.vector import check_origin, check_width, checked_direction, direction_of, vector_edit

_KINDS = ("z", "cross_z")


def heads(
    direction: Direction,
    scale: float = 1.0,
    *,
    scope: str | Sequence[int] = "last_prompt",
    rows: Sequence[int] | None = None,
    transfer: bool = False,
) -> Intervention:
    """Add ``scale`` times Delta to the head outputs of one layer.

    Args:
        direction: Delta, from :func:`mechsteer.sparse_direction`, or made by hand: ``Direction(delta.flatten(),
            ms.site(model, "z", 2), "mine", meta={"model_fingerprint": ms.model_info(model).fingerprint})``. ``vector``
            holds heads x d_head entries, head after head; ``site`` is a layer's ``hook_z``. It is added as it is, not
            normalised.
        scale: c.
        scope: Where; see :func:`mechsteer.add`.
        rows: Prompts to act on, by their place in the list; None for all.
        transfer: Allow a direction that was made on another model.

    Raises:
        MechsteerError: for a NaN or infinite scale, an unknown scope, a direction at another kind of site; when run,
            for one of another width or, without ``transfer``, of another model.

    Example:
        >>> z = ms.site(model, "z", 2)
        >>> meta = {"model_fingerprint": ms.model_info(model).fingerprint}
        >>> delta = ms.Direction([0.1] * model.cfg.n_heads * model.cfg.d_head, z, "mine", meta=meta)
        >>> ms.generate(model, prompt, steer=ms.heads(delta))
    """
    parsed = parse(checked_direction("heads", direction).site)
    if parsed is None or parsed[2] not in _KINDS:
        raise MechsteerError(
            f"heads needs a direction at a layer's hook_z, this one is at {direction.site!r}; use add."
        )
    return vector_edit("heads", direction, finite("scale", scale), scope, rows, transfer)


def check_heads(edit: Edit, model: Any) -> None:
    """Raise unless Delta has heads x d_head entries and the model is the one it was made on."""
    check_width(direction_of(edit), model.cfg.n_heads * model.cfg.d_head)
    check_origin(edit, model)


@method("heads", check=check_heads, adds=lambda edit: edit.strength * direction_of(edit).norm)
def apply_heads(edit: Edit, x: Float[Tensor, "rows positions heads d_head"], where: Where) -> Tensor:
    """Z + c Delta."""
    direction = direction_of(edit)
    check_width(direction, x.shape[-2] * x.shape[-1])
    change = (direction.vector * edit.strength).to(x.device, x.dtype).unflatten(0, tuple(x.shape[-2:]))
    if not isinstance(where.queries, bool):
        change = torch.where(where.queries[..., None, None], change, 0.0)
    return x + change
