"""GPT-J: neighbouring dimensions turned in pairs, one norm for attention and MLP side by side, biased logits."""

from typing import Any

from mechsteer.models.families import gpt2, weights
from mechsteer.models.families.family import Refusals, StateDict, must_be

FIELDS = frozenset(
    "n_positions n_embd n_layer n_head n_inner rotary_dim activation_function layer_norm_epsilon".split()
)


def settings(c: Any) -> dict[str, Any]:
    """What the configuration says, in the library's terms."""
    return {
        "d_model": c.n_embd,
        "d_head": c.n_embd // c.n_head,
        "n_heads": c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "n_layers": c.n_layer,
        "n_ctx": c.n_positions,
        "eps": c.layer_norm_epsilon,
        "act_fn": gpt2.ACTIVATIONS[c.activation_function],
        "normalization_type": "LN",
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": True,
        "parallel_attn_mlp": True,
    }


def refuses(c: Any) -> Refusals:
    """What the hooked modules have no place for."""
    none = ("rotary_dim", not c.rotary_dim and repr(c.rotary_dim), "must be the number of rotated dimensions")
    return [none, must_be(c, "scale_attn_weights", True), *gpt2.activation(c.activation_function)]


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights."""
    base = hf.transformer
    made = {"embed.W_E": base.wte.weight} | weights.norm(base.ln_f, "ln_final") | weights.head(hf.lm_head)
    for layer, block in enumerate(base.h):
        a = block.attn
        named = weights.attention(a.q_proj, a.k_proj, a.v_proj, a.out_proj, cfg)
        norms = weights.norm(block.ln_1, "ln1") | weights.norm(block.ln_1, "ln2")
        made |= weights.in_layer(layer, named, weights.mlp(block.mlp.fc_in, block.mlp.fc_out), norms)
    return made
