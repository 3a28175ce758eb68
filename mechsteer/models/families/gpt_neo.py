"""GPT-Neo: learned positions, scores without a scale, windows on the layers that ``attention_types`` calls local."""

from typing import Any

from mechsteer.models.families import gpt2, weights
from mechsteer.models.families.family import Refusals, StateDict

FIELDS = frozenset(
    "num_layers num_heads attention_types window_size activation_function layer_norm_epsilon intermediate_size".split()
)


def settings(c: Any) -> dict[str, Any]:
    """What the configuration says, in the library's terms."""
    made = {
        "d_model": c.hidden_size,
        "d_head": c.hidden_size // c.num_heads,
        "n_heads": c.num_heads,
        "d_mlp": c.intermediate_size or 4 * c.hidden_size,
        "n_layers": c.num_layers,
        "n_ctx": c.max_position_embeddings,
        "eps": c.layer_norm_epsilon,
        "act_fn": gpt2.ACTIVATIONS[c.activation_function],
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "use_attn_scale": False,
    }
    if "local" not in c.attention_layers:
        return made
    return made | {"use_local_attn": True, "window_size": c.window_size, "attn_types": list(c.attention_layers)}


def refuses(c: Any) -> Refusals:
    """What the hooked modules have no place for."""
    return gpt2.activation(c.activation_function)


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights."""
    base = hf.transformer
    made = {"embed.W_E": base.wte.weight, "pos_embed.W_pos": base.wpe.weight}
    made |= weights.norm(base.ln_f, "ln_final") | weights.head(hf.lm_head)
    for layer, block in enumerate(base.h):
        a = block.attn.attention
        named = weights.attention(a.q_proj, a.k_proj, a.v_proj, a.out_proj, cfg)
        norms = weights.norm(block.ln_1, "ln1") | weights.norm(block.ln_2, "ln2")
        made |= weights.in_layer(layer, named, weights.mlp(block.mlp.c_fc, block.mlp.c_proj), norms)
    return made
