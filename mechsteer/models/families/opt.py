"""OPT: learned positions whose first two rows are not used, biases everywhere."""

from typing import Any

from mechsteer.models.families import gpt2, weights
from mechsteer.models.families.family import Refusals, StateDict, must_be

FIELDS = frozenset(
    "ffn_dim do_layer_norm_before _remove_final_layer_norm word_embed_proj_dim activation_function enable_bias "
    "layer_norm_elementwise_affine".split()
)
_UNUSED_POSITIONS = 2


def settings(c: Any) -> dict[str, Any]:
    """What the configuration says, in the library's terms. The norms' epsilon is PyTorch's default."""
    return {
        "d_model": c.hidden_size,
        "d_head": c.hidden_size // c.num_attention_heads,
        "n_heads": c.num_attention_heads,
        "d_mlp": c.ffn_dim,
        "n_layers": c.num_hidden_layers,
        "n_ctx": c.max_position_embeddings,
        "eps": 1e-5,
        "act_fn": gpt2.ACTIVATIONS[c.activation_function],
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
    }


def refuses(c: Any) -> Refusals:
    """What the hooked modules have no place for."""
    return [
        must_be(c, "do_layer_norm_before", True, "the hooked blocks have no norm after the residual is added"),
        must_be(c, "_remove_final_layer_norm", False),
        must_be(c, "layer_norm_elementwise_affine", True),
        must_be(c, "word_embed_proj_dim", c.hidden_size, "there is no projection of the embeddings"),
        *gpt2.activation(c.activation_function),
    ]


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights."""
    base = hf.model.decoder
    made = {"embed.W_E": base.embed_tokens.weight, "pos_embed.W_pos": base.embed_positions.weight[_UNUSED_POSITIONS:]}
    made |= weights.norm(base.final_layer_norm, "ln_final") | weights.head(hf.lm_head)
    for layer, block in enumerate(base.layers):
        a = block.self_attn
        named = weights.attention(a.q_proj, a.k_proj, a.v_proj, a.out_proj, cfg)
        norms = weights.norm(block.self_attn_layer_norm, "ln1") | weights.norm(block.final_layer_norm, "ln2")
        made |= weights.in_layer(layer, named, weights.mlp(block.fc1, block.fc2), norms)
    return made
