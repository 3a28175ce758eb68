"""The hooked model computes what Hugging Face's model computes, by every route there is."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import advance, is_encoder_decoder, model_info, start
from mechsteer.models.weights.decoder_only import hooked_transformer
from mechsteer.models.weights.encoder_decoder import hooked_encoder_decoder
from tests.tiny import ENCODER_DECODERS, FAMILIES, VARIANTS, VOCAB, hf_model

LENGTHS = (13, 5, 9)
TOLERANCE = 1e-4


def hugging_face(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    import transformers

    seq2seq = transformers.AutoConfig.from_pretrained(directory).is_encoder_decoder
    auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    return auto.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def padded_tokens(side: str, seed: int = 5) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, VOCAB, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        mask[row, slice(0, length) if side == "right" else slice(max(LENGTHS) - length, None)] = True
    return tokens, mask


def decoder_tokens(model: Any) -> Tensor:
    tokens = torch.randint(0, VOCAB, (len(LENGTHS), 6), generator=torch.Generator().manual_seed(6))
    tokens[:, 0] = model.cfg.decoder_start_token_id
    return tokens


@torch.no_grad()
def theirs(hf: Any, model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    if is_encoder_decoder(model):
        logits = hf(input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=decoder_tokens(model)).logits
        return logits.flatten(0, 1)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return hf(input_ids=tokens, attention_mask=mask.long(), position_ids=positions).logits[mask]


@torch.no_grad()
def library_forward(model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    if is_encoder_decoder(model):
        return model(tokens, decoder_tokens(model), one_zero_attention_mask=mask.to(model.cfg.dtype)).flatten(0, 1)
    return model(tokens, attention_mask=mask.int(), prepend_bos=False)[mask]


@torch.no_grad()
def cached_forward(model: Any, tokens: Tensor, mask: Tensor, *, chunk: int) -> Tensor:
    two_stacks = is_encoder_decoder(model)
    fed = decoder_tokens(model) if two_stacks else tokens
    fed_mask = torch.ones_like(fed, dtype=torch.bool) if two_stacks else mask
    state = start(model, tokens, mask)
    logits = [
        advance(model, state, fed[:, i : i + chunk], fed_mask[:, i : i + chunk], logits_at="all")
        for i in range(0, fed.shape[1], chunk)
    ]
    return torch.cat(logits, dim=1)[fed_mask]


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a.float().softmax(-1) - b.float().softmax(-1)).abs().max().item()


def mean_kl(exact: Tensor, other: Tensor) -> float:
    p, q = exact.float().log_softmax(-1), other.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_probabilities_equal_hugging_faces(family: str, checkpoint: Callable[..., Path], tiny: Callable) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    side = "right" if is_encoder_decoder(model) else "left"
    tokens, mask = padded_tokens(side)
    expected = theirs(hf, model, tokens, mask)
    assert expected.softmax(-1).max() > 0.5, "distributions too flat to show an error"
    for ours in (
        library_forward(model, tokens, mask),
        cached_forward(model, tokens, mask, chunk=100),
        cached_forward(model, tokens, mask, chunk=1),
        cached_forward(model, tokens, mask, chunk=4),
    ):
        assert largest_difference(ours, expected) <= TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "llama3-rope", "mistral", "gemma2"])
def test_padding_on_the_right_equals_hugging_faces_too(
    family: str, checkpoint: Callable[..., Path], tiny: Callable
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    tokens, mask = padded_tokens("right")
    expected = theirs(hf, model, tokens, mask)
    assert largest_difference(cached_forward(model, tokens, mask, chunk=100), expected) <= TOLERANCE


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_padding_of_the_encoder_on_the_left_equals_hugging_faces_too(
    family: str, checkpoint: Callable[..., Path], tiny: Callable
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    tokens, mask = padded_tokens("left")
    expected = theirs(hf, model, tokens, mask)
    assert largest_difference(cached_forward(model, tokens, mask, chunk=2), expected) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_as_close_to_full_precision_as_hugging_faces_half_is(
    family: str, dtype: torch.dtype, checkpoint: Callable[..., Path]
) -> None:
    directory = checkpoint(family)
    model = ms.load(str(directory), dtype=dtype, check=False)
    tokens, mask = padded_tokens("right" if is_encoder_decoder(model) else "left")
    ours = cached_forward(model, tokens, mask, chunk=100)
    assert ours.dtype == dtype and model_info(model).dtype == str(dtype).removeprefix("torch.")
    exact = theirs(hugging_face(directory), model, tokens, mask)
    half = theirs(hugging_face(directory, dtype), model, tokens, mask)
    assert mean_kl(exact, ours) <= 4 * mean_kl(exact, half) + 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "t5-gated"])
def test_verify_passes_every_check_on_a_sound_model(family: str, tiny: Callable) -> None:
    table = ms.verify(tiny(family))
    assert table.columns.tolist() == ["check", "max_abs_diff", "argmax_agreement", "ok"]
    assert table["check"].tolist() == ["unpadded", "padded", "cached"]
    assert table["ok"].all() and (table["max_abs_diff"] <= 1e-4).all() and (table["argmax_agreement"] == 1).all()


def corrupt(model: Any) -> Any:
    """Replace one weight (not in place: the memory is Hugging Face's too)."""
    block = (model.decoder if is_encoder_decoder(model) else model.blocks)[0]
    block.mlp.W_out = torch.nn.Parameter(block.mlp.W_out * 1.5, requires_grad=False)
    return model


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_verify_reports_a_corrupted_model(family: str, checkpoint: Callable[..., Path]) -> None:
    table = ms.verify(corrupt(ms.load(str(checkpoint(family)))))
    assert not table["ok"].any() and (table["max_abs_diff"] > 1e-3).all()


def test_verify_compares_with_the_model_it_is_given(tiny: Callable, checkpoint: Callable[..., Path]) -> None:
    hf = hugging_face(checkpoint("llama"))
    assert ms.verify(tiny("llama"), hf)["ok"].all()
    with torch.no_grad():
        hf.lm_head.weight.mul_(1.2)
    assert not ms.verify(tiny("llama"), hf)["ok"].any()


def test_verify_needs_to_know_where_the_model_came_from() -> None:
    model = hooked_transformer(hf_model("llama"))
    with pytest.raises(ms.MechsteerError, match="pass hf_model="):
        ms.verify(model)


def test_verify_refuses_a_model_with_hooks_left_on_it(checkpoint: Callable[..., Path]) -> None:
    model = ms.load(str(checkpoint("llama")))
    model.add_hook("blocks.1.hook_resid_post", lambda x, hook: x * 2)
    with pytest.raises(ms.MechsteerError, match=r"Hooks are on the model at blocks\.1\.hook_resid_post"):
        ms.verify(model)


@pytest.mark.parametrize(("family", "convert"), [("llama", "hooked_transformer"), ("t5", "hooked_encoder_decoder")])
@pytest.mark.parametrize("damage", ["scaled", "nan"])
def test_load_refuses_a_wrong_conversion(
    family: str, convert: str, damage: str, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["mechsteer.models.load"]
    right = getattr(module, convert)

    def wrong(hf: Any) -> Any:
        model = corrupt(right(hf))
        if damage == "nan":
            model.unembed.W_U = torch.nn.Parameter(torch.full_like(model.unembed.W_U, torch.nan), requires_grad=False)
        return model

    monkeypatch.setattr(module, convert, wrong)
    with pytest.raises(ms.ParityError, match=f"The hooked {family} model differs from Hugging Face's"):
        ms.load(str(checkpoint(family)))
    assert not ms.verify(ms.load(str(checkpoint(family)), check=False))["ok"].any()


COPIED = {
    "gpt2": ("attn.W_O",),  # stored transposed by Hugging Face
    "gemma2": ("embed.W_E", "ln1.w", "ln1_post.w", "ln2.w", "ln2_post.w", "ln_final.w"),  # scaled, and one added
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_hugging_faces_memory(family: str) -> None:
    hf = hf_model(family)
    model = (hooked_encoder_decoder if family in ENCODER_DECODERS else hooked_transformer)(hf)
    storages = {p.untyped_storage().data_ptr() for p in hf.parameters()}
    copied = {
        name
        for name, p in model.named_parameters()
        if p.untyped_storage().data_ptr() not in storages and p.abs().max() > 0  # absent biases are zeros of their own
    }
    assert {name for name in copied if not name.endswith(COPIED.get(family, ()) or ("-",))} == set()
    assert len(copied) < sum(1 for _ in model.parameters()) / 2


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3", "t5"])
def test_query_weights_start_where_hugging_faces_do(family: str) -> None:
    hf = hf_model(family)
    if family == "t5":
        ours, fused = (
            hooked_encoder_decoder(hf).decoder[1].attn.W_Q,
            hf.decoder.block[1].layer[0].SelfAttention.q.weight,
        )
    else:
        ours = hooked_transformer(hf).blocks[1].attn.W_Q
        if family == "gpt2":
            fused = hf.transformer.h[1].attn.c_attn.weight
        else:
            attention = hf.model.layers[1].self_attn
            fused = attention.qkv_proj.weight if family == "phi3" else attention.q_proj.weight
    assert ours.data_ptr() == fused.data_ptr()


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_loaded_model_wants_no_gradients_and_is_in_evaluation_mode(family: str, tiny: Callable) -> None:
    model = tiny(family)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_the_bundled_model_equals_hugging_faces(trap_t5: Any) -> None:
    assert ms.verify(trap_t5)["ok"].all()
