"""Weights that the library processes: no probability changes, or the step is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from tests.hub import CONFIGS, write
from tests.tiny import DECODERS, VARIANTS

TOKENS = torch.tensor([[3, 4, 9, 17, 8, 30, 12, 5, 61, 7]])
TIED = ["gpt2", "llama-tied"]


def log_probabilities(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).log_softmax(-1)


def shared(model: Any) -> bool:
    return model.W_E.untyped_storage().data_ptr() == model.W_U.untyped_storage().data_ptr()


@pytest.fixture
def load(checkpoint: Callable) -> Callable[..., Any]:
    return lambda family, **options: ms.load(checkpoint(family), **options)


@pytest.mark.parametrize("family", [*DECODERS, *VARIANTS])
def test_folded_models_are_hugging_faces(family: str, load: Callable) -> None:
    plain, folded = load(family), load(family, fold=True)
    assert folded.cfg.normalization_type in ("LNPre", "RMSPre") and not hasattr(folded.ln_final, "w")
    assert (log_probabilities(plain) - log_probabilities(folded)).abs().max() < 5e-4
    table = ms.verify(folded)  # padded and cached, against Hugging Face's model loaded again
    assert table["ok"].all() and table["max_abs_diff"].max() < 5e-5
    assert not any(p.requires_grad for p in folded.parameters()) and not folded.training


def test_generation_and_steering_do_not_see_the_folding(load: Callable) -> None:
    plain, folded = load("llama-gqa"), load("llama-gqa", fold=True)
    direction = ms.random_direction(plain, layer=1, seed=0)
    with pytest.raises(ms.MechsteerError, match="folded"):
        ms.generate(folded, "the cat", steer=ms.add(direction, 3.0))
    steer = ms.add(direction, 3.0, transfer=True) + ms.attention_bias("task", 1.0)
    out = [ms.generate(model, ["the cat", "a dog sat on"], steer=steer, max_new_tokens=8) for model in (plain, folded)]
    assert out[0].texts == out[1].texts and torch.allclose(out[0].logprobs, out[1].logprobs, atol=1e-3)


def test_folding_is_in_the_provenance(load: Callable) -> None:
    plain, folded = (ms.models.model_info(load("gpt2", fold=fold)) for fold in (False, True))
    assert folded.fingerprint == f"{plain.fingerprint}-folded"
    model = load("gpt2")
    steer = ms.add(ms.random_direction(model, layer=1, seed=0), 1.0)
    model.process_weights_()
    assert ms.models.model_info(model).fingerprint != plain.fingerprint
    with pytest.raises(ms.MechsteerError, match="transfer=True"):
        steer.check(model)


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_an_encoder_decoder_is_not_folded(family: str, load: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"decoder-only.*T5ForConditionalGeneration"):
        load(family, fold=True)


@pytest.mark.parametrize(
    ("name", "why"), [("OLMo 2", "come after attention"), ("OLMo 3", "come after"), ("StableLM 2", "have biases")]
)
def test_norms_that_have_no_place_to_go_are_not_folded(name: str, why: str, tmp_path: Path) -> None:
    write(CONFIGS[name], tmp_path)
    with pytest.raises(ms.MechsteerError, match=f"ForCausalLM cannot be folded.*{why}"):
        ms.load(tmp_path, fold=True)
    with pytest.raises(ms.MechsteerError, match=why):
        ms.load(tmp_path).process_weights_()


@pytest.mark.parametrize(
    "options",
    [
        {"fold_ln": True, "center_writing_weights": False, "center_unembed": False},
        {"fold_ln": False, "center_writing_weights": True, "center_unembed": False},
        {"fold_ln": False, "center_writing_weights": False, "center_unembed": True},
        {},
    ],
    ids=["fold_ln", "center_writing_weights", "center_unembed", "all"],
)
@pytest.mark.parametrize("family", [*TIED, "gemma2-uncapped"])
def test_processing_a_tied_model_changes_no_probability(family: str, options: dict[str, bool], load: Callable) -> None:
    model = load(family)
    assert shared(model) == (family in TIED)  # one memory until it is written; Gemma scales its embedding
    before, embedding = log_probabilities(model), model.W_E.clone()
    model.process_weights_(**options)
    assert (log_probabilities(model) - before).abs().max() < 5e-4 and not shared(model)
    if not options.get("center_writing_weights", True):
        assert torch.equal(model.W_E, embedding)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_weights_that_are_loaded_into_a_tied_model_stay_apart(family: str, load: Callable) -> None:
    model = load(family)
    embedding, wanted = model.W_E.clone(), 2 * model.unembed.W_U
    model.load_state_dict({"unembed.W_U": wanted}, strict=False)
    assert torch.equal(model.W_E, embedding) and torch.equal(model.unembed.W_U, wanted)
    model = load(family)
    head = model.unembed.W_U.clone()
    model.load_state_dict(model.state_dict() | {"embed.W_E": 2 * embedding})
    assert torch.equal(model.W_E, 2 * embedding) and torch.equal(model.unembed.W_U, head)


def test_centred_logits_of_a_model_with_a_cap_are_refused(load: Callable) -> None:
    model = load("gemma2")
    before = log_probabilities(model)
    with pytest.raises(ms.MechsteerError, match="center_unembed=False"):
        model.process_weights_()
    model.process_weights_(center_unembed=False)
    assert (log_probabilities(model) - before).abs().max() < 5e-4


def test_what_reads_the_norms_says_so(load: Callable) -> None:
    model = load("llama-gqa", fold=True)
    prompt = ms.prompt(model, "the cat", instruction="answer in capitals")
    needing: list[Callable[[], Any]] = [
        lambda: ms.influence(model, prompt, source="ln_input"),
        lambda: ms.influence(model, prompt, values=True),
        lambda: ms.influence(model, prompt, heads="weighted"),
        lambda: ms.generate(model, prompt, strategy=ms.DoLa()),
        lambda: ms.logit_lens(model, prompt, normalise=False),
        lambda: ms.layer_sensitivity(model, prompt),
        lambda: ms.generate(model, prompt, strategy=ms.Directer()),
    ]
    for run in needing:
        with pytest.raises(ms.MechsteerError, match="without fold=True"):
            run()
    plain = load("llama-gqa")
    for measure, column in ((ms.influence, "influence"), (ms.logit_lens, "probability")):
        a, b = (measure(m, prompt)[column].to_numpy() for m in (plain, model))
        assert a == pytest.approx(b, abs=1e-4)
