"""The gate at load, and ``verify``, let no wrong model through: one thing wrong at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mechsteer as ms
from mechsteer.models import is_encoder_decoder, parity, unseen
from mechsteer.models.checkpoint.hf import load_hf
from tests.hub import CONFIGS, write

SUBJECTS = {
    "llama": "Llama, biases in attention",
    "mistral": "Mistral 0.1 (window)",
    "gemma2": "Gemma 2",
    "neox": "Pythia",
    "gpt2": "GPT-2",
    "t5": "T5 1.1",
}


def blocks(model: Any) -> list[Any]:
    return [*model.encoder, *model.decoder] if is_encoder_decoder(model) else list(model.blocks)


def parameter(model: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace every weight of that name (not in place: the memory is Hugging Face's too)."""
    for full, weight in list(model.named_parameters()):
        if full == name or full.endswith(f".{name}"):
            owner = model.get_submodule(full.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(change(weight), requires_grad=False))


def window(size: int) -> Callable[[Any], None]:
    def set_window(model: Any) -> None:
        model.cfg.window_size, model.cfg.attn_types = size, ["local"] * len(model.blocks)
        for block in model.blocks:
            block.attn.attn_type = "local"

    return set_window


def no_window(model: Any) -> None:
    for block in model.blocks:
        block.attn.attn_type = "global"


def eps(value: float) -> Callable[[Any], None]:
    def set_eps(model: Any) -> None:
        for module in model.modules():
            if hasattr(module, "eps") and hasattr(module, "hook_scale"):
                module.eps = value

    return set_eps


def tables(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    """Other rotary tables, from changed angles of the first 256 positions (theta 10,000)."""

    def set_tables(model: Any) -> None:
        for block in model.blocks:
            width = block.attn.rotary_cos.shape[1]
            frequencies = change(10000.0 ** -(torch.arange(0, width, 2) / width))
            angles = torch.arange(256)[:, None] * torch.cat([frequencies, frequencies])
            block.attn.rotary_cos, block.attn.rotary_sin = angles.cos(), angles.sin()

    return set_tables


def act_fn(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    def set_function(model: Any) -> None:
        for block in blocks(model):
            block.mlp.act_fn = function

    return set_function


def scale(factor: float) -> Callable[[Any], None]:
    def set_scale(model: Any) -> None:
        for block in blocks(model):
            block.attn.attn_scale *= factor

    return set_scale


def setting(name: str, value: object) -> Callable[[Any], None]:
    return lambda model: setattr(model.cfg, name, value)


def without(name: str) -> Callable[[Any], None]:
    return lambda model: parameter(model, name, torch.zeros_like)


def times(name: str, factor: float) -> Callable[[Any], None]:
    return lambda model: parameter(model, name, lambda weight: weight * factor)


SABOTAGE: dict[str, tuple[str, Callable[[Any], None]]] = {
    "a window that it lacks": ("llama gpt2 neox", window(12)),
    "a window at the gate's end": ("llama gpt2 neox", window(60)),
    "a window beyond the gate": ("llama gpt2 neox", window(100)),
    "no window": ("mistral gemma2", no_window),
    "a window off by one": ("mistral", setting("window_size", 9)),
    "epsilon": ("llama mistral gemma2 neox gpt2 t5", eps(1e-3)),
    "epsilon, nearly": ("llama mistral gemma2 neox gpt2 t5", eps(3e-6)),
    "theta": ("llama mistral gemma2", tables(lambda f: f**0.82)),
    "theta, nearly": ("llama mistral gemma2", tables(lambda f: f**0.99)),
    "linear rope": ("llama mistral gemma2 neox", tables(lambda f: f / 2)),
    "neighbouring pairs": ("llama mistral gemma2", setting("rotary_adjacent_pairs", True)),
    "ReLU": ("llama mistral gemma2 neox gpt2 t5", act_fn(F.relu)),
    "another GELU": ("gemma2 gpt2 t5", act_fn(F.gelu)),
    "the scale of scores": ("llama mistral gemma2 neox gpt2 t5", scale(1.01)),
    "a soft cap of scores": ("llama mistral neox gpt2", setting("attn_scores_soft_cap", 50.0)),
    "no soft cap of scores": ("gemma2", setting("attn_scores_soft_cap", -1.0)),
    "a soft cap of logits": ("llama mistral neox gpt2", setting("output_logits_soft_cap", 30.0)),
    "no soft cap of logits": ("gemma2", setting("output_logits_soft_cap", -1.0)),
    "norms after": ("llama mistral gpt2", setting("original_architecture", "Olmo2ForCausalLM")),
    "no second norms": ("gemma2", setting("use_normalization_before_and_after", False)),
    "side by side": ("llama mistral gemma2 gpt2", setting("parallel_attn_mlp", True)),
    "no bias of queries": ("llama neox gpt2", without("b_Q")),
    "no bias of attention": ("llama neox gpt2", without("b_O")),
    "no bias of the MLP": ("neox gpt2", without("b_out")),
    "no bias of a norm": ("neox gpt2", without("ln1.b")),
    "embeddings scaled": ("llama mistral gemma2 neox gpt2 t5", times("embed.W_E", 1.01)),
    "positions shifted": ("gpt2", lambda m: parameter(m, "W_pos", lambda w: w.roll(1, 0))),
    "logits scaled": ("t5", setting("tie_word_embeddings", True)),
}


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A function from a name to a checkpoint and Hugging Face's model of it."""
    made: dict[str, tuple[Path, Any]] = {}

    def get(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write(CONFIGS[SUBJECTS[name]], folder)
            made[name] = folder, load_hf(folder, dtype=torch.float32, device=torch.device("cpu"))
        return made[name]

    return get


@pytest.mark.parametrize("kind", SABOTAGE)
def test_a_wrong_model_is_refused(kind: str, subject: Callable[[str], tuple[Path, Any]]) -> None:
    names, damage = SABOTAGE[kind]
    for name in names.split():
        folder, hf = subject(name)
        model = ms.load(str(folder), check=False)
        parity.gate(model, hf)
        damage(model)
        with pytest.raises(ms.ParityError, match="differs from Hugging Face's"):
            parity.gate(model, hf)
    assert not ms.verify(model, hf)["ok"].any()


def test_the_gate_reaches_past_a_window_where_that_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(CONFIGS["Mistral 0.1 (window)"] | {"sliding_window": 100}, tmp_path)
    model = ms.load(str(tmp_path))
    hf = load_hf(tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    model.cfg.window_size = 101
    with pytest.raises(ms.ParityError, match=r"the windows of the layers is \[101"):
        parity.gate(model, hf)
    monkeypatch.setattr(unseen, "BEYOND", {})
    with pytest.raises(ms.ParityError, match="root mean square"):
        parity.gate(model, hf)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "t5"])
def test_half_precision_passes_and_a_wrong_one_does_not(
    name: str, dtype: str, subject: Callable[[str], tuple[Path, Any]]
) -> None:
    folder, _ = subject(name)
    model = ms.load(str(folder), dtype=dtype)
    hf = load_hf(folder, dtype=model.cfg.dtype, device=torch.device("cpu"))
    act_fn(F.relu)(model)
    with pytest.raises(ms.ParityError, match="root mean square"):
        parity.gate(model, hf)


@pytest.mark.parametrize("name", ["Qwen 3 MoE", "Mixtral"])
def test_a_token_that_rounding_sends_to_another_expert_is_no_wrong_model(name: str, tmp_path: Path) -> None:
    write(CONFIGS[name], tmp_path)
    model = ms.load(tmp_path, dtype="float16")
    assert ms.verify(model)["ok"].all()
    hf = load_hf(tmp_path, dtype=model.cfg.dtype, device=torch.device("cpu"))
    for wrong in (1.2, torch.nan):
        for block in model.blocks:
            block.attn.attn_scale *= wrong
        with pytest.raises(ms.ParityError, match="root mean square"):
            parity.gate(model, hf)


def test_rows_are_compared_a_few_at_a_time_and_nan_is_never_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(40, 50, generator=generator)
    theirs = ours + 0.01 * torch.randn(40, 50, generator=generator)
    once, often = parity.compare(ours, theirs, rows=40), parity.compare(ours, theirs, rows=7)
    assert once.typical == pytest.approx(often.typical) and once.largest == often.largest
    expected = ours.log_softmax(-1) - theirs.log_softmax(-1)
    assert once.typical == pytest.approx(expected.square().mean().sqrt().item(), rel=1e-5)
    theirs[33, 3] = torch.nan
    assert not parity.compare(ours, theirs, rows=7).largest <= 1e9
