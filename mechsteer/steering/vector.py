"""Steering with one vector in the residual stream, or at any site with a vector a position.

Of queries, keys and values, which have a vector for each head, each is changed.

``add``: h' = h + c u with u = v / ||v|| (arXiv 2512.03803, eq. 6, where c is called alpha; arXiv 2410.12877 uses the
same form for length and word instructions). Both papers add at every position that is processed, prompt and generated;
the DoLa-for-T5 paper in the decoder only, so its scope ``"all"`` is every decoder position.

``project``: h' = h + (zbar - <h, u>) u, so that <h', u> = zbar at every position, exactly (arXiv 2410.12877, for format
instructions; zbar is the mean projection of the states with the instruction). Doing it twice changes nothing more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError, finite, shown
from mechsteer.models import model_info, width
from mechsteer.steering.intervention import Edit, Intervention, Where
from mechsteer.steering.registry import method
from mechsteer.steering.scope import Selection


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
        scope: ``"all"``, ``"content"`` (all but the sequence's first token), ``"prompt"``, ``"generated"``,
            ``"last_prompt"``, ``"span:NAME"`` or a list of positions.
        rows: Prompts to act on, by their place in the list; None for all.
        transfer: Allow a direction that was made on another model.

    Raises:
        MechsteerError: for a NaN or infinite scale or an unknown scope; when run, for a direction of another width or,
            without ``transfer``, of another model.

    Example:
        >>> ms.add(direction, 0.5 * direction.activation_norm, scope="content")
    """
    return vector_edit("add", checked_direction("add", direction), finite("scale", scale), scope, rows, transfer)


def project(
    direction: Direction,
    *,
    target: float | None = None,
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
    transfer: bool = False,
) -> Intervention:
    """Set the projection on the unit direction: x + (zbar - <x, u>) u.

    Args:
        direction: The direction; it acts at its own site.
        target: zbar; default: the direction's ``mean_projection``.
        scope: As in :func:`add`.
        rows: As in :func:`add`.
        transfer: As in :func:`add`.

    Raises:
        MechsteerError: as :func:`add`.

    Example:
        >>> ms.generate(model, prompt, steer=ms.project(direction))
    """
    checked_direction("project", direction)
    if target is None and math.isnan(direction.mean_projection):
        raise MechsteerError(f"{direction!r} has no mean projection to project on; give target=.")
    zbar = finite("target", direction.mean_projection if target is None else target)
    return vector_edit("project", direction, zbar, scope, rows, transfer)


def vector_edit(
    name: str,
    direction: Direction,
    strength: float,
    scope: str | Sequence[int],
    rows: Sequence[int] | None,
    transfer: bool,
) -> Intervention:
    """One edit at the direction's own site."""
    options = {"transfer": transfer}
    return Intervention.of(name, direction.site, strength, scope=scope, rows=rows, options=options, direction=direction)


def check_vector(edit: Edit, model: Any) -> None:
    """Raise unless the direction's width and model fit.

    Raises:
        MechsteerError: with both widths, or both fingerprints.
    """
    direction = direction_of(edit)
    check_width(direction, width(model, direction.site))
    check_origin(edit, model)


@method(
    "add",
    check=check_vector,
    takes="direction",
    make=lambda direction, scale: add(direction, scale),
    adds=lambda edit: edit.strength,
)
def apply_add(edit: Edit, x: Float[Tensor, "rows positions *heads width"], where: Where) -> Tensor:
    """Return x + c u; where there are several vectors a position, one a head, for each of them."""
    direction = direction_of(edit)
    check_width(direction, x.shape[-1])
    return x + masked((direction.unit * edit.strength).to(x.device, x.dtype).expand_as(x), where.queries)


@method(
    "project",
    check=check_vector,
    takes="direction",
    make=lambda direction, target: project(direction, target=target),
    strength="target",
)
def apply_project(edit: Edit, x: Float[Tensor, "rows positions *heads width"], where: Where) -> Tensor:
    """Return x + (zbar - <x, u>) u, the projection taken in float32; of several vectors a position, each one's."""
    direction = direction_of(edit)
    check_width(direction, x.shape[-1])
    unit = direction.unit.to(x.device)
    missing = edit.strength - x.float() @ unit
    return x + masked((missing[..., None] * unit).to(x.dtype), where.queries)


def masked(change: Float[Tensor, "rows positions *rest"], queries: Selection) -> Float[Tensor, "rows positions *rest"]:
    """The change where it is meant; not a product, in which a change that overflows would be NaN everywhere else."""
    if isinstance(queries, bool):
        return change
    return torch.where(queries[(...,) + (None,) * (change.ndim - 2)], change, 0.0)


def checked_direction(method: str, direction: Direction) -> Direction:
    """The direction, if it is one.

    Raises:
        MechsteerError: for several, a model, a number or another argument in its place.
    """
    if isinstance(direction, Direction):
        return direction
    many = list(direction.values()) if isinstance(direction, Mapping) else direction
    if isinstance(many, Sequence) and many and all(isinstance(one, Direction) for one in many):
        keys = list(direction) if isinstance(direction, Mapping) else range(len(many))
        got = f"those of layers {keys}" if isinstance(direction, Mapping) else f"{len(many)}"
        raise MechsteerError(
            f"{method} takes one direction, got {got}: pick one, e.g. directions[{keys[0]!r}]. Interventions "
            f"of several add up: ms.{method}(one, strength) + ms.{method}(other, strength)."
        )
    hint = ""
    if isinstance(direction, str):
        hint = f" ms.Direction.load({shown(direction)}) reads one from a file."
    elif hasattr(direction, "shape") or isinstance(direction, Sequence | Mapping):
        hint = " ms.Direction(vector, site, 'by hand') makes one of a vector."
    raise MechsteerError(f"{method} takes a direction first, then numbers; got {shown(direction)}.{hint}")


def direction_of(edit: Edit) -> Direction:
    """The edit's direction.

    Raises:
        MechsteerError: if it has none.
    """
    if edit.direction is None:
        raise MechsteerError(f"{edit.method} at {edit.site} has no direction.")
    return edit.direction


def check_origin(edit: Edit, model: Any) -> None:
    """Raise if the direction was made on another model, unless the edit says that this is meant.

    One checkpoint in another dtype is the same model; one whose weights were changed in memory is not.

    Raises:
        MechsteerError: with both fingerprints.
    """
    if edit.options.get("transfer"):
        return
    direction, here = direction_of(edit), model_info(model)
    if here.fingerprint != direction.fingerprint:
        raise MechsteerError(
            f"This direction was made on {direction.meta.get('model_name', 'an unknown model')!r} "
            f"(fingerprint {direction.fingerprint}), not on {here.name!r} as it is now ({here.fingerprint}). Pass "
            "transfer=True if crossing models is meant."
        )


def check_width(direction: Direction, expected: int | None) -> None:
    """Raise unless the direction has that many entries.

    Raises:
        MechsteerError: with both numbers.
    """
    if direction.width != expected:
        raise MechsteerError(
            f"The direction has width {direction.width}, but the activations at {direction.site!r} have {expected}."
        )
