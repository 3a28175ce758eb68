"""Settings that a comparison of random tokens may not show, compared with Hugging Face's modules and configuration.

An epsilon far below the mean square of the stream, a window longer than the gate's texts, caps far above the scores:
each could be wrong in a model that computes the same on 64 tokens. The base of rotary embeddings
only names what the tables, which are Hugging Face's, are made from. The list of them is :data:`BEYOND`, and explicit.
"""

from collections.abc import Callable
from typing import Any

from mechsteer.models.families.family import own
from mechsteer.models.families.rope import rotary_base
from mechsteer.models.info import is_encoder_decoder


def differing_settings(model: Any, hf_model: Any) -> list[tuple[str, object, object]]:
    """The settings of :data:`BEYOND` in which a hooked model differs: name, its value, Hugging Face's."""
    both = [(name, *read(model, hf_model)) for name, read in BEYOND.items()]
    return [(name, ours, theirs) for name, ours, theirs in both if ours != theirs]


def _eps(model: Any, hf_model: Any) -> tuple[object, object]:
    theirs = {getattr(m, "variance_epsilon", getattr(m, "eps", None)) for m in hf_model.modules() if _is_norm(m)}
    theirs -= {None}  # OLMo's norm has it in its code
    ours = {m.eps for m in model.modules() if _is_norm(m) and hasattr(m, "eps")}
    return ours, theirs or ours


def _is_norm(module: Any) -> bool:
    return type(module).__name__.removesuffix("Pre").endswith("Norm")


def _windows(model: Any, hf_model: Any) -> tuple[object, object]:
    c = hf_model.config
    if is_encoder_decoder(model):
        return (), ()
    window = own(c, "sliding_window") or own(c, "window_size")
    kinds = c.attention_layers if c.model_type == "gpt_neo" else own(c, "layer_types")
    local = [kind in ("local", "sliding_attention") for kind in kinds or ["local"] * len(model.blocks)]
    return our_windows(model), [window or None if here else None for here in local]


def _caps(model: Any, hf_model: Any) -> tuple[object, object]:
    c, cfg = hf_model.config, model.cfg
    theirs = [own(c, name) or None for name in ("attn_logit_softcapping", "final_logit_softcapping")]
    ours = [cap if cap > 0 else None for cap in (cfg.attn_scores_soft_cap, cfg.output_logits_soft_cap)]
    return ours, theirs


def _rotary_base(model: Any, hf_model: Any) -> tuple[object, object]:
    theirs = rotary_base(hf_model.config)
    return model.cfg.rotary_base if theirs else None, theirs


def our_windows(model: Any) -> list[int | None]:
    """The window of each layer of a decoder-only model; None where there is none."""
    return [model.cfg.window_size if block.attn.attn_type == "local" else None for block in model.blocks]


BEYOND: dict[str, Callable[[Any, Any], tuple[object, object]]] = {
    "the norms' epsilon": _eps,
    "the windows of the layers": _windows,
    "the soft caps of scores and logits": _caps,
    "the base of the rotary embeddings": _rotary_base,
}
"""What is compared: its name, and how to read ours and Hugging Face's."""
