"""Norms, rounded where Hugging Face rounds.

RMS norms multiply by the inverse of the root mean square, by which the library divides. Of T5, whose scores are not
divided, that makes 1e-3 in a log-probability; of Llama it is all the difference there is.

In half precision the library rounds before it multiplies by the weights, as Llama's norm does in Hugging Face. Layer
norms, Gemma's and OLMo 2's are computed in float32 there and rounded once, after the weights.
"""

from copy import copy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.models.families.family import own


def multiply_by_inverse(model: Any) -> None:
    """Compute RMS norms as Hugging Face does; their hook points see what they see in the library."""
    from transformer_lens.components.rms_norm import RMSNorm

    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.forward = partial(_rms_norm, module)


def _rms_norm(norm: Any, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    dtype = norm.cfg.dtype
    x = x if dtype in (torch.float32, torch.float64) else x.float()
    square = x.pow(2).mean(-1, keepdim=True) + norm.eps
    scale = norm.hook_scale(square.sqrt())
    edited = bool(norm.hook_scale._forward_hooks) and not torch.equal(scale, square.sqrt())
    inverse = scale.reciprocal() if edited else square.rsqrt()
    return norm.hook_normalized(x * inverse).to(dtype) * norm.w


def rounds_once(config: Any) -> bool:
    """Whether a Hugging Face configuration is of a model whose norms round once."""
    return config.model_type.startswith(("gemma", "olmo2")) or own(config, "rms_norm_eps") is None


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
