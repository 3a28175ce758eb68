"""Configurations with the features of models on the Hugging Face hub, shrunk, and a checkpoint of each.

Widths are tiny and windows short, so that a feature shows within a few dozen tokens. Spellings are the hub's own, old
ones (``rope_scaling``, ``rotary_pct``) among them, since those are what people bring.
"""

import json
from pathlib import Path
from typing import Any

import torch

VOCAB = 320
_IDS = {"vocab_size": VOCAB, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
_LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}


def _llama(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
    made = {"model_type": model_type, **_SIZES, **_IDS, "hidden_act": "silu", "num_key_value_heads": 2}
    made |= {"rms_norm_eps": 1e-5, "max_position_embeddings": 512, "rope_theta": 10000.0, "tie_word_embeddings": False}
    return made | changes


def _gemma(model_type: str, **changes: Any) -> dict[str, Any]:
    made = {"head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "rms_norm_eps": 1e-6}
    if model_type != "gemma":
        made |= {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24, "sliding_window": 8}
    return _llama(model_type, **(made | changes))


def _gpt2(model_type: str = "gpt2", **changes: Any) -> dict[str, Any]:
    made = {"model_type": model_type, **_IDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
    return made | {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5} | changes


def _neox(**changes: Any) -> dict[str, Any]:
    made = {"model_type": "gpt_neox", **_SIZES, **_IDS, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    made |= {"max_position_embeddings": 256, "rotary_pct": 0.25, "rotary_emb_base": 10000, "tie_word_embeddings": False}
    return made | changes


def _t5(model_type: str = "t5", **changes: Any) -> dict[str, Any]:
    made = {"model_type": model_type, "vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    made |= {"num_layers": 2, "num_decoder_layers": 2, "relative_attention_num_buckets": 8, "eos_token_id": 1}
    return made | {"pad_token_id": 0, "decoder_start_token_id": 0, "is_encoder_decoder": True} | changes


def _phi3(**changes: Any) -> dict[str, Any]:
    return _llama("phi3", num_key_value_heads=4, original_max_position_embeddings=512, **changes)


def _stablelm(**changes: Any) -> dict[str, Any]:
    made = _llama("stablelm", layer_norm_eps=1e-5, partial_rotary_factor=0.25, **changes)
    return {name: value for name, value in made.items() if name != "rms_norm_eps"}


def _phi(**changes: Any) -> dict[str, Any]:
    made = _llama("phi", num_key_value_heads=4, hidden_act="gelu_new", layer_norm_eps=1e-5, partial_rotary_factor=0.5)
    return {name: value for name, value in made.items() if name != "rms_norm_eps"} | changes


_LLAMAS = {
    "Llama 2": _llama(num_key_value_heads=4),
    "Llama 3 (grouped queries)": _llama(rope_theta=500000.0),
    "Llama 3.1 (scaled rope)": _llama(rope_scaling=_LLAMA3_ROPE | {"original_max_position_embeddings": 64}),
    "Llama 3.2 (tied, wide heads)": _llama(tie_word_embeddings=True, head_dim=16),
    "Vicuna 16k (linear rope)": _llama(rope_scaling={"type": "linear", "factor": 4.0}),
    "Llama, dynamic rope": _llama(rope_scaling={"type": "dynamic", "factor": 2.0}),
    "Llama, YaRN": _llama(rope_scaling={"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}),
    "Llama, biases in attention": _llama(attention_bias=True),
    "Llama, biases in the MLP": _llama(mlp_bias=True),
    "Llama, GELU": _llama(hidden_act="gelu"),
    "Llama, exotic activation": _llama(hidden_act="mish"),
    "Llama, quantised (GPTQ)": _llama(quantization_config={"quant_method": "gptq", "bits": 4}),
    "SmolLM 2": _llama(tie_word_embeddings=True, num_attention_heads=8, rope_theta=100000, rope_interleaved=False),
    "SmolLM 3": _llama("smollm3", no_rope_layers=[1, 1, 1, 0], use_sliding_window=False, tie_word_embeddings=True),
    "SmolLM 3, windows": _llama(
        "smollm3", no_rope_layers=[1, 0, 1, 0], use_sliding_window=True, sliding_window=6, attention_bias=True
    ),
    "Mistral 0.1 (window)": _llama("mistral", sliding_window=8),
    "Mistral 0.3 (no window)": _llama("mistral", sliding_window=None, rope_theta=1e6),
    "Mistral Nemo (wide heads)": _llama("mistral", sliding_window=None, head_dim=12),
    "Ministral 3 (YaRN, scaled queries)": _llama(
        "ministral3",
        head_dim=8,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 8.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    ),
    "Mixtral": _llama("mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "Qwen 2.5": _llama("qwen2", use_sliding_window=False, sliding_window=64, max_window_layers=2),
    "Qwen 2, windows above a layer": _llama("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2),
    "Qwen 2.5, YaRN": _llama(
        "qwen2", rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    ),
    "Qwen 3": _llama("qwen3", head_dim=16, attention_bias=False, tie_word_embeddings=True),
    "Qwen 3, biases": _llama("qwen3", head_dim=16, attention_bias=True),
    "Qwen 3 MoE": _llama(
        "qwen3_moe",
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        tie_word_embeddings=False,
    ),
    "Qwen 3 MoE, weights not normalised": _llama(
        "qwen3_moe", head_dim=16, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=False
    ),
    "Qwen 3 MoE, dense layers": _llama(
        "qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, mlp_only_layers=[1]
    ),
    "Phi 3 mini (window)": _phi3(sliding_window=7),
    "Phi 3.5 mini (longrope)": _phi3(rope_scaling={"type": "longrope", **_FACTORS})
    | {"original_max_position_embeddings": 128},
    "Phi 4 mini (longrope, part of the head)": _phi3(
        rope_scaling={"type": "longrope", "short_factor": [1.0, 1.2], "long_factor": [2.0, 4.0]},
        partial_rotary_factor=0.5,
        tie_word_embeddings=True,
    )
    | {"original_max_position_embeddings": 128},
    "Gemma": _gemma("gemma"),
    "Gemma, both names of the activation": _gemma("gemma", hidden_act="silu", hidden_activation="gelu_pytorch_tanh"),
    "Gemma 2": _gemma("gemma2", attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    "Gemma 2, low caps": _gemma("gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=5.0),
    "Gemma 2, no caps": _gemma("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None),
    "Gemma 3 1B": _gemma("gemma3_text", rope_theta=1000000, rope_local_base_freq=10000, sliding_window_pattern=2),
    "Gemma 3, linear rope on full layers": _gemma(
        "gemma3_text",
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        layer_types=["sliding_attention", "full_attention"] * 2,
        final_logit_softcapping=20.0,
    ),
    "Gemma 3, soft cap of attention": _gemma("gemma3_text", attn_logit_softcapping=3.0),
    "Gemma 3, bidirectional": _gemma("gemma3_text", use_bidirectional_attention=True),
    "OLMo": _llama("olmo", clip_qkv=None, tie_word_embeddings=True),
    "OLMo, clipped": _llama("olmo", clip_qkv=0.8, num_key_value_heads=4),
    "OLMo 2": _llama("olmo2", num_key_value_heads=4, rope_theta=500000),
    "OLMo 2, grouped queries": _llama("olmo2", attention_bias=True),
    "OLMo 3": _llama("olmo3", num_key_value_heads=4, sliding_window=8),
    "OLMo 3, YaRN on full layers": _llama(
        "olmo3",
        sliding_window=8,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ),
    "Granite 3": _llama(
        "granite", attention_multiplier=0.2, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.3
    ),
    "Granite 3, biases, tied": _llama(
        "granite", attention_multiplier=0.5, attention_bias=True, tie_word_embeddings=True, logits_scaling=4.0
    ),
    "Arcee": _llama("arcee", hidden_act="relu2"),
    "ERNIE 4.5": _llama("ernie4_5", head_dim=16, tie_word_embeddings=True),
    "ERNIE 4.5, biases": _llama("ernie4_5", use_bias=True),
    "Helium": _llama("helium", head_dim=8),
    "Nemotron, biases": _llama(
        "nemotron", hidden_act="relu2", norm_eps=1e-5, partial_rotary_factor=0.5, attention_bias=True, mlp_bias=True
    ),
    "Seed-OSS": _llama("seed_oss", head_dim=16, attention_bias=True, attention_out_bias=True),
    "StarCoder 2": _llama(
        "starcoder2", hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5, sliding_window=8, use_bias=True
    ),
    "OLMoE": _llama("olmoe", num_experts=4, num_experts_per_tok=2, norm_topk_prob=False, clip_qkv=0.8),
    "StableLM 2": _stablelm(use_qkv_bias=True),
    "StableLM, parallel": _stablelm(use_parallel_residual=True),
    "StableLM 2 12B (norms of heads)": _stablelm(qk_layernorm=True, use_parallel_residual=True),
}

_OTHERS = {
    "GPT-2": _gpt2(n_ctx=256),
    "GPT-2, inner width, ReLU": _gpt2(n_inner=40, activation_function="relu"),
    "GPT-2 (Stanford: scaled by layer)": _gpt2(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    "GPT-2, cross-attention": _gpt2(add_cross_attention=True),
    "GPT-Neo": {
        "model_type": "gpt_neo",
        **_IDS,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "window_size": 6,
        "attention_types": [[["global", "local"], 2]],
        "max_position_embeddings": 256,
    },
    "GPT-J": _gpt2("gptj", rotary_dim=4, tie_word_embeddings=False),
    "Pythia": _neox(),
    "Pythia, sequential, no biases": _neox(use_parallel_residual=False, attention_bias=False, rotary_pct=1.0),
    "OPT": {
        "model_type": "opt",
        **_IDS,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
        "do_layer_norm_before": True,
    },
    "OPT 350M (norms after, projected)": {
        "model_type": "opt",
        **_IDS,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
    },
    "OPT (Galactica: no biases)": {
        "model_type": "opt",
        **_IDS,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
        "enable_bias": False,
        "activation_function": "gelu",
    },
    "Phi 2": _phi(),
    "Phi, norms of heads": _phi(qk_layernorm=True),
    "BLOOM": {"model_type": "bloom", **_IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Falcon": {"model_type": "falcon", **_IDS, **_SIZES, "parallel_attn": True, "alibi": False},
    "Cohere": _llama("cohere", layer_norm_eps=1e-5),
    "GPT-OSS": _llama("gpt_oss", num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
    "Mamba": {"model_type": "mamba", **_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}

_ENCODER_DECODERS = {
    "T5 1.0": _t5(),
    "T5 1.1": _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "FLAN-UL2 (gated SiLU)": _t5(feed_forward_proj="gated-silu", tie_word_embeddings=False),
    "T5, uneven stacks": _t5(num_layers=1, num_decoder_layers=3, relative_attention_max_distance=20),
    "ByT5": _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_layers=3),
    "mT5": _t5("mt5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "UMT5": _t5("umt5", feed_forward_proj="gated-gelu"),
    "LongT5": _t5("longt5", encoder_attention_type="transient-global", local_radius=8),
    "BART": {"model_type": "bart", **_IDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2},
    "Marian": {
        "model_type": "marian",
        **_IDS,
        "decoder_start_token_id": 0,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
    },
}

CONFIGS: dict[str, dict[str, Any]] = _LLAMAS | _OTHERS | _ENCODER_DECODERS


def sharpen(model: Any, seed: int = 0) -> Any:
    """Random weights, in place, whose next-token distributions are far from flat."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(parameter.mean().round() + 0.2 * noise)
            elif "relative_attention_bias" in name:
                parameter.copy_(noise)
            else:
                table = any(part in name for part in ("embed", "wte", "wpe", "shared", "lm_head"))
                parameter.copy_(noise * (0.5 if table else 1.3 / parameter.shape[-1] ** 0.5))
    return model


def tokenizer() -> Any:
    """A tokenizer of numbered words; enough for a checkpoint whose prompts are made of token ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<s>", "<unk>", *(f"t{i}" for i in range(4, VOCAB))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def write(config: dict[str, Any], folder: Path) -> Any:
    """A checkpoint folder with this very config.json, random weights and a tokenizer.

    Returns:
        The Hugging Face model; None where transformers makes none (the caller wants a refusal then).
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    words = tokenizer()
    words.save_pretrained(folder)
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    made = AutoConfig.for_model(**plain)
    auto = AutoModelForSeq2SeqLM if made.is_encoder_decoder else AutoModelForCausalLM
    model = sharpen(auto.from_config(made, attn_implementation="eager", dtype=torch.float32)).eval()
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return model
