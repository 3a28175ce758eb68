"""Early exits: the residual stream after e blocks of the stack that predicts, at the position that predicts."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.decoding.strategies import Pass
from mechsteer.errors import MechsteerError, one_of, shown, wholes
from mechsteer.models import hooked, model_info, predicting_stack, residual, site
from mechsteer.models.hooking import Kept

NAMED = ("even", "low", "high")
_DEEP, _REACH = 40, 20  # Hugging Face's: of deeper models, "low" and "high" are the outermost 20 layers


def check_layers(layers: Any) -> str | tuple[int, ...]:
    """A name, or the numbers of a list, each once and in order.

    Raises:
        MechsteerError: for another name, no numbers, or what is not an integer of at least 0.
    """
    if isinstance(layers, str):
        return one_of("layers", layers, NAMED)
    numbers = sorted(set(wholes(layers)))
    if not numbers or numbers[0] < 0:
        raise MechsteerError(
            f"layers must be one of {', '.join(NAMED)} or numbers of blocks passed, e.g. [0, 2, 4], got "
            f"{shown(layers)}."
        )
    return tuple(numbers)


def early_exits(model: Any, layers: str | Sequence[int]) -> tuple[int, ...]:
    """The exits that are meant, ascending.

    ``"even"``: 0, 2, ... below the number of layers. ``"low"`` and ``"high"`` are Hugging Face's halves, every second
    one; ``"low"`` begins with the embeddings unless they are the unembedding too, which gives back the token just read.

    Raises:
        MechsteerError: for exits that the model does not have, and the last layer, which is no early one.
    """
    stack, last = predicting_stack(model)
    if not isinstance(layers, str):
        wrong = [e for e in layers if e >= last]
        if wrong:
            why = f"{last} is the last layer, which the others are contrasted with" if wrong == [last] else "none such"
            raise MechsteerError(
                f"layers {list(layers)} do not fit {model_info(model).name}: its {stack} has early exits 0 to "
                f"{last - 1} ({why})."
            )
        return tuple(layers)
    if layers == "even":
        return tuple(range(0, last, 2))
    half = last // 2
    if layers == "high":
        return tuple(range(half if last <= _DEEP else last - _REACH, last, 2))
    first = min(2, last - 1) if tied(model) else 0
    found = (first,) if first == half else tuple(range(first, half if last <= _DEEP else _REACH, 2))
    if not found:
        raise MechsteerError(f'The {stack} of {model_info(model).name} is too shallow for layers="low": {last} layers.')
    return found


def tied(model: Any) -> bool:
    """Whether the unembedding is the embedding, up to a factor."""
    embedding, unembedding = model.embed.W_E, model.unembed.W_U
    if embedding.shape != unembedding.T.shape:
        return False
    a, b = embedding[:64].float(), unembedding[:, :64].T.float()
    return bool(torch.allclose(a / a.norm(), b / b.norm(), atol=1e-6))


def exit_streams(
    current: Pass, exits: Sequence[int]
) -> tuple[Float[Tensor, "exits rows d_model"], Float[Tensor, "rows d_model"]]:
    """Run a pass: the stream at the early exits, as interventions leave it, and after the last block; last position."""
    names = [site(current.model, "resid_pre", e) for e in exits]  # what block e reads is what e blocks have made
    kept = Kept(names, lambda x, site: x[:, -1])
    with hooked(current.model, kept.hooks):
        last = residual(current.model, current.state, current.tokens, current.mask)[:, -1]
    return torch.stack([kept.take(name) for name in names]), last
