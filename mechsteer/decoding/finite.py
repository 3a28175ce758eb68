"""Logits that are NaN or infinite end a run: whatever is chosen from them looks like an answer and is none."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models import loaded_info
from mechsteer.steering import BoundEdit, Intervention


def check_finite(
    model: Any,
    logits: Float[Tensor, "rows *tokens d_vocab"],
    places: Sequence[int],
    *,
    edits: Sequence[BoundEdit],
    new: int,
    counted: Bool[Tensor, "rows *tokens"] | None = None,
    trial: str = "",
) -> Bool[Tensor, "rows *tokens"]:
    """Which of the model's own logits are finite throughout; one reduction where all are.

    Args:
        model: The model.
        logits: Its logits, before any processing.
        places: For each row, the place of its prompt in the list given.
        edits: The edits that are on the model.
        new: How many tokens have been generated or scored before these.
        counted: Where they matter: not in rows that have ended, nor at padding. None for everywhere.
        trial: Of a gated strategy's steered copies, which one; for the message.

    Raises:
        MechsteerError: with the first row and new token that has one, the dtype, and the edits that acted.
    """
    fine = logits.sum(-1).isfinite()
    bad = ~fine if counted is None else ~fine & counted.to(fine.device)
    if bad.any():
        row, *token = bad.nonzero()[0].tolist()
        where = f"prompt {places[row]} are not finite ({_first_bad(logits[(row, *token)])}) at its new token"
        raise MechsteerError(f"The logits of {where} {new + sum(token)}{trial}, in {_advice(model, edits)}")
    return fine


def _first_bad(logits: Float[Tensor, "d_vocab"]) -> float:
    return logits[~logits.isfinite()][0].item()


def _advice(model: Any, edits: Sequence[BoundEdit]) -> str:
    dtype = loaded_info(model).dtype
    acted = Intervention(tuple(bound.edit for bound in edits if bound.fired))
    said = f"Edits that acted: {acted!r}; make them weaker" if acted.edits else "No edit acted"
    wider = "" if dtype == "float32" else ", or load the model with dtype='float32'"
    return f"{dtype}. {said}{wider}."
