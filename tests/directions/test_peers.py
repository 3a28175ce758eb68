"""Vectors of steering-vectors and repeng: the same steering here as there, and what cannot be taken over."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.directions import from_peer
from tests.directions.peers import installed
from tests.hub import CONFIGS, write
from tests.tiny import hf_model

TOKENS = torch.tensor([[3, 10, 11, 12, 40, 41, 7, 30]])


@dataclass
class Steering:
    """Shaped as steering-vectors' SteeringVector."""

    layer_activations: Any
    layer_type: str = "decoder_block"


@dataclass
class Control:
    """Shaped as repeng's ControlVector."""

    model_type: str
    directions: Any


def vectors(*layers: int) -> dict[int, Tensor]:
    return {layer: torch.randn(32, generator=torch.Generator().manual_seed(layer + 9)) for layer in layers}


def steered(model: Any, directions: dict[int, ms.Direction], multiplier: float) -> Tensor:
    steer = ms.Intervention()
    for direction in directions.values():
        steer = steer + ms.add(direction, multiplier * direction.norm)
    steer.check(model)
    with torch.no_grad():
        return model.run_with_hooks(TOKENS, fwd_hooks=steer.hooks()).log_softmax(-1)


def module(other: Any, family: str, layer: int, layer_type: str) -> Any:
    block = (other.transformer.h if family == "gpt2" else other.model.layers)[layer]
    names = {"decoder_block": "", "mlp": "mlp", "self_attn": "attn" if family == "gpt2" else "self_attn"}
    return block.get_submodule(names[layer_type])


@pytest.mark.parametrize(
    ("family", "layer_type"),
    [(family, kind) for family in ("gpt2", "llama-gqa", "qwen3") for kind in ("decoder_block", "self_attn", "mlp")]
    + [("gemma2", "decoder_block")],
)
def test_what_is_added_to_the_modules_output_there_is_added_to_the_site_here(
    family: str, layer_type: str, tiny: Callable
) -> None:
    """steering-vectors' equation, by hand: output + multiplier * v, at every position."""
    other, given = hf_model(family), vectors(0, 2)
    for layer, vector in given.items():

        def added(_: Any, inputs: Any, output: Any, vector: Tensor = vector) -> Any:
            if isinstance(output, tuple):
                return (output[0] + 1.5 * vector, *output[1:])
            return output + 1.5 * vector

        module(other, family, layer, layer_type).register_forward_hook(added)
    with torch.no_grad():
        expected = other(TOKENS).logits.log_softmax(-1)
    found = steered(tiny(family), from_peer(Steering(given, layer_type), tiny(family)), 1.5)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)
    assert (found - tiny(family)(TOKENS).log_softmax(-1)).abs().max() > 0.05


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2"])
@pytest.mark.parametrize("layer_type", ["decoder_block", "self_attn", "mlp"])
def test_steering_vectors_itself_steers_alike(family: str, layer_type: str, tiny: Callable) -> None:
    package = installed("steering_vectors")
    if family == "gemma2" and layer_type != "decoder_block":
        pytest.skip("refused; see below")
    theirs = package.SteeringVector(vectors(0, 2), layer_type)
    other = hf_model(family)
    with torch.no_grad(), theirs.apply(other, multiplier=-2.0):
        expected = other(TOKENS).logits.log_softmax(-1)
    found = steered(tiny(family), from_peer(theirs, tiny(family)), -2.0)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2"])
def test_repeng_itself_steers_alike(family: str, tiny: Callable) -> None:
    package = installed("repeng")
    other = hf_model(family)
    theirs = package.ControlVector(other.config.model_type, {k: v.numpy() for k, v in vectors(0, 2).items()})
    wrapped = package.ControlModel(other, [0, 2])
    wrapped.set_control(theirs, 3.0)
    with torch.no_grad():
        expected = wrapped(input_ids=TOKENS).logits.log_softmax(-1)
    found = steered(tiny(family), from_peer(theirs, tiny(family)), 3.0)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)


def test_vectors_are_taken_as_stored_with_the_models_provenance(tiny: Callable) -> None:
    model, given = tiny("llama-gqa"), vectors(1, -1)
    found = from_peer(Steering({k: v.to(torch.bfloat16).reshape(1, 32) for k, v in given.items()}), model)
    assert {layer: d.site for layer, d in found.items()} == {
        1: "blocks.1.hook_resid_post",
        2: "blocks.2.hook_resid_post",
    }
    assert found[2].vector.equal(given[-1].bfloat16().float()) and found[2].method == "steering-vectors"
    assert found[1].fingerprint == ms.model_info(model).fingerprint and found[1].meta["source"] == "steering-vectors"
    control = ms.Direction.from_peer(Control("llama", {0: np.arange(32)}), model)
    assert control[0].vector.tolist() == list(range(32)) and control[0].method == "repeng"
    assert control[0].site == "blocks.0.hook_resid_post"


def test_the_directions_do_not_share_memory_with_the_object(tiny: Callable) -> None:
    given = vectors(1)
    found = from_peer(Steering(given), tiny("llama-gqa"))
    before = found[1].vector.clone()
    given[1].zero_()
    assert found[1].vector.equal(before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Steering(vectors(0), "input_layernorm"), "Unknown layer type .* 'input_layernorm'"),
        (Steering(vectors(0), "post_attention_layernorm"), "Unknown layer type .* 'post_attention_layernorm'"),
        (Steering({}), "The steering-vectors object holds no vectors"),
        (Steering([1.0]), "The steering-vectors object holds no vectors"),
        (Steering(vectors(3)), "Layer 3 is out of range: the blocks has layers 0 to 2"),
        (Steering({"one": torch.ones(32)}), "The layers of the steering-vectors object must be integers, got 'one'"),
        (Steering(vectors(2, -1)), r"has layer 2 twice \(once as -1\)"),
        (Steering({0: torch.ones(31)}), "has width 32 there"),
        (Steering({0: torch.full((32,), float("nan"))}), "NaN or infinite entries"),
        (Steering({0: torch.zeros(32)}), "is zero"),
        (Steering({0: "vector"}), "vector of layer 0 is not an array of numbers"),
        (Control("llama", {0: None}), "The repeng vector of layer 0 is not an array of numbers"),
        (torch.ones(32), "got an object of the type Tensor"),
        (None, "got an object of the type NoneType"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, message: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        from_peer(given, tiny("llama-gqa"))


def test_sublayers_that_are_normalised_after_their_output_are_refused(tiny: Callable) -> None:
    for kind in ("self_attn", "mlp"):
        with pytest.raises(ms.MechsteerError, match=f"normalises the output of {kind} before it is added"):
            from_peer(Steering(vectors(0), kind), tiny("gemma2"))


@pytest.mark.parametrize(
    ("name", "does"), [("OLMo 2", "normalises"), ("OLMo 3", "normalises"), ("Granite 3", "multiplies")]
)
def test_sublayers_of_which_something_is_made_before_the_stream_are_refused(
    name: str, does: str, tmp_path: Path
) -> None:
    other = write(CONFIGS[name], tmp_path)
    model, given = ms.load(tmp_path), vectors(0)
    for kind in ("self_attn", "mlp"):
        with pytest.raises(ms.MechsteerError, match=f"{does} the output of {kind} before it is added"):
            from_peer(Steering(given, kind), model)
    block = other.model.layers[0]
    block.register_forward_hook(
        lambda _, inputs, output: (
            (output[0] + given[0], *output[1:]) if isinstance(output, tuple) else output + given[0]
        )
    )
    with torch.no_grad():
        expected = other(TOKENS).logits.log_softmax(-1)
    torch.testing.assert_close(steered(model, from_peer(Steering(given), model), 1.0), expected, atol=5e-4, rtol=1e-3)


def test_encoder_decoders_are_refused(tiny: Callable) -> None:
    for given in (Steering(vectors(0)), Control("t5", vectors(0))):
        with pytest.raises(ms.MechsteerError, match="are for decoder-only models"):
            from_peer(given, tiny("t5"))


def test_another_architecture_is_a_warning(tiny: Callable) -> None:
    with pytest.warns(
        UserWarning, match="The repeng object was made for the architecture 'mistral', the model is 'gpt2'"
    ):
        from_peer(Control("mistral", vectors(0)), tiny("gpt2"))
