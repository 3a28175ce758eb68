"""Decoder-only models: Hugging Face weights as views in a HookedTransformer.

Every tensor is a view in Hugging Face's memory layout (:mod:`mechsteer.models.views`), so nothing is copied at load,
and the library's per-forward ``.contiguous()`` calls do no work. The exceptions are copied once: GPT-2's attention
output weights, which Hugging Face stores transposed, and Gemma 2's scaled embedding and norms.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.models.families import rope_parameters
from mechsteer.models.views import build, heads_in, heads_out

StateDict = dict[str, Tensor]


def hooked_transformer(hf_model: Any) -> Any:
    """A HookedTransformer that shares its weights with ``hf_model``, unprocessed (no folding, no centring).

    Args:
        hf_model: A GPT2LMHeadModel or a Llama, Mistral, Phi-3, Qwen 2/3 or Gemma 2 ``...ForCausalLM``.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = hf_model.config
    gpt2 = config.model_type == "gpt2"
    settings = _gpt2_settings(config) if gpt2 else _llama_settings(config)
    parameter = next(hf_model.parameters())
    cfg = HookedTransformerConfig(
        **settings,
        d_vocab=config.vocab_size,
        model_name=config.model_type,
        original_architecture=type(hf_model).__name__,
        init_weights=False,
        dtype=parameter.dtype,
        device=parameter.device.type,
        default_prepend_bos=False,
    )
    state = _gpt2_state(hf_model, cfg) if gpt2 else _llama_state(hf_model, cfg)
    return build(lambda: HookedTransformer(cfg, move_to_device=False), state, parameter.device)


def _gpt2_settings(c: Any) -> dict[str, Any]:
    return {
        "d_model": c.n_embd,
        "d_head": c.n_embd // c.n_head,
        "n_heads": c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "n_layers": c.n_layer,
        "n_ctx": c.n_positions,
        "eps": c.layer_norm_epsilon,
        "act_fn": c.activation_function,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
    }


def _llama_settings(c: Any) -> dict[str, Any]:
    rope = rope_parameters(c)
    n_heads = c.num_attention_heads
    settings: dict[str, Any] = {
        "d_model": c.hidden_size,
        "d_head": getattr(c, "head_dim", None) or c.hidden_size // n_heads,
        "n_heads": n_heads,
        "n_key_value_heads": c.num_key_value_heads if c.num_key_value_heads != n_heads else None,
        "d_mlp": c.intermediate_size,
        "n_layers": c.num_hidden_layers,
        "n_ctx": c.max_position_embeddings,
        "eps": c.rms_norm_eps,
        "act_fn": getattr(c, "hidden_act", None) or c.hidden_activation,
        "gated_mlp": True,
        "normalization_type": "RMS",
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_base": rope.get("rope_theta", 10000.0),
        "rotary_adjacent_pairs": False,
        "use_qk_norm": c.model_type == "qwen3",
    }
    return settings | _rope_settings(rope) | _window_settings(c) | _gemma2_settings(c)


def _rope_settings(rope: dict[str, Any]) -> dict[str, Any]:
    if rope.get("rope_type", "default") != "llama3":
        return {}
    return {
        "use_NTK_by_parts_rope": True,
        "NTK_by_parts_factor": rope["factor"],
        "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
        "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
        "NTK_original_ctx_len": rope["original_max_position_embeddings"],
    }


def _window_settings(c: Any) -> dict[str, Any]:
    """Sliding-window attention: on the layers named in ``layer_types``, or on all where there is no such list."""
    window = getattr(c, "sliding_window", None)
    if not window:
        return {}
    kinds = getattr(c, "layer_types", None) or ["sliding_attention"] * c.num_hidden_layers
    if "sliding_attention" not in kinds:
        return {}
    attn_types = ["local" if kind == "sliding_attention" else "global" for kind in kinds]
    return {"use_local_attn": True, "window_size": window, "attn_types": attn_types}


def _gemma2_settings(c: Any) -> dict[str, Any]:
    if c.model_type != "gemma2":
        return {}
    off = -1.0  # the library's value for "no soft cap"
    return {
        "attn_scale": c.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": c.attn_logit_softcapping or off,
        "output_logits_soft_cap": c.final_logit_softcapping or off,
        "use_normalization_before_and_after": True,
    }


def _gpt2_state(hf: Any, cfg: Any) -> StateDict:
    base = hf.transformer
    state = {
        "embed.W_E": base.wte.weight,
        "pos_embed.W_pos": base.wpe.weight,
        "ln_final.w": base.ln_f.weight,
        "ln_final.b": base.ln_f.bias,
        "unembed.W_U": hf.lm_head.weight.T,
    }
    for layer, block in enumerate(base.h):
        queries, keys, values = block.attn.c_attn.weight.split(cfg.d_model, dim=1)
        biases = block.attn.c_attn.bias.view(3, cfg.n_heads, cfg.d_head)
        named = {
            "attn.W_Q": heads_in(queries.T, cfg.n_heads),
            "attn.W_K": heads_in(keys.T, cfg.n_heads),
            "attn.W_V": heads_in(values.T, cfg.n_heads),
            "attn.b_Q": biases[0],
            "attn.b_K": biases[1],
            "attn.b_V": biases[2],
            "attn.W_O": heads_out(block.attn.c_proj.weight.T.contiguous(), cfg.n_heads),
            "attn.b_O": block.attn.c_proj.bias,
            "ln1.w": block.ln_1.weight,
            "ln1.b": block.ln_1.bias,
            "ln2.w": block.ln_2.weight,
            "ln2.b": block.ln_2.bias,
            "mlp.W_in": block.mlp.c_fc.weight,
            "mlp.b_in": block.mlp.c_fc.bias,
            "mlp.W_out": block.mlp.c_proj.weight,
            "mlp.b_out": block.mlp.c_proj.bias,
        }
        state |= {f"blocks.{layer}.{name}": tensor for name, tensor in named.items()}
    return state


def _llama_state(hf: Any, cfg: Any) -> StateDict:
    gemma = hf.config.model_type == "gemma2"
    base = hf.model
    embedding = base.embed_tokens.weight
    if gemma:  # Gemma multiplies its embeddings at run time, in its own dtype; so must W_E
        embedding = embedding * torch.tensor(cfg.d_model**0.5, dtype=cfg.dtype)
    state = {
        "embed.W_E": embedding,
        "ln_final.w": _norm(base.norm, gemma),
        "unembed.W_U": hf.lm_head.weight.T,
    }
    for layer, block in enumerate(base.layers):
        named = _llama_attention(block.self_attn, cfg) | _llama_mlp(block.mlp) | _llama_norms(block, gemma)
        state |= {f"blocks.{layer}.{name}": tensor for name, tensor in named.items()}
    return state


def _llama_attention(attention: Any, cfg: Any) -> StateDict:
    n_kv = cfg.n_key_value_heads or cfg.n_heads
    grouped = "" if cfg.n_key_value_heads is None else "_"
    biases: list[Tensor | None]
    if hasattr(attention, "qkv_proj"):  # Phi-3 fuses the three
        sizes = [cfg.n_heads * cfg.d_head, n_kv * cfg.d_head, n_kv * cfg.d_head]
        weights = list(attention.qkv_proj.weight.split(sizes, dim=0))
        biases = [None, None, None]
    else:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights, biases = [p.weight for p in projections], [p.bias for p in projections]
    state: StateDict = {"attn.W_O": heads_out(attention.o_proj.weight, cfg.n_heads)}
    if attention.o_proj.bias is not None:
        state["attn.b_O"] = attention.o_proj.bias
    names = (("Q", cfg.n_heads, ""), ("K", n_kv, grouped), ("V", n_kv, grouped))
    for (letter, heads, prefix), weight, bias in zip(names, weights, biases, strict=True):
        state[f"attn.{prefix}W_{letter}"] = heads_in(weight, heads)
        if bias is not None:
            state[f"attn.{prefix}b_{letter}"] = bias.view(heads, cfg.d_head)
    if cfg.use_qk_norm:
        state |= {"attn.q_norm.w": attention.q_norm.weight, "attn.k_norm.w": attention.k_norm.weight}
    return state


def _llama_mlp(mlp: Any) -> StateDict:
    if hasattr(mlp, "gate_up_proj"):  # Phi-3 fuses the two
        gate, up = mlp.gate_up_proj.weight.chunk(2, dim=0)
    else:
        gate, up = mlp.gate_proj.weight, mlp.up_proj.weight
    return {"mlp.W_gate": gate.T, "mlp.W_in": up.T, "mlp.W_out": mlp.down_proj.weight.T}


def _llama_norms(block: Any, gemma: bool) -> StateDict:
    if gemma:
        norms = {
            "ln1": block.input_layernorm,
            "ln1_post": block.post_attention_layernorm,
            "ln2": block.pre_feedforward_layernorm,
            "ln2_post": block.post_feedforward_layernorm,
        }
    else:
        norms = {"ln1": block.input_layernorm, "ln2": block.post_attention_layernorm}
    return {f"{name}.w": _norm(module, gemma) for name, module in norms.items()}


def _norm(module: Any, plus_one: bool) -> Float[Tensor, "d_model"]:
    """The norm's weight; Gemma stores it minus one."""
    return module.weight.float() + 1.0 if plus_one else module.weight
