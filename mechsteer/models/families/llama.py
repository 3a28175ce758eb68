"""Llama and the families that are Llama but for a few settings: Mistral, Qwen, Phi-3, Gemma, OLMo, SmolLM3, Granite...

Of some only the MLP is another (Arcee), or the norms are with biases (StarCoder 2, Nemotron).

Sources: the modelling code of transformers. Rotary tables are not made here but taken from the Hugging Face model
(:mod:`mechsteer.models.weights.rotary`), so that every type of scaling is Hugging Face's own.
"""

from typing import Any

import torch

from mechsteer.models.families import weights
from mechsteer.models.families.family import ACTIVATIONS, Refusals, StateDict, must_be, own
from mechsteer.models.families.rope import context, rotary_base

FIELDS = frozenset(
    "num_key_value_heads head_dim hidden_act hidden_activation rms_norm_eps layer_norm_eps rope_parameters "
    "original_max_position_embeddings attention_bias mlp_bias sliding_window use_sliding_window max_window_layers "
    "layer_types use_bidirectional_attention".split()
)
GEMMA_FIELDS = FIELDS | {"query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping"}
GRANITE_FIELDS = FIELDS | {"embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"}
SMOLLM3_FIELDS = FIELDS | {"no_rope_layers", "no_rope_layer_interval"}
MIXTRAL_FIELDS = FIELDS | {"num_experts_per_tok", "num_local_experts"}
QWEN3_MOE_FIELDS = FIELDS | set(
    "decoder_sparse_step moe_intermediate_size num_experts_per_tok num_experts norm_topk_prob mlp_only_layers".split()
)
OLMOE_FIELDS = FIELDS | {"num_experts_per_tok", "num_experts", "norm_topk_prob", "clip_qkv"}
STABLELM_FIELDS = FIELDS | {"use_qkv_bias", "qk_layernorm", "use_parallel_residual"}
UNGATED = ("arcee", "nemotron", "starcoder2")
"""The families whose MLP has no gate."""


def settings(c: Any) -> dict[str, Any]:
    """What the configuration of a Llama says, in the library's terms."""
    n_heads = c.num_attention_heads
    n_kv = getattr(c, "num_key_value_heads", None) or n_heads
    layer_norm, rms_eps = own(c, "layer_norm_eps") is not None, own(c, "rms_norm_eps")
    made: dict[str, Any] = {
        "d_model": c.hidden_size,
        "d_head": getattr(c, "head_dim", None) or c.hidden_size // n_heads,
        "n_heads": n_heads,
        "n_key_value_heads": n_kv if n_kv != n_heads else None,
        "d_mlp": c.intermediate_size,
        "n_layers": c.num_hidden_layers,
        "n_ctx": context(c)[0],
        "eps": c.layer_norm_eps if layer_norm else 1e-5 if rms_eps is None else rms_eps,
        "act_fn": ACTIVATIONS[_activation(c)],
        "gated_mlp": c.model_type not in UNGATED,
        "normalization_type": "LN" if layer_norm else "RMS",
        "final_rms": not layer_norm,
        "positional_embedding_type": "rotary",
        "rotary_base": rotary_base(c) or 10000.0,
        "rotary_adjacent_pairs": False,
    }
    return made | windows(c)


def windows(c: Any) -> dict[str, Any]:
    """Sliding-window attention: on the layers named in ``layer_types``, or on all where there is no such list."""
    window = own(c, "sliding_window")
    if not window:
        return {}
    kinds = own(c, "layer_types") or ["sliding_attention"] * c.num_hidden_layers
    if "sliding_attention" not in kinds:
        return {}
    attn_types = ["local" if kind == "sliding_attention" else "global" for kind in kinds]
    return {"use_local_attn": True, "window_size": window, "attn_types": attn_types}


def gemma(c: Any) -> dict[str, Any]:
    """Gemma 2 and 3: norms on both sides, soft caps, a scale of attention of their own."""
    off = -1.0  # the library's value for "no soft cap"
    return {
        "attn_scale": c.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": c.attn_logit_softcapping or off,
        "output_logits_soft_cap": c.final_logit_softcapping or off,
        "use_normalization_before_and_after": True,
        "use_qk_norm": c.model_type == "gemma3_text",
    }


def pairs_of_neighbours(c: Any) -> dict[str, Any]:
    """ERNIE 4.5 and Helium: the rotary embedding turns neighbouring dimensions."""
    return {"rotary_adjacent_pairs": True}


def layer_norms(c: Any) -> dict[str, Any]:
    """StarCoder 2 and Nemotron."""
    eps = c.norm_epsilon if c.model_type == "starcoder2" else c.norm_eps
    return {"normalization_type": "LN", "final_rms": False, "eps": eps}


def experts(c: Any) -> dict[str, Any]:
    """Mixtures whose experts' weights may sum to less than one."""
    return {
        "num_experts": c.num_experts,
        "experts_per_token": c.num_experts_per_tok,
        "norm_topk_prob": c.norm_topk_prob,
    }


def olmoe(c: Any) -> dict[str, Any]:
    """OLMoE: experts, and clipped queries, keys and values."""
    return experts(c) | {"clip_qkv": c.clip_qkv}


def mixtral(c: Any) -> dict[str, Any]:
    """Mixtral: experts whose weights sum to one."""
    return {"num_experts": c.num_local_experts, "experts_per_token": c.num_experts_per_tok, "norm_topk_prob": True}


def qwen3_moe(c: Any) -> dict[str, Any]:
    """Qwen 3 MoE: small experts, and norms of queries and keys."""
    return experts(c) | {"d_mlp": c.moe_intermediate_size, "use_qk_norm": True}


def _activation(c: Any) -> str:
    """Gemma 2 and 3 have a field of their own; files of Gemma 1 have it too, which Hugging Face does not read there."""
    return c.hidden_activation if c.model_type in ("gemma2", "gemma3_text") else c.hidden_act


def _biases(c: Any) -> tuple[str, ...]:
    """The fields that would give a gated MLP biases."""
    return () if c.model_type in UNGATED else ("use_bias",) if c.model_type == "ernie4_5" else ("mlp_bias",)


def refuses(c: Any) -> Refusals:
    """The features of Llama's relatives that the hooked modules have no place for."""
    activation = _activation(c)
    kinds = set(own(c, "layer_types") or ()) - {"full_attention", "sliding_attention"}
    return [
        _window(c),
        *(must_be(c, name, False, "the hooked gated MLP has no gate bias") for name in _biases(c)),
        must_be(c, "qk_layernorm", False, "the hooked attention has RMS norms of queries and keys only"),
        ("hidden_act", activation not in ACTIVATIONS and activation, f"must be one of {', '.join(ACTIVATIONS)}"),
        ("layer_types", ", ".join(sorted(kinds)), "must be full_attention or sliding_attention"),
        (
            "use_bidirectional_attention",
            getattr(c, "use_bidirectional_attention", None),
            "must be false: the stack is causal",
        ),
    ]


def _window(c: Any) -> tuple[str, object, str]:
    """A window that Hugging Face's model or its cache cannot have."""
    foreign = [name for name in ("sliding_window", "layer_types", "attention_chunk_size") if own(c, name) is None]
    for name in foreign:  # its cache reads them all the same
        value = getattr(c, name, None)
        if value is not None and set(value if isinstance(value, list) else [value]) != {"full_attention"}:
            return name, repr(value), "must be absent: Hugging Face's model of this family has no window"
    window = getattr(c, "sliding_window", None)
    wanted = window is not None or "sliding_attention" in (own(c, "layer_types") or ())
    short = wanted and not (isinstance(window, int) and window > 1)
    return "sliding_window", short and repr(window), "must be more than 1 for layers with sliding_attention"


def refuses_bent_scores(c: Any) -> Refusals:
    """Of Gemma 3 also the soft cap of attention, which its configuration has and Hugging Face's model ignores."""
    return [*refuses(c), must_be(c, "attn_logit_softcapping", None, "Hugging Face's Gemma 3 does not apply it")]


def refuses_dense(c: Any) -> Refusals:
    """Of mixtures of experts also those with dense layers among the others."""
    dense = [layer for layer in range(c.num_hidden_layers) if (layer + 1) % c.decoder_sparse_step]
    return [
        *refuses(c),
        ("decoder_sparse_step", dense and c.decoder_sparse_step, "must be 1: the hooked layers are all of one kind"),
        ("mlp_only_layers", c.mlp_only_layers, "must be empty: the hooked layers are all of one kind"),
    ]


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights of a Llama or a relative. Copies: Gemma's embedding and norms, and what Granite multiplies."""
    c, base = hf.config, hf.base_model
    plus_one = c.model_type.startswith(("gemma", "nemotron"))
    made = {"embed.W_E": _embedding(base.embed_tokens, c)} | weights.head(hf.get_output_embeddings())
    held = multipliers(c)
    made["unembed.W_U"] = weights.scaled(made["unembed.W_U"], held.get("logits", 1))
    made |= _norm(base.norm, "ln_final", base.embed_tokens.weight, plus_one)
    for layer, block in enumerate(base.layers):
        inner = _attention(block.self_attn, cfg, plus_one) | _mlp(block.mlp)
        for name in ("attn.W_O", "attn.b_O", "mlp.W_out"):
            if name in inner:
                inner[name] = weights.scaled(inner[name], held.get("residual", 1))
        made |= weights.in_layer(layer, inner, _norms(block, base.embed_tokens.weight, plus_one))
    return made


def multipliers(c: Any) -> dict[str, float]:
    """What Granite multiplies by as it runs, and the weights here hold; see :class:`mechsteer.models.ModelInfo`."""
    found = {"residual": own(c, "residual_multiplier", 1), "logits": 1 / own(c, "logits_scaling", 1)}
    return {name: float(value) for name, value in found.items() if value != 1}


def _embedding(embedding: Any, c: Any) -> torch.Tensor:
    """As it enters the stream: Gemma and Granite multiply it at run time, in its own dtype."""
    factor = getattr(embedding, "scalar_embed_scale", own(c, "embedding_multiplier", 1))
    return weights.scaled(embedding.weight, factor)


def _attention(attention: Any, cfg: Any, plus_one: bool) -> StateDict:
    if hasattr(attention, "qkv_proj"):  # Phi-3 fuses the three
        n_kv = cfg.n_key_value_heads or cfg.n_heads
        sizes = [cfg.n_heads * cfg.d_head, n_kv * cfg.d_head, n_kv * cfg.d_head]
        q, k, v = ((weight, None) for weight in attention.qkv_proj.weight.split(sizes, dim=0))
    else:
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    made = weights.attention(q, k, v, attention.o_proj, cfg)
    if hasattr(attention, "q_norm"):
        made |= weights.norm(attention.q_norm, "attn.q_norm", plus_one=plus_one)
        made |= weights.norm(attention.k_norm, "attn.k_norm", plus_one=plus_one)
    return made


def _mlp(mlp: Any) -> StateDict:
    if hasattr(mlp, "experts"):  # Mixtral, Qwen 3 MoE
        return _experts(mlp)
    if hasattr(mlp, "c_fc"):  # StarCoder 2
        return weights.mlp(mlp.c_fc, mlp.c_proj)
    if hasattr(mlp, "up_proj") and not hasattr(mlp, "gate_proj"):  # Arcee, Nemotron
        return weights.mlp(mlp.up_proj, mlp.down_proj)
    if hasattr(mlp, "gate_up_proj"):  # Phi-3 fuses the two
        gate, up = mlp.gate_up_proj.weight.chunk(2, dim=0)
    else:
        gate, up = mlp.gate_proj.weight, mlp.up_proj.weight
    return {"mlp.W_gate": gate.T, "mlp.W_in": up.T, "mlp.W_out": mlp.down_proj.weight.T}


def _experts(mlp: Any) -> StateDict:
    made = {"mlp.W_gate.weight": mlp.gate.weight}
    for expert, (fused, down) in enumerate(zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True)):
        gate, up = fused.chunk(2, dim=0)
        named = {"W_gate": gate, "W_in": up, "W_out": down}
        made |= {f"mlp.experts.{expert}.{name}.weight": weight for name, weight in named.items()}
    return made


def _norms(block: Any, like: torch.Tensor, plus_one: bool) -> StateDict:
    """Before the sublayers; after them (OLMo 2, 3); on both sides (Gemma 2, 3); one for both (StableLM, parallel)."""
    before, after = getattr(block, "input_layernorm", None), block.post_attention_layernorm
    if hasattr(block, "pre_feedforward_layernorm"):
        norms = {
            "ln1": before,
            "ln1_post": after,
            "ln2": block.pre_feedforward_layernorm,
            "ln2_post": block.post_feedforward_layernorm,
        }
    elif hasattr(block, "post_feedforward_layernorm"):
        norms = {"ln1": after, "ln2": block.post_feedforward_layernorm}
    else:
        norms = {"ln1": before, "ln2": before if after is None else after}
    made: StateDict = {}
    for name, module in norms.items():
        made |= _norm(module, name, like, plus_one)
    return made


def _norm(module: Any, name: str, like: torch.Tensor, plus_one: bool) -> StateDict:
    if not hasattr(module, "weight"):  # OLMo's has no parameters
        return {f"{name}.w": like.new_ones(like.shape[-1])}
    return weights.norm(module, name, plus_one=plus_one)
