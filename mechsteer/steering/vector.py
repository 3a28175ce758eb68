"""Steering with one vector in the residual stream.

``add``: h' = h + c u with u = v / ||v|| (arXiv 2512.03803, eq. 6, where c is called alpha; arXiv 2410.12877 uses the
same form for length and word instructions). Both papers add at every position that is processed, prompt and generated;
the DoLa-for-T5 paper in the decoder only, so its scope ``"all"`` is every decoder position.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError, finite
from mechsteer.models import model_info, width
from mechsteer.steering.intervention import Edit, Intervention
from mechsteer.steering.scope import Selection, make_scope


def add(
    direction: Direction,
    scale: float = 1.0,
    *,
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
    transfer: bool = False,
) -> Intervention:
    """Add ``scale`` times the unit direction: x + c u.

    Args:
        direction: The direction; it acts at its own site.
        scale: c, in units of the residual stream. Negative values subtract. For a strength relative to the stream,
            multiply by ``direction.activation_norm``.
        scope: ``"all"``, ``"prompt"``, ``"generated"``, ``"last_prompt"``, ``"span:NAME"`` or a list of positions.
        rows: Prompts to act on, by their place in the list; None for all.
        transfer: Allow a direction that was made on another model.

    Raises:
        MechsteerError: for a NaN or infinite scale or an unknown scope; when run, for a direction of another width or,
            without ``transfer``, of another model.
    """
    strength = finite("scale", scale)
    shift = direction.unit * strength

    def apply(x: Float[Tensor, "rows positions width"], selection: Selection) -> Tensor:
        _check_width(direction, x.shape[-1])
        return shifted(x, shift, selection)

    def check(model: Any) -> None:
        check_direction(direction, model, transfer=transfer)

    return Intervention((Edit("add", direction.site, make_scope(scope, rows), strength, apply, check),))


def shifted(
    x: Float[Tensor, "rows positions width"], shift: Float[Tensor, "width"], selection: Selection
) -> Float[Tensor, "rows positions width"]:
    """``x + shift`` at the selected positions."""
    moved = shift.to(x.device, x.dtype)
    return x + moved if isinstance(selection, bool) else x + selection[..., None] * moved


def check_direction(direction: Direction, model: Any, *, transfer: bool) -> None:
    """Raise unless the direction's width and model fit.

    Raises:
        MechsteerError: with both widths, or both fingerprints.
    """
    _check_width(direction, width(model, direction.site))
    here, there = model_info(model).fingerprint, direction.fingerprint
    if here != there and not transfer:
        raise MechsteerError(
            f"This direction was made on {direction.meta.get('model_name', 'an unknown model')!r} "
            f"(fingerprint {there}), not on {model_info(model).name!r} ({here}). Pass transfer=True if crossing models "
            "is meant."
        )


def _check_width(direction: Direction, expected: int | None) -> None:
    if direction.width != expected:
        raise MechsteerError(
            f"The direction has width {direction.width}, but the activations at {direction.site!r} have {expected}."
        )
