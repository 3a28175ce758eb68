"""GPT-NeoX and Pythia: queries, keys and values fused head by head, a part of each head rotated, parallel residual."""

from typing import Any

from mechsteer.models.families import weights
from mechsteer.models.families.family import StateDict

FIELDS = frozenset("hidden_act layer_norm_eps rope_parameters use_parallel_residual attention_bias".split())


def settings(c: Any) -> dict[str, Any]:
    """What differs from Llama."""
    return {"gated_mlp": False, "parallel_attn_mlp": c.use_parallel_residual}


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights."""
    base = hf.gpt_neox
    made = {"embed.W_E": base.embed_in.weight}
    made |= weights.norm(base.final_layer_norm, "ln_final") | weights.head(hf.get_output_embeddings())
    for layer, block in enumerate(base.layers):
        fused = block.attention.query_key_value
        matrices = fused.weight.view(cfg.n_heads, 3, cfg.d_head, cfg.d_model)
        named = {f"attn.W_{letter}": matrices[:, i].transpose(1, 2) for i, letter in enumerate("QKV")}
        if fused.bias is not None:
            biases = fused.bias.view(cfg.n_heads, 3, cfg.d_head)
            named |= {f"attn.b_{letter}": biases[:, i] for i, letter in enumerate("QKV")}
        named |= weights.output(block.attention.dense, cfg)
        norms = weights.norm(block.input_layernorm, "ln1") | weights.norm(block.post_attention_layernorm, "ln2")
        made |= weights.in_layer(layer, named, weights.mlp(block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h), norms)
    return made
