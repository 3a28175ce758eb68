"""Half precision: T5's wide feed-forward outputs and clamped streams, and norms, as Hugging Face has them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.models import unembed
from tests.models.test_parity import hugging_face, mean_kl
from tests.steering.naive import prompts_of

T5 = ["t5", "t5-gated", "t5-uneven"]
Scale = dict[str, float]
FEED_FORWARD: Scale = {"DenseReluDense.wo.": 600.0, "DenseReluDense.wi.": 30.0, "DenseReluDense.wi_1.": 30.0}
ATTENTION: Scale = {"block.0.layer.0.SelfAttention.o.": 300.0, "block.0.layer.0.SelfAttention.v.": 60.0}


@pytest.fixture
def scaled(checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A function that copies a tiny checkpoint and multiplies some of its weights."""

    def get(family: str, factors: Scale) -> Path:
        directory = tmp_path / family
        shutil.copytree(checkpoint(family), directory, dirs_exist_ok=True)
        weights = load_file(directory / "model.safetensors")
        for part, factor in factors.items():
            weights = {name: w * factor if part in name else w for name, w in weights.items()}
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return get


def greedy(hf: Any, prompts: list[ms.Prompt], new: int) -> list[list[int]]:
    return [
        hf.generate(p.tokens[None], max_new_tokens=new, do_sample=False, use_cache=False)[0, 1:].tolist()
        for p in prompts
    ]


def stream(model: Any, prompt: ms.Prompt) -> dict[str, torch.Tensor]:
    names = {name: None for name in model.hook_dict if ".hook_resid" in name}
    seen: dict[str, torch.Tensor] = {}

    def keep(x: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = x

    ms.generate(model, prompt, max_new_tokens=1)
    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        ms.generate(model, prompt, max_new_tokens=1)
    return seen


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("factors", [FEED_FORWARD, ATTENTION], ids=["feed-forward", "attention"])
@pytest.mark.parametrize("family", T5)
def test_weights_that_overflow_give_hugging_faces_tokens(
    family: str, factors: Scale, dtype: str, scaled: Callable[..., Path]
) -> None:
    directory = scaled(family, factors)
    model, hf = ms.load(directory, dtype=dtype), hugging_face(directory, getattr(torch, dtype))
    prompts = prompts_of(model)
    out = ms.generate(model, prompts, max_new_tokens=6)
    assert [row[:n].tolist() for row, n in zip(out.tokens, out.lengths, strict=True)] == greedy(hf, prompts, 6)


@pytest.mark.parametrize("family", T5)
def test_the_librarys_own_forward_computes_the_same(family: str, scaled: Callable[..., Path]) -> None:
    directory = scaled(family, FEED_FORWARD)
    model, hf = ms.load(directory, dtype="float16"), hugging_face(directory, torch.float16)
    tokens, decoder = prompts_of(model)[0].tokens[None], torch.tensor([[0, 5, 9, 7]])
    with torch.no_grad():
        ours = model(tokens, decoder, one_zero_attention_mask=torch.ones_like(tokens)).float()
        theirs = hf(input_ids=tokens, decoder_input_ids=decoder).logits.float()
    assert theirs.isfinite().all() and theirs.std() > 0.1
    assert (ours.softmax(-1) - theirs.softmax(-1)).abs().max() < 5e-3


def test_the_stream_is_wide_after_the_first_feed_forward_layer_and_overflows_there_without(
    scaled: Callable[..., Path],
) -> None:
    model = ms.load(scaled("t5-gated", FEED_FORWARD), dtype="float16")
    seen = stream(model, prompts_of(model)[0])
    assert seen["encoder.0.hook_resid_mid"].dtype == torch.float16
    assert seen["encoder.0.hook_resid_post"].dtype == seen["decoder.1.hook_resid_mid_cross"].dtype == torch.float32
    assert max(x.abs().max().item() for x in seen.values()) > torch.finfo(torch.float16).max
    assert model.encoder[0].mlp.W_out.dtype == torch.float32 and model.encoder[0].mlp.W_in.dtype == torch.float16


def test_an_overflow_of_attention_is_clamped_where_hugging_face_clamps_it(scaled: Callable[..., Path]) -> None:
    model = ms.load(scaled("t5-gated", ATTENTION), dtype="float16")
    largest = stream(model, prompts_of(model)[0])["encoder.0.hook_resid_mid"].abs().max().item()
    assert largest == torch.tensor(torch.finfo(torch.float16).max - 1000).half().item()


def test_bfloat16_and_float32_have_no_wide_layer(checkpoint: Callable[..., Path]) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        model = ms.load(checkpoint("t5-gated"), dtype=dtype)
        assert {block.mlp.W_out.dtype for block in (*model.encoder, *model.decoder)} == {dtype}
        assert stream(model, prompts_of(model)[0])["decoder.1.hook_resid_post"].dtype == dtype


def test_weights_that_hugging_face_cannot_run_either_are_refused_with_that_reason(scaled: Callable[..., Path]) -> None:
    directory = scaled("t5-gated", {"Attention.o.": 1e6})
    with pytest.raises(ms.MechsteerError, match=r"Hugging Face's own logits .* not finite in torch.float16"):
        ms.load(directory, dtype="float16")
    assert ms.load(directory, dtype="bfloat16").cfg.dtype == torch.bfloat16


def test_measurements_and_early_exits_take_the_wide_stream(scaled: Callable[..., Path]) -> None:
    directory = scaled("t5-gated", FEED_FORWARD)
    half, full = ms.load(directory, dtype="float16"), ms.load(directory)
    prompt = prompts_of(half)[1]
    for model in (half, full):
        assert unembed(model, 1e5 * torch.ones(1, 1, model.cfg.d_model)).isfinite().all()
    tables = [ms.logit_lens(model, [prompt], targets=["cat"]) for model in (half, full)]
    assert (tables[0]["probability"] - tables[1]["probability"]).abs().max() < 0.02
    exits = ms.DoLa([0, 1], normalise=True)
    texts = [ms.generate(model, prompt, strategy=exits, max_new_tokens=4).tokens for model in (half, full)]
    assert texts[0].equal(texts[1])


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama-gqa", "phi3"])
def test_decoders_round_where_hugging_face_rounds(family: str, checkpoint: Callable[..., Path]) -> None:
    tokens = torch.randint(4, 96, (4, 24), generator=torch.Generator().manual_seed(1))
    model, hf = (f(checkpoint(family), dtype=torch.bfloat16) for f in (ms.load, hugging_face))
    with torch.no_grad():
        theirs, ours = hf(tokens).logits, model(tokens, prepend_bos=False)
    assert ours.dtype == torch.bfloat16 and mean_kl(theirs, ours) < 1e-5  # one more rounding of the norms makes 1e-3


def test_states_in_float32_are_read_out_in_the_models_dtype(checkpoint: Callable[..., Path]) -> None:
    for family in ("gpt2", "gemma2", "llama-gqa"):
        model = ms.load(checkpoint(family), dtype="float16")
        state = torch.randn(1, 2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
        assert unembed(model, state).dtype == torch.float16
        close = unembed(ms.load(checkpoint(family)), state).softmax(-1)
        assert (unembed(model, state).float().softmax(-1) - close).abs().max() < 5e-3
