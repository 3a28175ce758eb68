"""Steering vectors of other packages, taken over: steering-vectors' ``SteeringVector`` and repeng's ``ControlVector``.

Both number the blocks from 0 and add to a module's output, at every position: h' = h + multiplier * v, with v as stored
(not normalised). The same through mechsteer, for v at layer l, is ``ms.add(direction, multiplier * direction.norm)``.

    repeng             ``directions[l]``, block l                          blocks.l.hook_resid_post
    steering-vectors   ``layer_activations[l]``, ``"decoder_block"``       blocks.l.hook_resid_post
                       ``"self_attn"``                                     blocks.l.hook_attn_out
                       ``"mlp"``                                           blocks.l.hook_mlp_out

Two kinds of steering-vectors have no hook point: the output of a normalisation (``"input_layernorm"``,
``"post_attention_layernorm"``), and attention and MLP before what some models do to their output: Gemma 2 and 3 and
OLMo 2 and 3 normalise it, Granite multiplies it.
The objects are recognised by their attributes; neither package is needed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions.direction import Direction
from mechsteer.directions.foreign import adopt, check_family
from mechsteer.errors import MechsteerError, one_of, whole
from mechsteer.models import model_info, post_norm, site

_MULTIPLIES = ("granite",)
_KINDS = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}


def from_peer(vectors: Any, model: Any) -> dict[int, Direction]:
    """Take over the vectors of steering-vectors or repeng.

    Args:
        vectors: A ``SteeringVector`` (``layer_activations``, ``layer_type``) or a ``ControlVector`` (``directions``,
            ``model_type``).
        model: The model that they were made on, as :func:`mechsteer.load` gives it; decoder-only.

    Returns:
        Directions by layer, counted from 0. Their vectors are as stored, so that the other package's multiplier m is
        ``ms.add(direction, m * direction.norm)``. They carry the model's provenance.

    Raises:
        MechsteerError: for another object, an encoder-decoder, a layer or width that does not fit, a kind of layer
            without a hook point, or values that are not finite.

    Warns:
        UserWarning: if a ControlVector names another architecture than the model's.
    """
    if hasattr(vectors, "layer_activations"):
        package, stored = "steering-vectors", vectors.layer_activations
        kind = _kind(model, str(getattr(vectors, "layer_type", "decoder_block")))
    elif hasattr(vectors, "directions") and hasattr(vectors, "model_type"):
        package, stored, kind = "repeng", vectors.directions, "resid_post"
        check_family(model, str(vectors.model_type), "The repeng object")
    else:
        raise MechsteerError(
            "Expected a SteeringVector of steering-vectors or a ControlVector of repeng, got an object of the type "
            f"{type(vectors).__name__}."
        )
    if not isinstance(stored, Mapping) or not stored:
        raise MechsteerError(f"The {package} object holds no vectors: {stored!r}.")
    found: dict[int, Direction] = {}
    for layer, vector in stored.items():
        name = site(model, kind, _integer(layer, package))
        index = int(name.split(".")[1])
        if index in found:
            raise MechsteerError(f"The {package} object has layer {index} twice (once as {layer}).")
        found[index] = Direction(_tensor(vector, package, layer), name, package, meta={"source": package})
    return adopt(model, found)


def _kind(model: Any, layer_type: str) -> str:
    kind = _KINDS[one_of("layer type (with a hook point)", layer_type, _KINDS)]
    normalises = model.cfg.use_normalization_before_and_after or post_norm(model.cfg)
    if kind != "resid_post" and (normalises or model_info(model).family in _MULTIPLIES):
        does = "normalises" if normalises else "multiplies"
        raise MechsteerError(
            f"This model {does} the output of {layer_type} before it is added to the stream; there is no hook "
            "point before that. Only decoder_block can be taken over."
        )
    return kind


def _integer(layer: Any, package: str) -> int:
    number = whole(layer)
    if number is None:
        raise MechsteerError(f"The layers of the {package} object must be integers, got {layer!r}.")
    return number


def _tensor(vector: Any, package: str, layer: Any) -> Float[Tensor, "width"]:
    try:
        return torch.as_tensor(vector).detach().to("cpu", torch.float32, copy=True).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MechsteerError(f"The {package} vector of layer {layer} is not an array of numbers: {error}") from error
