"""Random directions: the control that every mined direction has to beat."""

from typing import Any

import torch

from mechsteer.directions.direction import Direction
from mechsteer.errors import MechsteerError, shown, whole
from mechsteer.models import provenance, shape_of, site, width


def random_direction(model: Any, *, seed: int, layer: int | None = None, site: str = "resid_post") -> Direction:
    """A direction drawn uniformly from the unit sphere.

    Args:
        model: A loaded model.
        seed: Decides the draw, on every machine.
        layer: The layer of the site.
        site: A kind of site with a fixed width, or a full name.

    Raises:
        MechsteerError: for an unknown site or layer, or a seed that is no integer.

    Example:
        >>> ms.add(ms.random_direction(model, layer=3, seed=0), 2.0)
    """
    name = _site(model, site, layer)
    size = width(model, name)
    if size is None:
        raise MechsteerError(f"{name!r} holds {' '.join(shape_of(model, name))}: its width depends on the prompt.")
    number = whole(seed)
    if number is None:
        raise MechsteerError(f"seed must be an integer, got {shown(seed)}.")
    vector = torch.randn(size, generator=torch.Generator().manual_seed(number))
    meta = provenance(model) | {"seed": str(number)}
    return Direction(vector / vector.norm(), name, "random", meta=meta)


_site = site  # the parameter of the same name hides the function
