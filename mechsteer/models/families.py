"""Which model families are supported, and which of their configuration features are not.

The gate at load compares probabilities with Hugging Face's model; a feature listed here is refused before that, by its
name, because the hooked modules have no place for it.
"""

from collections.abc import Callable
from typing import Any

from mechsteer.errors import MechsteerError, unknown

Refusals = list[tuple[str, object, str]]


def _gpt2(c: Any) -> Refusals:
    return [
        ("scale_attn_by_inverse_layer_idx", c.scale_attn_by_inverse_layer_idx, "must be false"),
        ("add_cross_attention", c.add_cross_attention, "must be false"),
        ("scale_attn_weights", not c.scale_attn_weights and "false", "must be true"),
    ]


def _llama_like(c: Any) -> Refusals:
    rope = rope_parameters(c)
    rope_type = rope.get("rope_type", "default")
    allowed = ("default", "llama3") if c.model_type == "llama" else ("default",)
    partial = rope.get("partial_rotary_factor", getattr(c, "partial_rotary_factor", 1.0)) or 1.0
    return [
        ("mlp_bias", getattr(c, "mlp_bias", False), "must be false: the hooked gated MLP has no gate bias"),
        ("rope_type", rope_type not in allowed and rope_type, f"must be one of {allowed}"),
        ("partial_rotary_factor", partial != 1.0 and partial, "must be 1"),
        (
            "use_bidirectional_attention",
            getattr(c, "use_bidirectional_attention", None),
            "must be false: the stack is causal",
        ),
    ]


def _t5(c: Any) -> Refusals:
    return [
        (
            "is_encoder_decoder",
            not c.is_encoder_decoder and "false",
            "must be true: an encoder alone has no next-token distribution",
        )
    ]


FAMILIES: dict[str, Callable[[Any], Refusals]] = {
    "gpt2": _gpt2,
    "llama": _llama_like,
    "mistral": _llama_like,
    "phi3": _llama_like,
    "qwen2": _llama_like,
    "qwen3": _llama_like,
    "gemma2": _llama_like,
    "t5": _t5,
}
"""Supported ``model_type`` and the check that lists its unsupported features. ``t5`` covers T5 v1.0, v1.1 and
FLAN-T5."""


def check_supported(config: Any) -> None:
    """Refuse configurations that the hooked model could not represent.

    Raises:
        MechsteerError: for an unsupported family, or naming the feature and its value.
    """
    family = str(config.model_type)
    if family not in FAMILIES:
        raise unknown("model family", family, FAMILIES)
    quantised = getattr(config, "quantization_config", None)
    refused = [*FAMILIES[family](config), ("quantization_config", bool(quantised), "must be absent")]
    for feature, value, expected in refused:
        if value:
            raise MechsteerError(f"Unsupported configuration of {family}: {feature}={value}; {expected}.")


def rope_parameters(config: Any) -> dict[str, Any]:
    """The rotary-embedding settings; ``{}`` where the family has none."""
    return dict(getattr(config, "rope_parameters", None) or {})
