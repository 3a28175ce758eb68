"""Decoder-only models: Hugging Face weights as views in a HookedTransformer.

Every tensor is a view in Hugging Face's memory layout (:mod:`mechsteer.models.weights.views`), so nothing is copied at
load, and the library's per-forward ``.contiguous()`` calls do no work. What a family has to copy is named in its file
(:mod:`mechsteer.models.families`).
"""

from typing import Any

import torch

from mechsteer.models.families import DECODERS
from mechsteer.models.families.llama import settings as _llama_settings
from mechsteer.models.weights import norms, rotary
from mechsteer.models.weights.views import build


def hooked_transformer(hf_model: Any) -> Any:
    """A HookedTransformer that shares its weights with ``hf_model``, unprocessed (no folding, no centring).

    Args:
        hf_model: A ``...ForCausalLM`` of one of the families in :data:`mechsteer.models.families.DECODERS`.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = hf_model.config
    family = DECODERS[config.model_type]
    settings = (_llama_settings(config) if family.like_llama else {}) | family.settings(config)
    rotated = settings["positional_embedding_type"] == "rotary"
    if rotated:
        settings["rotary_dim"] = rotary.rotary_dim(hf_model)
    parameter = next(hf_model.parameters())
    cfg = HookedTransformerConfig(
        **settings,
        d_vocab=config.vocab_size,
        model_name=config.model_type,
        original_architecture=type(hf_model).__name__,
        init_weights=False,
        dtype=parameter.dtype,
        device=parameter.device.type,
        default_prepend_bos=False,
    )

    def make() -> Any:
        model = HookedTransformer(cfg, move_to_device=False)
        norms.multiply_by_inverse(model)
        if parameter.dtype != torch.float32 and norms.rounds_once(config):
            norms.round_once(model)
        return model

    model = build(make, family.state(hf_model, cfg), parameter.device)
    if rotated:
        rotary.set_tables(model, hf_model)
    return model
