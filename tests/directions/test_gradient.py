"""Mined directions are the paper's gradients: as finite differences and Hugging Face's own autograd have them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder
from tests.models.test_parity import hugging_face
from tests.tiny import ENCODER_DECODERS


@dataclass(frozen=True)
class Trap:
    prompt: Any
    target: str
    trap: str


@dataclass(frozen=True)
class IdTrap:
    prompt: Any
    target: Any
    trap: Any


TRAPS = [
    Trap("the cat sat on mat", "red", "blue"),
    Trap("write a word in the house", "one", "two"),
    Trap("quote", "dog", "cat"),
    Trap("answer in capitals : the dog ends .", "ends.", "mat"),
    Trap("red blue red", "house", "answer"),
]
FAMILIES = ["t5", "t5-gated", "llama-gqa", "gpt2"]


def first_id(model: Any, word: str) -> int:
    return model.tokenizer(" " + word.strip(" ."), add_special_tokens=False)["input_ids"][0]


def naive(hf: Any, model: Any, family: str, layer: int, where: str) -> tuple[Tensor, Tensor]:
    """One example at a time through Hugging Face's model: -d L / d h, and h, at the position that predicts."""
    if family in ENCODER_DECODERS:
        block = hf.decoder.block[layer]
    else:
        block = hf.transformer.h[layer] if family == "gpt2" else hf.model.layers[layer]
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        leaf = value.detach().requires_grad_()
        kept.append(leaf)
        return leaf

    def on_output(module: Any, arguments: Any, output: Any) -> Any:
        return (keep(output[0]), *output[1:]) if isinstance(output, tuple) else keep(output)

    def on_input(module: Any, arguments: tuple[Any, ...]) -> Any:
        return (keep(arguments[0]), *arguments[1:])

    if where == "resid_post":
        hook = block.register_forward_hook(on_output)
    else:
        hook = block.register_forward_pre_hook(on_input)
    gradients, states = [], []
    for trap in TRAPS:
        ids = model.tokenizer(trap.prompt, return_tensors="pt")["input_ids"]
        start = {"decoder_input_ids": torch.tensor([[0]])} if family in ENCODER_DECODERS else {}
        logprobs = hf(input_ids=ids, **start).logits[0, -1].log_softmax(-1)
        loss = logprobs[first_id(model, trap.trap)] - logprobs[first_id(model, trap.target)]
        (gradient,) = torch.autograd.grad(loss, kept[-1])
        gradients.append(-gradient[0, -1])
        states.append(kept[-1][0, -1].detach())
    hook.remove()
    return torch.stack(gradients), torch.stack(states)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_direction_is_the_mean_negative_gradient(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    gradients, states = naive(hf, model, family, 0, "resid_post")
    d = ms.gradient_direction(model, TRAPS, layer=0)
    expected = gradients.mean(0)
    torch.testing.assert_close(d.vector, expected, atol=1e-4 * float(expected.norm()), rtol=1e-3)
    assert d.mean_projection == pytest.approx(float((states @ (expected / expected.norm())).mean()), abs=1e-3)
    assert d.activation_norm == pytest.approx(float(states.norm(dim=1).mean()), rel=1e-4)
    stack = "decoder" if is_encoder_decoder(model) else "blocks"
    assert (d.site, d.method) == (f"{stack}.0.hook_resid_post", "gradient")
    assert (d.meta["compat"], d.meta["mined_at"], d.meta["examples"]) == ("paper", d.site, "5")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_released_form_takes_the_gradient_at_the_input_and_acts_at_the_output(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    gradients, _ = naive(hf, model, family, 1, "resid_pre")
    _, states = naive(hf, model, family, 1, "resid_post")
    d = ms.gradient_direction(model, TRAPS, layer=1, compat="released")
    expected = gradients.mean(0)
    torch.testing.assert_close(d.vector, expected, atol=1e-4 * float(expected.norm()), rtol=1e-3)
    assert d.site.endswith("1.hook_resid_post") and d.meta["mined_at"].endswith("1.hook_resid_pre")
    assert d.mean_projection == pytest.approx(float((states @ (expected / expected.norm())).mean()), abs=1e-3)
    assert d.activation_norm == pytest.approx(float(states.norm(dim=1).mean()), rel=1e-4)
    assert not torch.allclose(d.vector, ms.gradient_direction(model, TRAPS, layer=1).vector, rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_direction_is_the_slope_of_the_preference(family: str, seed: int, tiny: Callable) -> None:
    """Central differences of log P(target) - log P(trap) along random directions, measured by score."""
    model, layer = tiny(family), 0
    probe = random_direction(model, seed=seed, layer=layer)
    scale = 1e-2 * ms.gradient_direction(model, TRAPS, layer=layer).activation_norm

    def preference(strength: float) -> float:
        scores = ms.score(
            model,
            [trap.prompt for trap in TRAPS],
            [[trap.target.strip("."), trap.trap] for trap in TRAPS],
            steer=ms.add(probe, strength, scope="last_prompt"),
        )
        return float((scores[:, 0] - scores[:, 1]).double().mean())

    slope = (preference(scale) - preference(-scale)) / (2 * scale)
    mined = ms.gradient_direction(model, TRAPS, layer=layer)
    assert slope == pytest.approx(float(mined.vector @ probe.unit), rel=0.05, abs=0.02 * mined.norm)


@pytest.mark.parametrize("family", ["t5", "llama-gqa"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "mlp_post"])
def test_the_batch_size_changes_nothing_at_any_site(family: str, site: str, tiny: Callable) -> None:
    model = tiny(family)
    whole = ms.gradient_direction(model, TRAPS, layer=1, site=site)
    for size in (1, 2):
        part = ms.gradient_direction(model, TRAPS, layer=1, site=site, batch_size=size)
        torch.testing.assert_close(part.vector, whole.vector, atol=1e-4 * whole.norm, rtol=1e-3)
        assert part.mean_projection == pytest.approx(whole.mean_projection, abs=1e-3)
        assert part.activation_norm == pytest.approx(whole.activation_norm, rel=1e-4)


def test_steering_along_the_direction_raises_the_target(tiny: Callable) -> None:
    model = tiny("t5-gated")
    d = ms.gradient_direction(model, TRAPS, layer=1)

    def preference(strength: float) -> float:
        choices = [[trap.target.strip("."), trap.trap] for trap in TRAPS]
        scores = ms.score(model, [t.prompt for t in TRAPS], choices, steer=ms.add(d, strength * d.activation_norm))
        return float((scores[:, 0] - scores[:, 1]).mean())

    assert preference(-0.2) < preference(0.0) < preference(0.2)


def test_prompts_with_spans_are_accepted(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    made = [replace(trap, prompt=ms.prompt(model, trap.prompt)) for trap in TRAPS]
    texts = ms.gradient_direction(model, TRAPS, layer=1)
    assert ms.gradient_direction(model, made, layer=1).vector.equal(texts.vector)


@pytest.mark.filterwarnings("ignore:Target and trap start with the same token in 1 of 6 examples")
def test_the_examples_are_recorded(tiny: Callable) -> None:
    model = tiny("t5")
    same = Trap("the cat", "red", "red.")
    d = ms.gradient_direction(model, [*TRAPS, same], layer=0)
    assert (d.meta["examples"], d.meta["same_first_token"]) == ("6", "1")
    assert d.fingerprint == ms.model_info(model).fingerprint
    assert d.meta["examples_hash"] != ms.gradient_direction(model, TRAPS, layer=0).meta["examples_hash"]


def test_mining_leaves_no_hooks_and_no_gradients(tiny: Callable) -> None:
    model = tiny("t5")
    ms.gradient_direction(model, TRAPS, layer=0)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"traps": []}, "No trap examples"),
        ({"traps": [Trap("the cat", "red", "red."), Trap("one", "two", "two")]}, "same token in every example"),
        ({"traps": [Trap("the cat", ".", "red")]}, r"The word '\.' has no tokens"),
        ({"compat": "relased"}, r"Unknown compat 'relased'.*'released'"),
        ({"compat": "released", "site": "mlp_out"}, r'compat="released" is defined for site="resid_post" only'),
        ({"layer": 5}, "Layer 5 is out of range"),
        ({"site": "resid_psot"}, r"Unknown site 'resid_psot'.*'resid_post'"),
        ({"layer": 0, "site": "encoder.0.hook_resid_post"}, "is in the encoder"),
        ({"site": "z"}, "needs one vector a position|holds"),
        ({"batch_size": 0}, "batch_size must be an integer"),
    ],
)
def test_what_cannot_be_mined_is_refused(arguments: dict[str, Any], message: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.gradient_direction(tiny("t5"), **({"traps": TRAPS, "layer": 1} | arguments))


def test_an_error_while_mining_leaves_no_hooks(tiny: Callable) -> None:
    model = tiny("t5")
    with pytest.raises(ms.MechsteerError):
        ms.gradient_direction(model, TRAPS, layer=0, site="z")
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_what_is_not_finite_is_named_by_site_and_example(family: str, checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint(family)))
    model.unembed.W_U.data = model.unembed.W_U.data.clone()  # untied
    model.embed.W_E.data[first_id(model, "quote")] = torch.nan  # in the third example alone
    for size in (1, 2, 8):
        with pytest.raises(ms.MechsteerError, match=r"NaN or infinite numbers at \w+\.1\.hook_resid_post for prompt 2"):
            ms.gradient_direction(model, TRAPS, layer=1, batch_size=size)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:Target and trap start with the same token in 1 of 5 examples")
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_token_ids_stand_for_the_words_that_begin_with_them(family: str, tiny: Callable) -> None:
    model = tiny(family)
    by_id = [IdTrap(t.prompt, np.int64(first_id(model, t.target)), first_id(model, t.trap)) for t in TRAPS]
    words, ids = (ms.gradient_direction(model, traps, layer=1) for traps in (TRAPS, by_id))
    assert ids.vector.equal(words.vector)
    other = [replace(by_id[0], target=(by_id[0].target + 1) % model.cfg.d_vocab), *by_id[1:]]
    assert not ms.gradient_direction(model, other, layer=1).vector.equal(words.vector)
    for wrong in (-1, model.cfg.d_vocab, True, 1.0):
        with pytest.raises(ms.MechsteerError, match=r"token|text"):
            ms.gradient_direction(model, [replace(by_id[0], target=wrong)], layer=1)


def test_inference_mode_around_it_changes_nothing(checkpoint: Callable[..., Path]) -> None:
    traps = [Trap("the cat sat on", "mat", "house"), Trap("write a", "quote", "word")]
    with torch.inference_mode():
        model = ms.load(checkpoint("llama-gqa"))
        prompts = [ms.prompt(model, trap.prompt) for trap in traps]
        inside = ms.gradient_direction(
            model, [Trap(p, t.target, t.trap) for p, t in zip(prompts, traps, strict=True)], layer=1
        )
    assert inside.vector.equal(ms.gradient_direction(model, traps, layer=1).vector)
    assert not inside.vector.is_inference()
