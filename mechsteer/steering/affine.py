"""Steering with an affine map: h' = h + c (d + M (h - mu)), M of low rank (:mod:`mechsteer.directions.affine`).

c = 0 changes nothing and c = 1 is the map as it was fitted. With M = 0 it is ``add``; ``project`` is one of rank 1. It
was fitted to states at the last token of prompts: at other positions M (h - mu) extrapolates, the more the further the
state is from mu, so that the first token, often an attention sink, needs ``scope="content"`` or ``"last_prompt"``.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.directions.affine import AffineMap
from mechsteer.errors import MechsteerError, finite, shown
from mechsteer.steering.intervention import Edit, Intervention, Where
from mechsteer.steering.registry import method
from mechsteer.steering.vector import check_vector, check_width, direction_of, masked

PARTS = ("centre", "left", "right")


def affine(
    affine_map: AffineMap,
    strength: float = 1.0,
    *,
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
    transfer: bool = False,
) -> Intervention:
    """Change states as an affine map does: x + c (d + M (x - mu)).

    Args:
        affine_map: The map, from :func:`mechsteer.affine_map`; it acts at its own site.
        strength: c.
        scope: As in :func:`mechsteer.add`. The map was fitted to the last tokens of prompts (``"last_prompt"``).
        rows: Prompts to act on, by their place in the list; None for all.
        transfer: Allow a map that was fitted on another model.

    Raises:
        MechsteerError: for what is no map, a NaN or infinite strength or an unknown scope; when run, for a map of
            another width or, without ``transfer``, of another model.

    Example:
        >>> ms.generate(model, prompt, steer=ms.affine(ms.affine_map(model, pairs, layer=3, rank=2)))
    """
    if not isinstance(affine_map, AffineMap):
        raise MechsteerError(
            f"affine takes a map first, which ms.affine_map makes, then a number; got {shown(affine_map)}."
        )
    return Intervention.of(
        "affine",
        affine_map.site,
        finite("strength", strength),
        scope=scope,
        rows=rows,
        options={"transfer": transfer},
        direction=affine_map.shift,
        tensors={name: getattr(affine_map, name) for name in PARTS},
    )


def map_of(edit: Edit) -> AffineMap:
    """The edit's map.

    Raises:
        MechsteerError: if it has none, or its parts do not fit each other.
    """
    missing = [name for name in PARTS if name not in edit.tensors]
    if missing:
        raise MechsteerError(f"{edit.method} at {edit.site} has no {', '.join(missing)}; make it with ms.affine.")
    return AffineMap(direction_of(edit), *(edit.tensors[name] for name in PARTS))


def check_affine(edit: Edit, model: Any) -> None:
    """Raise unless the map's width and model fit."""
    map_of(edit)
    check_vector(edit, model)


@method("affine", check=check_affine)
def apply_affine(edit: Edit, x: Float[Tensor, "rows positions *heads width"], where: Where) -> Tensor:
    """Return x + c (d + M (x - mu)), the change taken in float32."""
    check_width(direction_of(edit), x.shape[-1])
    return x + masked((edit.strength * map_of(edit).change(x)).to(x.dtype), where.queries)
