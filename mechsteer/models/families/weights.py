"""Hugging Face's modules as entries of a hooked model's state: views of their weights, copies only where named."""

from typing import Any

import torch
from torch import Tensor

from mechsteer.models.families.family import StateDict
from mechsteer.models.weights.views import heads_in, heads_out


def norm(module: Any, name: str, *, plus_one: bool = False) -> StateDict:
    """A norm's weight and, where it has one, bias. Gemma stores its weights minus one.

    Args:
        module: A LayerNorm or an RMS norm.
        name: Its name in the hooked model.
        plus_one: Add one to the weight, in float32: a copy.
    """
    weight, bias = module.weight, getattr(module, "bias", None)
    state = {f"{name}.w": weight.float() + 1.0 if plus_one else weight}
    return state if bias is None else state | {f"{name}.b": bias}


def attention(queries: Any, keys: Any, values: Any, out: Any, cfg: Any) -> StateDict:
    """The four projections of attention, each a linear layer or a pair of weight and bias (or None)."""
    n_kv = cfg.n_key_value_heads or cfg.n_heads
    grouped = "" if cfg.n_key_value_heads is None else "_"
    state: StateDict = {}
    named = (("Q", cfg.n_heads, "", queries), ("K", n_kv, grouped, keys), ("V", n_kv, grouped, values))
    for letter, heads, prefix, projection in named:
        weight, bias = _weight_and_bias(projection)
        state[f"attn.{prefix}W_{letter}"] = heads_in(weight, heads)
        if bias is not None:
            state[f"attn.{prefix}b_{letter}"] = bias.view(heads, cfg.d_head)
    return state | output(out, cfg)


def output(projection: Any, cfg: Any) -> StateDict:
    """The projection from the heads back to the stream."""
    weight, bias = _weight_and_bias(projection)
    state = {"attn.W_O": heads_out(weight, cfg.n_heads)}
    return state if bias is None else state | {"attn.b_O": bias}


def mlp(first: Any, second: Any) -> StateDict:
    """A plain feed-forward layer: two linear layers."""
    state = {"mlp.W_in": first.weight.T, "mlp.W_out": second.weight.T}
    biases = {"mlp.b_in": first.bias, "mlp.b_out": second.bias}
    return state | {name: bias for name, bias in biases.items() if bias is not None}


def head(module: Any) -> StateDict:
    """The unembedding."""
    state = {"unembed.W_U": module.weight.T}
    return state if module.bias is None else state | {"unembed.b_U": module.bias}


def in_layer(layer: int, *states: StateDict) -> StateDict:
    """The entries of one block under its full names."""
    return {f"blocks.{layer}.{name}": tensor for state in states for name, tensor in state.items()}


def scaled(weight: Tensor, factor: float) -> Tensor:
    """A copy of a weight, multiplied in its own dtype; the weight itself for a factor of one."""
    return weight if factor == 1 else weight * torch.tensor(factor, dtype=weight.dtype, device=weight.device)


def _weight_and_bias(projection: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(projection, tuple):
        return projection
    return projection.weight, projection.bias
