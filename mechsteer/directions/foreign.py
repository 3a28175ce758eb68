"""Directions that were made elsewhere: do they fit the model they are said to belong to?"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mechsteer.directions.direction import Direction
from mechsteer.errors import MechsteerError
from mechsteer.models import is_encoder_decoder, model_info, provenance, site, width

_HINTS = {  # names of the architecture that llama.cpp and others use, where they are not Hugging Face's model_type
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "mistral": "llama",
    "mixtral": "llama",
    "phi": "phi2",
    "qwen3_moe": "qwen3moe",
}


def adopt(model: Any, directions: Mapping[int, Direction]) -> dict[int, Direction]:
    """Check that directions fit the model; those without a fingerprint get the model's provenance.

    Args:
        model: A loaded decoder-only model.
        directions: Directions by layer.

    Raises:
        MechsteerError: for an encoder-decoder, a site that the model does not have, or another width.
    """
    if is_encoder_decoder(model):
        raise MechsteerError("Vectors of repeng, steering-vectors and llama.cpp are for decoder-only models.")
    return {layer: _adopted(model, one) for layer, one in directions.items()}


def check_family(model: Any, family: str, source: str) -> None:
    """Warn if the vectors of ``source`` say that they are of another architecture than the model.

    Warns:
        UserWarning: with both architectures.
    """
    here = model_info(model).family
    if "unknown" not in (family, here) and family not in {here, _HINTS.get(here)}:
        warnings.warn(f"{source} was made for the architecture {family!r}, the model is {here!r}.", stacklevel=3)


def _adopted(model: Any, direction: Direction) -> Direction:
    expected = width(model, site(model, direction.site))
    if direction.width != expected:
        raise MechsteerError(f"{direction!r} does not fit: the model has width {expected} there.")
    if direction.fingerprint != "unknown":
        return direction
    return replace(direction, meta=direction.meta | provenance(model))
