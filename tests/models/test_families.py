"""Every configuration of the hub's kinds is Hugging Face's model, also under steering, or refused by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from benchmarks.families import as_prompt, check
from mechsteer.models.families import DECODERS, ENCODER_DECODERS
from mechsteer.models.families.family import SHARED, WITHOUT_EFFECT, declared
from tests.hub import CONFIGS, write

REFUSED = {
    "Llama, biases in the MLP": "mlp_bias=True",
    "Llama, exotic activation": "hidden_act=mish",
    "Llama, quantised (GPTQ)": "quantization_config=gptq",
    "Qwen 3 MoE, dense layers": r"mlp_only_layers=\[1\]",
    "Gemma 3, soft cap of attention": "attn_logit_softcapping=3.0",
    "Gemma 3, bidirectional": "use_bidirectional_attention=True",
    "ERNIE 4.5, biases": "use_bias=True",
    "StableLM 2 12B (norms of heads)": "qk_layernorm=True",
    "GPT-2, cross-attention": "add_cross_attention=True",
    "OPT 350M (norms after, projected)": "do_layer_norm_before=false",
    "Phi, norms of heads": "qk_layernorm=True",
} | {
    name: f"Unknown model family '{CONFIGS[name]['model_type']}'. Supported: .*llama"
    for name in ("BLOOM", "Falcon", "Cohere", "GPT-OSS", "Mamba", "UMT5", "LongT5", "BART", "Marian")
}


LIKE_OTHERS = (
    "SmolLM 2", "Llama 2", "Llama, GELU", "Mistral 0.3 (no window)", "Qwen 2.5", "Qwen 3, biases", "Gemma 2, no caps",
    "Granite 3, biases, tied", "GPT-2", "T5 1.0", "T5 1.1", "OLMo", "OLMo 2, grouped queries", "Phi 3 mini (window)",
    "Llama 3 (grouped queries)", "Mistral Nemo (wide heads)", "Gemma 2", "StableLM 2", "OLMo 3",
)  # fmt: skip
"""Features that another configuration of the list has too, or tests/models/test_parity.py; left to the benchmark."""


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in {*REFUSED, *LIKE_OTHERS}])
def test_a_configuration_is_hugging_faces_model(name: str, tmp_path: Path) -> None:
    row = check(name, CONFIGS[name], tmp_path)
    assert row.result == "equal", row


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    write(CONFIGS[name], tmp_path)
    with pytest.raises(ms.MechsteerError, match=REFUSED[name]):
        ms.load(str(tmp_path))


OF_ANOTHER_FAMILY = {"attention_multiplier": 0.5, "logits_scaling": 3.0, "residual_multiplier": 0.5, "qk_norm": True,
                     "embedding_multiplier": 7.0, "final_logit_softcapping": 5.0, "no_rope_layers": [0, 1, 0, 1],
                     "layer_types": ["full_attention"] * 4, "layer_norm_eps": 0.5}  # fmt: skip


def test_what_hugging_faces_class_does_not_declare_is_not_read(tmp_path: Path) -> None:
    row = check("Llama", CONFIGS["Llama 2"] | OF_ANOTHER_FAMILY, tmp_path)
    assert row.result == "equal", row


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Llama 2", {"sliding_window": 4096}, "sliding_window=4096; must be absent"),
        ("Pythia", {"sliding_window": 300}, "sliding_window=300; must be absent"),
        ("Llama 2", {"layer_types": ["sliding_attention"] * 4}, r"layer_types=\['sliding_attention'.*must be absent"),
        ("Mistral 0.1 (window)", {"sliding_window": 1}, "sliding_window=1; must be more than 1"),
        ("Mistral 0.1 (window)", {"sliding_window": 0}, "sliding_window=0; must be more than 1"),
        ("Qwen 2.5", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "sliding_window=None; must be more"),
    ],
)
def test_a_window_that_hugging_face_does_not_have_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(CONFIGS[name] | changes, tmp_path)
    with pytest.raises(ms.MechsteerError, match=message):
        ms.load(tmp_path)


def test_an_activation_of_t5_that_the_library_lacks_is_refused_by_its_name(tmp_path: Path) -> None:
    write(CONFIGS["T5 1.1"] | {"feed_forward_proj": "gated-tanh"}, tmp_path)
    with pytest.raises(ms.MechsteerError, match="Unsupported configuration of t5: feed_forward_proj=tanh; must be one"):
        ms.load(tmp_path)


def test_a_decoder_begins_as_either_configuration_says(tmp_path: Path) -> None:
    silent = {name: value for name, value in CONFIGS["T5 1.1"].items() if name != "decoder_start_token_id"}
    write(silent | {"feed_forward_proj": "gated-swish"}, tmp_path)
    with pytest.raises(
        ms.MechsteerError, match=r"needs decoder_start_token_id in its config\.json or generation_config"
    ):
        ms.load(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 5, "eos_token_id": 1}')
    assert ms.load(tmp_path).cfg.decoder_start_token_id == 5


@pytest.mark.parametrize("family", DECODERS)
def test_every_field_of_a_configuration_class_is_classified(family: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(family)
    named = set(config.attribute_map.values())
    known = SHARED | WITHOUT_EFFECT | DECODERS[family].fields | named
    assert set(declared(config)) - known == set()


def test_a_field_that_nobody_knows_is_refused_when_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when a later version of transformers adds one."""
    from mechsteer.models.families import family

    write(CONFIGS["Llama 2"], tmp_path)
    monkeypatch.setattr(family, "WITHOUT_EFFECT", family.WITHOUT_EFFECT - {"attention_dropout"})
    ms.load(str(tmp_path))
    config = CONFIGS["Llama 2"] | {"attention_dropout": 0.5}
    write(config, tmp_path)
    with pytest.raises(ms.MechsteerError, match=r"attention_dropout=0\.5; must be 0\.0: no other value is represented"):
        ms.load(str(tmp_path))


@pytest.fixture
def hub(tmp_path: Path) -> Callable[..., Any]:
    """A function that loads a configuration's model, with changes."""

    def get(name: str, **changes: Any) -> Any:
        write(CONFIGS[name] | changes, tmp_path)
        return ms.load(str(tmp_path))

    return get


@pytest.mark.parametrize("name", ["Llama 3.1 (scaled rope)", "Gemma 3, linear rope on full layers", "GPT-J"])
def test_rotary_tables_grow_to_the_whole_context(name: str, hub: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = hub(name)
    before = model.blocks[0].attn.rotary_cos.shape[0]
    assert model.blocks[0].attn.rotary_cos is model.blocks[2].attn.rotary_cos  # one table for a kind of layer
    tokens = torch.randint(4, 320, (1, model.cfg.n_ctx), generator=torch.Generator().manual_seed(0))
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        expected, library = hf(tokens).logits, model(tokens, prepend_bos=False)
        state = ms.models.start(model, tokens, torch.ones_like(tokens, dtype=torch.bool))
        ours = ms.models.advance(model, state, tokens, torch.ones_like(tokens, dtype=torch.bool), logits_at="all")
    for made in (library, ours):
        torch.testing.assert_close(made.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)
    assert before <= model.cfg.n_ctx == model.blocks[0].attn.rotary_cos.shape[0]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Phi 3.5 mini (longrope)", "longrope's factors"),
        ("Ministral 3 (YaRN, scaled queries)", "the scale of the queries"),
    ],
)
def test_a_context_ends_where_numbers_would_change_with_the_length(
    name: str, what: str, hub: Callable[..., Any]
) -> None:
    model = hub(name)
    assert model.cfg.n_ctx == 128
    prompt = ms.Prompt("t", torch.full((129,), 5), {"task": [(0, 129)]})
    with pytest.raises(ms.MechsteerError, match=f"context of 128 .the first 128 of 512 positions; beyond them {what}"):
        ms.generate(model, prompt, max_new_tokens=1)


def test_encoder_decoder_families_are_named() -> None:
    assert ENCODER_DECODERS == ("t5", "mt5")


def test_steering_and_measuring_where_norms_come_after(hub: Callable[..., Any]) -> None:
    model = hub("OLMo 2")
    prompt = as_prompt(model, torch.randint(4, 320, (24,), generator=torch.Generator().manual_seed(0)))
    assert ms.influence(model, [prompt]) is not None
    with pytest.raises(ms.MechsteerError, match=r"source='ln_input' is the normalised input .* take source='residual'"):
        ms.influence(model, [prompt], source="ln_input")
    made = ms.generate(model, prompt, strategy=ms.Directer(), max_new_tokens=2)
    assert made.lengths[0] >= 1


@pytest.mark.parametrize("name", ["Pythia", "GPT-J", "Phi 2"])
def test_side_by_side_there_is_no_middle_of_the_stream(name: str, hub: Callable[..., Any]) -> None:
    model = hub(name)
    prompt = as_prompt(model, torch.randint(4, 320, (24,), generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ms.MechsteerError, match="no resid_mid: its attention and MLP read the same stream"):
        ms.capture(model, [prompt], sites="resid_mid")
    found = ms.capture(model, [prompt], sites=["resid_pre", "attn_out", "mlp_out", "resid_post"], positions="all")
    for layer in range(len(model.blocks)):
        pre, attn, mlp, post = (
            found[f"blocks.{layer}.hook_{kind}"] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        torch.testing.assert_close(pre + attn + mlp, post)
    assert ms.influence(model, [prompt]) is not None
