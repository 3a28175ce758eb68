"""RMS norms round as Hugging Face's do, in the library's forward and in ours, and answer to their hook points."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models.heads import normalised
from tests.models.test_parity import hugging_face

NORMS = {
    "llama": ("blocks.1.ln1", "model.layers.1.input_layernorm"),
    "gemma2": ("blocks.1.ln2_post", "model.layers.1.post_feedforward_layernorm"),
    "t5": ("decoder.1.ln2", "decoder.block.1.layer.1.layer_norm"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", NORMS)
def test_a_norm_is_hugging_faces_to_the_bit(family: str, dtype: str, checkpoint: Callable[..., Path]) -> None:
    ours, theirs = NORMS[family]
    model = ms.load(str(checkpoint(family)), dtype=dtype)
    hf = hugging_face(checkpoint(family), dtype=getattr(torch, dtype))
    norm, reference = model.get_submodule(ours), hf.get_submodule(theirs)
    x = (3 * torch.randn(50, 7, model.cfg.d_model, generator=torch.Generator().manual_seed(0))).to(model.cfg.dtype)
    expected = reference(x)
    seen: list[torch.Tensor] = []
    assert torch.equal(norm(x), expected) and torch.equal(normalised(norm, x), expected)
    with model.hooks(fwd_hooks=[(f"{ours}.hook_scale", lambda scale, hook: seen.append(scale))]):
        assert torch.equal(norm(x), expected)  # who looks changes nothing
    torch.testing.assert_close(seen[0], (x.float().pow(2).mean(-1, keepdim=True) + norm.eps).sqrt())


def test_a_scale_that_is_edited_counts(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    norm, x = model.blocks[1].ln1, torch.randn(2, 3, model.cfg.d_model)
    expected = norm(x)
    for edit in (lambda scale, hook: 2 * scale, lambda scale, hook: scale.mul_(2)):
        with model.hooks(fwd_hooks=[("blocks.1.ln1.hook_scale", edit)]):
            torch.testing.assert_close(2 * norm(x), expected)
            torch.testing.assert_close(2 * normalised(norm, x), expected)


def test_a_copy_has_norms_of_its_own(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    x = torch.randn(2, 3, model.cfg.d_model)
    pickled = io.BytesIO()
    torch.save(model.blocks[1].ln1, pickled)
    pickled.seek(0)
    for norm in (copy.deepcopy(model).blocks[1].ln1, torch.load(pickled, weights_only=False)):
        with torch.no_grad():
            norm.w.zero_()
        assert not norm(x).any() and model.blocks[1].ln1(x).any()
