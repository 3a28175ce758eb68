"""Which model families are supported, and which of their configuration features are not.

A decoder-only family is a row of :data:`DECODERS`; where its modules are not Llama's, with a file of its own in this
folder. The gate at load (:mod:`mechsteer.models.parity`) compares what the model computes with Hugging Face's model; a
feature that the hooked modules have no place for is refused before that, by its name.
"""

from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.models.families import gpt2, gpt_neo, gpt_neox, gptj, llama, opt, phi, rope
from mechsteer.models.families.family import ACTIVATIONS, Family, Refusals, must_be, not_represented

_LLAMA = Family(llama.state, fields=llama.FIELDS, refuses=llama.refuses)

DECODERS: dict[str, Family] = {
    "gpt2": Family(gpt2.state, gpt2.settings, like_llama=False, fields=gpt2.FIELDS, refuses=gpt2.refuses),
    "gpt_neo": Family(
        gpt_neo.state, gpt_neo.settings, like_llama=False, fields=gpt_neo.FIELDS, refuses=gpt_neo.refuses
    ),
    "gpt_neox": Family(gpt_neox.state, gpt_neox.settings, fields=gpt_neox.FIELDS, refuses=llama.refuses),
    "gptj": Family(gptj.state, gptj.settings, like_llama=False, fields=gptj.FIELDS, refuses=gptj.refuses),
    "opt": Family(opt.state, opt.settings, like_llama=False, fields=opt.FIELDS, refuses=opt.refuses),
    "phi": Family(phi.state, phi.settings, fields=phi.FIELDS, refuses=llama.refuses),
    "phi3": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "ministral3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": Family(llama.state, lambda c: {"use_qk_norm": True}, fields=llama.FIELDS, refuses=llama.refuses),
    "gemma": _LLAMA,
    "gemma2": Family(llama.state, llama.gemma, fields=llama.GEMMA_FIELDS, refuses=llama.refuses),
    "gemma3_text": Family(llama.state, llama.gemma, fields=llama.GEMMA_FIELDS, refuses=llama.refuses_bent_scores),
    "olmo": Family(
        llama.state,
        lambda c: {"normalization_type": "LN", "final_rms": False, "clip_qkv": c.clip_qkv},
        fields=llama.FIELDS | {"clip_qkv"},
        refuses=llama.refuses,
    ),
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "smollm3": Family(llama.state, fields=llama.SMOLLM3_FIELDS, refuses=llama.refuses),
    "granite": Family(
        llama.state,
        lambda c: {"attn_scale": 1 / c.attention_multiplier},
        fields=llama.GRANITE_FIELDS,
        refuses=llama.refuses,
    ),
    "stablelm": Family(
        llama.state,
        lambda c: {"parallel_attn_mlp": c.use_parallel_residual},
        fields=llama.STABLELM_FIELDS,
        refuses=llama.refuses,
    ),
    "arcee": _LLAMA,
    "ernie4_5": Family(
        llama.state, llama.pairs_of_neighbours, fields=llama.FIELDS | {"use_bias"}, refuses=llama.refuses
    ),
    "helium": Family(llama.state, llama.pairs_of_neighbours, fields=llama.FIELDS, refuses=llama.refuses),
    "nemotron": Family(llama.state, llama.layer_norms, fields=llama.FIELDS | {"norm_eps"}, refuses=llama.refuses),
    "seed_oss": Family(llama.state, fields=llama.FIELDS | {"attention_out_bias"}, refuses=llama.refuses),
    "starcoder2": Family(
        llama.state, llama.layer_norms, fields=llama.FIELDS | {"norm_epsilon", "use_bias"}, refuses=llama.refuses
    ),
    "olmoe": Family(llama.state, llama.olmoe, fields=llama.OLMOE_FIELDS, refuses=llama.refuses),
    "mixtral": Family(llama.state, llama.mixtral, fields=llama.MIXTRAL_FIELDS, refuses=llama.refuses),
    "qwen3_moe": Family(llama.state, llama.qwen3_moe, fields=llama.QWEN3_MOE_FIELDS, refuses=llama.refuses_dense),
}
"""Decoder-only families by Hugging Face's ``model_type``."""

ENCODER_DECODERS = ("t5", "mt5")
"""T5 v1.0, v1.1, FLAN-T5, UL2 and ByT5; mT5."""

TEXT_PARTS = {"gemma3": "gemma3_text"}
"""Multimodal families and the family of their text part, which is loaded alone."""

FAMILIES = (*DECODERS, *ENCODER_DECODERS, *TEXT_PARTS)


def check_supported(config: Any) -> None:
    """Refuse configurations that the hooked model could not represent.

    Raises:
        MechsteerError: for an unsupported family, or naming the feature and its value.
    """
    family = str(config.model_type)
    if family not in FAMILIES:
        raise MechsteerError(f"Unknown model family {family!r}. Supported: {', '.join(sorted(FAMILIES))}.")
    refused: Refusals = [_quantised(config), _without_head(config)]
    if family in TEXT_PARTS:
        check_supported(config.text_config)
    elif family in ENCODER_DECODERS:
        refused.append(must_be(config, "is_encoder_decoder", True, "an encoder alone has no next-token distribution"))
        activation = config.dense_act_fn
        refused.append(
            (
                "feed_forward_proj",
                activation not in ACTIVATIONS and activation,
                f"must be one of {', '.join(ACTIVATIONS)}",
            )
        )
    else:
        row, layers = DECODERS[family], config.num_hidden_layers
        refused.append(("num_hidden_layers", layers < 1 and str(layers), "must be at least 1"))
        refused += [*row.refuses(config), *not_represented(config, row.fields)]
    for feature, value, expected in refused:
        if value:
            raise MechsteerError(f"Unsupported configuration of {family}: {feature}={value}; {expected}.")


def context_note(config: Any) -> str:
    """Why a model's context is shorter than its configuration says; empty where it is not."""
    row = DECODERS.get(config.model_type)
    return rope.context(config)[1] if row is not None and row.like_llama else ""


def _without_head(config: Any) -> tuple[str, object, str]:
    """Classifiers, reward models, and bodies without the head that predicts tokens."""
    named = [str(name) for name in config.architectures or ()]
    predicts = any(name.endswith(_HEADS) for name in named)
    expected = "must predict tokens (...ForCausalLM or ...ForConditionalGeneration): it has no next-token distribution"
    return "architectures", named and not predicts and ", ".join(named), expected


_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def _quantised(config: Any) -> tuple[str, object, str]:
    """Quantised weights, by their method."""
    found = getattr(config, "quantization_config", None)
    found = found if isinstance(found, dict) or found is None else found.to_dict()
    method = (found or {}).get("quant_method", "of an unnamed method")
    expected = "must be absent: load the model's weights in 16 or 32 bits, or dequantise and save them first"
    return "quantization_config", found and method, expected
