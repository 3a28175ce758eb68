"""Phi-1, 1.5 and 2: one norm for attention and MLP side by side, a part of each head rotated, a bias on the logits."""

from typing import Any

from mechsteer.models.families import weights
from mechsteer.models.families.family import StateDict

FIELDS = frozenset("num_key_value_heads hidden_act layer_norm_eps rope_parameters qk_layernorm".split())


def settings(c: Any) -> dict[str, Any]:
    """What differs from Llama."""
    return {"gated_mlp": False, "parallel_attn_mlp": True}


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights."""
    base = hf.model
    made = {"embed.W_E": base.embed_tokens.weight}
    made |= weights.norm(base.final_layernorm, "ln_final") | weights.head(hf.lm_head)
    for layer, block in enumerate(base.layers):
        a = block.self_attn
        named = weights.attention(a.q_proj, a.k_proj, a.v_proj, a.dense, cfg)
        norms = weights.norm(block.input_layernorm, "ln1") | weights.norm(block.input_layernorm, "ln2")
        made |= weights.in_layer(layer, named, weights.mlp(block.mlp.fc1, block.mlp.fc2), norms)
    return made
