"""Moments of activations over prompts and positions, of a model that is run or of what was captured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mechsteer.activations.streaming import BatchRows, make_plan, stream
from mechsteer.analysis.moments import Moments
from mechsteer.errors import MechsteerError, listed, positive_int
from mechsteer.models import as_prompts
from mechsteer.prompts import Prompts
from mechsteer.sources import Recorded, as_recorded, refuse_steer
from mechsteer.steering import Intervention, as_intervention

__all__ = ["Moments", "moments"]


@torch.no_grad()
def moments(
    model: Any,
    prompts: Prompts | Any = None,
    *,
    sites: str | Sequence[str] | None = None,
    positions: str | Sequence[int] = "all",
    covariance: bool = True,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Moments]:
    """Mean and covariance of activations over prompts and positions; memory does not grow with the number of rows.

    Args:
        model: A loaded model; or captured activations: a store, what :func:`mechsteer.activations.capture` returned,
            one group of either, or the library's cache. Of these all rows of the prompts count, generated
            ones too; those of a prompt that is there twice, twice.
        prompts: Texts or prompts. Of captured activations None.
        sites: Full names, glob patterns or kinds; see :func:`mechsteer.activations.capture`. Of captured activations
            full names or kinds, and None for all that they have.
        positions: ``"last"``, ``"all"``, ``"span:NAME"`` or integers, of a model that is run.
        covariance: Keep the whole covariance; without it only the variances, for wide sites.
        steer: An intervention.
        batch_size: Prompts in one pass; changes the result by rounding only.
        progress: Show a bar.

    Returns:
        For each site its :class:`Moments`: ``count``, ``mean``, ``covariance``, ``variance``, ``std``; float64.

    Raises:
        MechsteerError: as :func:`mechsteer.activations.capture` does; for sites that were not captured.
    """
    source = as_recorded(model)
    if source is not None:
        refuse_steer(source, steer)
        return _captured(source, sites, positions, covariance, positive_int("batch_size", batch_size))
    made = as_prompts(model, prompts)
    plan = make_plan(model, [] if sites is None else sites, positions, as_intervention(steer))
    found = {
        name: Moments.none(torch.Size(width).numel(), covariance=covariance) for name, width in plan.widths.items()
    }

    def take(batch: BatchRows) -> None:
        for name, values in batch.values.items():
            found[name].add(values.flatten(1))

    stream(model, made, plan, take, batch_size=batch_size, progress="moments" if progress else "")
    return found


def _captured(
    source: Recorded, sites: str | Sequence[str] | None, positions: str | Sequence[int], covariance: bool, size: int
) -> dict[str, Moments]:
    """The moments of rows that were captured, those of ``size`` prompts in memory at a time."""
    if positions != "all":
        raise MechsteerError(f"{source.name} was captured at its positions; moments of them are of all its rows.")
    found: dict[str, Moments] = {}
    for name in _sites(source, sites):
        places, members = source.places(source.stacks[name]), source.members
        for first in range(0, len(members), size):
            rows = np.concatenate([places[member.id].rows for member in members[first : first + size]])
            values = source.read(name, rows).flatten(1)
            found.setdefault(name, Moments.none(values.shape[1], covariance=covariance)).add(values)
    return found


def _sites(source: Recorded, sites: str | Sequence[str] | None) -> list[str]:
    """The sites that are meant, among those that were captured."""
    found: dict[str, None] = {}
    for name in source.stacks if sites is None else [sites] if isinstance(sites, str) else listed("sites", sites):
        stack, _, kind = name.rpartition(".")
        full = name in source.stacks or stack not in ("", "encoder", "decoder", "blocks")
        found |= dict.fromkeys([source.site(name)] if full else source.layers(kind, stack=stack or None).values())
    return list(found)
