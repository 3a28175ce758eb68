"""A model between two: the average of two checkpoints' weights.

Where one of them was tuned from the other, ``share`` says how much of the tuning is in the average: its weights are
``first + share (second - first)``. Ours, for asking how far a vector of the tuned model carries.
"""

from copy import deepcopy
from typing import Any

import torch

from mechsteer.errors import MechsteerError, finite
from mechsteer.files import digest
from mechsteer.models.digest import weights_digest
from mechsteer.models.info import ModelInfo, model_info, set_info


@torch.no_grad()
def average(first: Any, second: Any, share: float) -> Any:
    """Make a model with the weights ``(1 - share) first + share second``.

    Args:
        first: A loaded model; its tokenizer is used.
        second: A loaded model of the same shape.
        share: 0 gives the first, 1 the second.

    Returns:
        A new model; it shares no weights with the two. Its fingerprint is a hash of theirs and the share.

    Raises:
        MechsteerError: for models of different shapes, or a share that is no number.
    """
    finite("share", share)
    theirs = dict(second.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters()} for m in (first, second)]
    if shapes[0] != shapes[1]:
        differing = sorted(n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        raise MechsteerError(
            f"{model_info(first).name!r} and {model_info(second).name!r} have no weights of the same shapes to "
            f"average: {len(differing)} differ, e.g. {differing[0]}."
        )
    made = deepcopy(first)
    for name, weight in made.named_parameters():
        weight.lerp_(theirs[name].to(weight.device, weight.dtype), share)
    one, two = model_info(first), model_info(second)
    set_info(
        made,
        ModelInfo(
            name=f"{1 - share:g} {one.name} + {share:g} {two.name}",
            path="",
            family=one.family,
            revision="",
            fingerprint=digest([one.fingerprint, two.fingerprint, share]),
            dtype=one.dtype,
            eos_ids=one.eos_ids,
            context_note=one.context_note,
            generation_config=one.generation_config,
            digest=weights_digest(made),
        ),
    )
    return made
