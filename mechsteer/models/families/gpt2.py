"""GPT-2. Hugging Face stores its weights transposed, so its attention output weights are copied once."""

from typing import Any

from mechsteer.models.families import weights
from mechsteer.models.families.family import ACTIVATIONS, Refusals, StateDict, must_be

FIELDS = frozenset(
    "n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon scale_attn_weights "
    "scale_attn_by_inverse_layer_idx add_cross_attention".split()
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
        "act_fn": ACTIVATIONS[c.activation_function],
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
    }


def refuses(c: Any) -> Refusals:
    """What the hooked modules have no place for."""
    return [
        must_be(c, "add_cross_attention", False),
        must_be(c, "scale_attn_weights", True),
        *activation(c.activation_function),
    ]


def activation(name: str) -> Refusals:
    """An activation function that the library does not have."""
    return [("activation_function", name not in ACTIVATIONS and name, f"must be one of {', '.join(ACTIVATIONS)}")]


def state(hf: Any, cfg: Any) -> StateDict:
    """The weights."""
    base = hf.transformer
    made = {"embed.W_E": base.wte.weight, "pos_embed.W_pos": base.wpe.weight}
    made |= weights.norm(base.ln_f, "ln_final") | weights.head(hf.lm_head)
    for layer, block in enumerate(base.h):
        matrices = block.attn.c_attn.weight.split(cfg.d_model, dim=1)
        biases = block.attn.c_attn.bias.split(cfg.d_model)
        q, k, v = ((weight.T, bias) for weight, bias in zip(matrices, biases, strict=True))
        out = (block.attn.c_proj.weight.T.contiguous(), block.attn.c_proj.bias)
        mlp = {
            "mlp.W_in": block.mlp.c_fc.weight,
            "mlp.b_in": block.mlp.c_fc.bias,
            "mlp.W_out": block.mlp.c_proj.weight,
            "mlp.b_out": block.mlp.c_proj.bias,
        }
        norms = weights.norm(block.ln_1, "ln1") | weights.norm(block.ln_2, "ln2")
        made |= weights.in_layer(layer, weights.attention(q, k, v, out, cfg), mlp, norms)
    return made
