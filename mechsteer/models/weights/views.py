"""Views of Hugging Face weights in TransformerLens's shapes, and a hooked model built around them without copies."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models.folding import make_processing_exact


def heads_in(weight: Float[Tensor, "heads_x_d_head d_model"], heads: int) -> Float[Tensor, "heads d_model d_head"]:
    """A projection into heads (W_Q, W_K, W_V), as a view of a linear layer's weight."""
    return weight.unflatten(0, (heads, -1)).transpose(1, 2)


def heads_out(weight: Float[Tensor, "d_model heads_x_d_head"], heads: int) -> Float[Tensor, "heads d_head d_model"]:
    """The projection out of heads (W_O), as a view of a linear layer's weight."""
    return weight.unflatten(1, (heads, -1)).permute(1, 2, 0)


def build(make: Callable[[], Any], state: dict[str, Tensor], device: torch.device) -> Any:
    """Make an empty hooked model and put the tensors into it by reference.

    Args:
        make: Returns the model with uninitialised weights (untouched memory, so a large model costs nothing here).
        state: Every weight by its name in the hooked model. Biases that a family does not have are filled with zeros.
        device: Where buffers and zero biases go.

    Raises:
        MechsteerError: if a weight is missing or has no place, with its name: a conversion bug, never ignored.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the class is frozen, which is why it is pinned
        model = make()
    expected = model.state_dict()
    buffers = {name for name, _ in model.named_buffers()}
    full = {
        name: tensor.detach().to(_dtype(name, tensor, expected)) for name, tensor in state.items() if name in expected
    }
    unexpected = sorted(set(state) - set(expected))
    for name, tensor in expected.items():
        if name in full:
            continue
        if name in buffers:
            full[name] = tensor.to(device)
        elif name.rsplit(".", 1)[-1].lstrip("_").startswith("b"):
            full[name] = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    missing = sorted(set(expected) - set(full))
    if missing or unexpected:
        raise MechsteerError(f"Weight conversion is incomplete: missing {missing[:5]}, unexpected {unexpected[:5]}.")
    model.load_state_dict(full, strict=True, assign=True)
    make_processing_exact(model)
    return model.eval().requires_grad_(False)


def _dtype(name: str, tensor: Tensor, expected: dict[str, Tensor]) -> torch.dtype:
    """The dtype that the hooked module made; the library makes the layers of experts in float32 always."""
    return tensor.dtype if ".mlp." in name and name.endswith(".weight") else expected[name].dtype
