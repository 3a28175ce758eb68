"""Which hook points are meant, and how far a forward pass must go to reach them."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mechsteer.analysis.propagation.captured import column_sites, parse_column
from mechsteer.errors import MechsteerError, nearest, shown, unknown
from mechsteer.models import fires, is_encoder_decoder, predicting_stack, shape_of, site, stacks
from mechsteer.models.sites import KINDS, switched_on
from mechsteer.sources.cache import ONE_ROW

Stage = tuple[int, int]
"""A point in the order of a forward pass: encoder block, encoder norm, predicting block or read-out; and blocks run."""

ENCODER, ENCODER_NORM, PREDICTING, READ_OUT = range(4)


def resolve(model: Any, sites: str | Sequence[str]) -> list[str]:
    """The full names of the hook points that are meant, each once, in the order asked for.

    Args:
        model: A loaded model.
        sites: One or more of: full names; glob patterns (``"blocks.*.hook_resid_post"``), which find the hook points
            that fire; kinds (``"resid_post"``: every layer of the stack that predicts; ``"encoder.resid_post"``); what
            Influence or rollout leave of a span at every layer (``"influence:instruction"``).

    Raises:
        MechsteerError: for an unknown name, a pattern that finds nothing, a hook point that never fires or does not
            hold one row a position.
    """
    if not isinstance(sites, str | Iterable):
        raise MechsteerError(f"sites must be names, patterns or kinds, got {shown(sites)}.")
    asked = [sites] if isinstance(sites, str) else list(sites)
    if not asked:
        raise MechsteerError('No sites were given, e.g. sites="resid_post".')
    found: dict[str, None] = {}
    for name in asked:
        if not isinstance(name, str):
            raise MechsteerError(f"A site is a name, a pattern or a kind, got {shown(name)}.")
        for full in _expand(model, name):
            _check(model, full, name)
            found[full] = None
    return list(found)


def _expand(model: Any, name: str) -> list[str]:
    if name in model.hook_dict:
        return [name]
    if columns := column_sites(model, name):
        return columns
    if any(mark in name for mark in "*?["):
        matching = [full for full in model.hook_dict if fnmatchcase(full, name)]
        if not matching:
            raise MechsteerError(f"The pattern {name!r} finds no hook point.{nearest(name, model.hook_dict)}")
        return [full for full in matching if fires(model, full)] or matching
    sizes = stacks(model)
    stack, kind = name.rpartition(".")[::2]
    if stack not in ("", *sizes) or kind.removeprefix("hook_") not in KINDS:
        raise unknown("site", name, [*model.hook_dict, *KINDS])
    return [site(model, name, layer) for layer in range(sizes[stack or predicting_stack(model)[0]])]


def _check(model: Any, name: str, asked: str) -> None:
    if parse_column(name):
        return
    by = "" if name == asked else f" (found by {asked!r})"
    if not fires(model, name):
        raise MechsteerError(f"{name!r}{by} never fires with this model's present settings.{switched_on(name)}")
    shape = shape_of(model, name)
    if shape[1] not in ONE_ROW:
        raise MechsteerError(
            f"{name!r}{by} has the dimensions {' '.join(shape)}, a number for each pair of positions: only sites with "
            "one row a position can be captured."
        )


def width_of(model: Any, name: str) -> tuple[int, ...]:
    """The sizes of a site's dimensions after the position: ``(d_model,)``, ``(n_heads, d_head)``."""
    if parse_column(name):
        return (1,)
    return tuple(int(dim.split("=")[1]) for dim in shape_of(model, name)[2:])


def stage(model: Any, name: str) -> Stage:
    """How far a forward pass must go before the hook point has fired."""
    found = re.match(r"(blocks|encoder|decoder)\.(\d+)\.", name)
    if found is not None:
        return (ENCODER if found[1] == "encoder" else PREDICTING), int(found[2]) + 1
    if name in {"hook_embed", "hook_pos_embed"}:
        return (ENCODER if is_encoder_decoder(model) else PREDICTING), 0
    return (ENCODER_NORM, 0) if name.startswith("encoder_final_ln") else (READ_OUT, 0)
