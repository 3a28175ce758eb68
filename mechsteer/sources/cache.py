"""What the library's ``run_with_cache`` returns, as captured activations.

A cache has one row a batch row and position, padding included, and does not know its prompts: which positions are real
is known of a batch of one, and otherwise from the prompts, as the :class:`mechsteer.Batch` that was run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models import is_encoder_decoder, position_stack, provenance, stacks
from mechsteer.models.sites import KINDS, parse
from mechsteer.prompts import Batch, Prompt
from mechsteer.sources.recorded import DEFAULT_GROUP, Member, Places, Recorded, members_of

ONE_ROW = ("pos", "key_pos", "encoder_pos")
"""The second dimension of sites with one row a position (when a prompt is run whole)."""


def is_cache(value: Any) -> bool:
    """Whether a value is the library's ``ActivationCache``, or a dict of its tensors by full site name."""
    if hasattr(value, "cache_dict"):
        return True
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(x, Tensor) for x in value.values())


def from_cache(cache: Any, prompts: Any = None) -> Recorded:
    """A cache as captured activations.

    Args:
        cache: The library's cache, with its batch dimension, or a dict of tensors ``[batch, pos, width...]``.
        prompts: The :class:`mechsteer.Batch` that was run, or its prompts, where none of them is padded.

    Raises:
        MechsteerError: for a cache without its batch dimension, several rows without prompts, or prompts that do not
            fit its tensors.
    """
    tensors: Mapping[str, Tensor] = getattr(cache, "cache_dict", cache)
    if not getattr(cache, "has_batch_dim", True):
        raise MechsteerError("This cache has lost its batch dimension: make it without remove_batch_dim.")
    found = {name: x for name, x in tensors.items() if _one_row(name) and x.ndim >= 3}
    if not found:
        raise MechsteerError("This cache has no site with one row a position, e.g. blocks.0.hook_resid_post.")
    two_stacks = any(name.startswith("decoder.") for name in tensors)
    of = {name: position_stack(name, two_stacks=two_stacks) for name in found}
    shapes = {stack: next(x.shape[:2] for name, x in found.items() if of[name] == stack) for stack in of.values()}
    rows = next(iter(shapes.values()))[0]
    read = "encoder" if two_stacks else "blocks"
    members, starts, made = _members(rows, shapes.get(read, (rows, 1))[1], prompts)
    places = {stack: _places(members, starts, stack, *shape) for stack, shape in shapes.items()}
    by_id = {} if made is None else {member.id: p for member, p in zip(members, made, strict=True)}

    def whole(wanted: Sequence[Member]) -> list[Prompt]:
        if made is None:
            raise MechsteerError("A cache does not know its prompts: give them, as the ms.Batch that was run.")
        return [by_id[member.id] for member in wanted]

    def raw(member: Member, site: str) -> Tensor:
        if site not in tensors:
            raise MechsteerError(f"The cache lacks {site!r}: run the model with that hook point cached too.")
        row = next(place for place, other in enumerate(members) if other.id == member.id)
        x, real = tensors[site][row : row + 1], slice(starts[row], starts[row] + member.length)
        own = slice(None) if position_stack(site, two_stacks=two_stacks) == "decoder" else real
        if _one_row(site):
            return x[:, own]
        keys = slice(None) if two_stacks and site.startswith("decoder") and ".attn." in site else real
        return x[:, :, own, keys]

    model = getattr(cache, "model", None)
    about: dict[str, Any] = {"positions": "all"}
    if model is not None and hasattr(model, "cfg") and is_encoder_decoder(model) == two_stacks:
        known = provenance(model)
        about |= {"provenance": known, "fingerprint": known["model_fingerprint"], "sizes": stacks(model)}
    return Recorded(
        "The cache",
        of,
        {DEFAULT_GROUP: members},
        about,
        places.__getitem__,
        lambda site, wanted: found[site].flatten(0, 1)[torch.as_tensor(wanted)].detach().cpu(),
        whole,
        raw,
        model,
    )


def as_recorded(value: Any) -> Recorded | None:
    """Captured activations, whatever keeps them; None for what is none, such as a model or a list of prompts.

    A cache of the library (:class:`transformer_lens.ActivationCache`), and a dict of its tensors by site, are taken
    too; see :mod:`mechsteer.sources.cache`.
    """
    if callable(getattr(value, "recorded", None)):
        return value.recorded()
    return from_cache(value) if is_cache(value) else None


def _one_row(name: str) -> bool:
    parsed = parse(name)
    return parsed is None or KINDS[parsed[2]][1].split()[1] in ONE_ROW


def _members(rows: int, length: int, prompts: Any) -> tuple[list[Member], Sequence[int], Sequence[Prompt] | None]:
    """The prompts of the rows, and where each begins."""
    if prompts is None:
        if rows > 1:
            raise MechsteerError(
                f"The cache has {rows} rows, and does not say which of their positions are padding: give the prompts, "
                "as the ms.Batch that was run."
            )
        return [Member("0", "", length, "")], [0], None
    made = (
        [prompts] if isinstance(prompts, Prompt) else list(prompts.prompts if isinstance(prompts, Batch) else prompts)
    )
    if len(made) != rows or not all(isinstance(p, Prompt) for p in made):
        raise MechsteerError(
            f"The cache has {rows} rows, which need as many prompts of mechsteer.prompt, got {len(made)}."
        )
    starts = prompts.starts if isinstance(prompts, Batch) else [0] * rows
    wrong = [p for p in made if len(p) > length or (len(p) < length and not isinstance(prompts, Batch))]
    if wrong:
        raise MechsteerError(
            f"The cache has {length} positions a row, and {wrong[0]!r} does not fit: give the ms.Batch that was run, "
            "which says where its padding is."
        )
    return members_of(made), starts, made


def _places(members: Sequence[Member], starts: Sequence[int], stack: str, rows: int, length: int) -> dict[str, Places]:
    """The rows of each prompt in a stack's flattened tensors; a decoder's positions but the first were written."""
    found = {}
    for row, (member, start) in enumerate(zip(members, starts, strict=True)):
        count = length if stack == "decoder" else member.length
        first = row * length + (0 if stack == "decoder" else start)
        positions = np.arange(count)
        generated = positions > 0 if stack == "decoder" else np.zeros(count, dtype=bool)
        found[member.id] = Places(first + positions, positions, generated)
    return found
