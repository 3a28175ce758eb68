"""Norms of half-precision models that Hugging Face computes in float32 and rounds once, after the weights.

The library rounds before it multiplies by the weights, as Llama's norm does in Hugging Face. Layer norms, Gemma's and
OLMo 2's do not.
"""

from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor


def rounds_once(config: Any) -> bool:
    """Whether a Hugging Face configuration is of a model whose norms round once."""
    return config.model_type.startswith(("gemma", "olmo2")) or not hasattr(config, "rms_norm_eps")


def round_once(model: Any) -> None:
    """Compute the norms of a half-precision model in float32, weights included.

    PyTorch's own hooks do it, around the library's module, so that its hook points see what they see otherwise.
    """
    from transformer_lens.components.layer_norm import LayerNorm
    from transformer_lens.components.rms_norm import RMSNorm

    dtype = model.cfg.dtype
    for module in model.modules():
        if isinstance(module, LayerNorm | RMSNorm):
            module.cfg = copy(module.cfg)
            module.cfg.dtype = torch.float32
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.float()
            module.register_forward_pre_hook(_widened)
            module.register_forward_hook(partial(_rounded, dtype))


def _widened(module: Any, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0].float()


def _rounded(dtype: torch.dtype, module: Any, inputs: tuple[Tensor], out: Tensor) -> Tensor:
    return out.to(dtype)
