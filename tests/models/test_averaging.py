"""The average of two models: its ends, its weights, its provenance."""

from collections.abc import Callable

import pytest
import torch

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.models import model_info
from mechsteer.models.averaging import average


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_the_ends_are_the_two_models_and_the_middle_is_their_mean(family: str, tiny: Callable, checkpoint) -> None:
    first = tiny(family)
    second = ms.load(str(checkpoint(family)))
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(torch.ones_like(weight))
    originals = {name: p.clone() for name, p in first.named_parameters()}
    for share in (0.0, 0.25, 1.0):
        for name, weight in average(first, second, share).named_parameters():
            torch.testing.assert_close(weight, originals[name] + share)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, originals[name])


def test_a_blend_generates_and_has_a_fingerprint_of_its_own(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    half, other = average(model, model, 0.5), average(model, model, 0.75)
    assert ms.generate(half, ["the cat"]).texts == ms.generate(model, ["the cat"]).texts
    prints = {model_info(m).fingerprint for m in (model, half, other)}
    assert len(prints) == 3
    assert "0.5" in model_info(half).name


def test_models_of_other_shapes_are_refused(tiny: Callable) -> None:
    with pytest.raises(MechsteerError, match="no weights of the same shapes"):
        average(tiny("llama-gqa"), tiny("gpt2"), 0.5)
    with pytest.raises(MechsteerError, match="share must be finite"):
        average(tiny("gpt2"), tiny("gpt2"), float("nan"))
