"""The library's own analysis functions on models loaded here, against Hugging Face's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from tests.hub import CONFIGS, write
from tests.tiny import DECODERS

TOKENS = torch.tensor([[3, 4, 9, 17, 8, 30, 12, 5, 61, 7], [3, 21, 6, 7, 44, 5, 9, 13, 2, 70]])


def close(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, atol=1e-3, rtol=1e-4)


@pytest.fixture
def folder(checkpoint: Callable, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint of a tiny family, or of a configuration like one of the hub."""

    def get(name: str) -> Path:
        if name not in CONFIGS:
            return checkpoint(name)
        if not (tmp_path / "config.json").exists():
            write(CONFIGS[name], tmp_path)
        return tmp_path

    return get


@pytest.fixture
def theirs(folder: Callable) -> Callable[[str], Any]:
    """Hidden states and logits of Hugging Face's model."""
    from transformers import AutoModelForCausalLM

    def run(family: str) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder(family), attn_implementation="eager")
        with torch.no_grad():
            return model(TOKENS, output_hidden_states=True)

    return run


@pytest.fixture
def cached(folder: Callable) -> Callable[..., Any]:
    """A model, as it is or folded, and its activations."""

    def run(family: str, fold: bool = False) -> tuple[Any, Tensor, Any]:
        model = ms.load(folder(family), fold=fold)
        with torch.no_grad():
            return (model, *model.run_with_cache(TOKENS))

    return run


@pytest.mark.parametrize("family", DECODERS)
def test_the_stream_is_hugging_faces(family: str, cached: Callable, theirs: Callable) -> None:
    model, logits, cache = cached(family)
    out = theirs(family)
    assert close(logits.log_softmax(-1), out.logits.log_softmax(-1))
    streams = cache.accumulated_resid(layer=model.cfg.n_layers, incl_mid=False)
    wanted = torch.stack(out.hidden_states[:-1])  # the last of theirs has gone through the final norm
    assert close(streams[:-1], wanted)
    normed = cache["ln_final.hook_normalized"] * model.ln_final.w + getattr(model.ln_final, "b", 0.0)
    assert close(normed, out.hidden_states[-1])


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("fold", [False, True])
def test_parts_of_the_stream_add_up(family: str, fold: bool, cached: Callable) -> None:
    model, _, cache = cached(family, fold)
    last = cache["resid_post", model.cfg.n_layers - 1]
    assert close(cache.decompose_resid(mode="all").sum(0), last)
    heads, biases = cache.stack_head_results(), sum(block.attn.b_O for block in model.blocks)
    attention = cache.decompose_resid(mode="attn", incl_embeds=False).sum(0)
    if family != "gemma2":  # it normalises what its heads add up to
        assert close(heads.sum(0) + biases, attention)


HUB = ["Gemma", "Gemma 3 1B", "Granite 3", "Pythia", "GPT-J", "GPT-Neo", "OPT", "Phi 2", "SmolLM 3", "OLMo", "Mixtral"]


@pytest.mark.parametrize(
    "family", [*(family for family in DECODERS if family != "gemma2"), *HUB]
)  # Gemma 2 caps logits
def test_logit_attributions_of_a_folded_model_add_up_to_hugging_faces_logits(
    family: str, cached: Callable, theirs: Callable
) -> None:
    model, _, cache = cached(family, fold=True)
    right, wrong = TOKENS.roll(-1, 1), TOKENS.roll(-2, 1)
    parts = cache.decompose_resid(mode="all")
    found = cache.logit_attrs(parts, tokens=right, incorrect_tokens=wrong).sum(0)
    logits = theirs(family).logits
    wanted = (logits.gather(2, right[..., None]) - logits.gather(2, wrong[..., None]))[..., 0]
    assert close(found + model.b_U[right] - model.b_U[wrong], wanted)


def test_logit_attributions_of_a_model_as_it_is_do_not(cached: Callable, theirs: Callable) -> None:
    _, _, cache = cached("llama-gqa")
    found = cache.logit_attrs(cache.decompose_resid(mode="all"), tokens=TOKENS.roll(-1, 1)).sum(0)
    wanted = theirs("llama-gqa").logits.gather(2, TOKENS.roll(-1, 1)[..., None])[..., 0]
    assert not torch.allclose(found, wanted, atol=0.1)  # what the guide says of the library


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_an_encoder_decoder_has_a_cache_but_no_decomposition(family: str, checkpoint: Callable) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model, started = ms.load(checkpoint(family)), torch.tensor([[0, 9, 12], [0, 5, 44]])
    hf = AutoModelForSeq2SeqLM.from_pretrained(checkpoint(family), attn_implementation="eager")
    with torch.no_grad():
        out = hf(input_ids=TOKENS, decoder_input_ids=started, output_hidden_states=True)
        ones = torch.ones_like(TOKENS)
        logits, cache = model.run_with_cache(TOKENS, decoder_input=started, one_zero_attention_mask=ones)
    assert close(logits.log_softmax(-1), out.logits.log_softmax(-1))
    for stack, states in {"encoder": out.encoder_hidden_states, "decoder": out.decoder_hidden_states}.items():
        for layer, state in enumerate(states[:-1]):
            assert close(cache[f"{stack}.{layer}.hook_resid_pre"], state)
    for decompose in (cache.decompose_resid, cache.accumulated_resid, cache.stack_head_results):
        with pytest.raises(KeyError):
            decompose()
