"""The two words that a decision is between: the one that obeys and the one that memory suggests, as tokens."""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mechsteer.analysis.lens import target_id
from mechsteer.errors import MechsteerError, listed, shown
from mechsteer.prompts import Prompt


@runtime_checkable
class Decision(Protocol):
    """What a trap example has."""

    @property
    def target(self) -> str:
        """The word that obeys."""
        ...

    @property
    def trap(self) -> str:
        """The word that memory suggests."""
        ...


TargetPairs = Sequence[Decision | Sequence[str | int]]


def target_pairs(
    model: Any, targets: TargetPairs, prompts: Sequence[Prompt], *, undecided: str
) -> list[tuple[int, int]]:
    """The token ids of (target, trap), one pair a prompt.

    Args:
        model: A loaded model.
        targets: The pairs.
        prompts: What they follow.
        undecided: What becomes of pairs that start with the same token, for the warning.

    Raises:
        MechsteerError: for a wrong number of pairs, what is no pair of words or token ids, or pairs that all start with
            the same token.

    Warns:
        UserWarning: if some of the pairs start with the same token, with their number.
    """
    given = listed("targets", targets)
    if len(given) != len(prompts):
        raise MechsteerError(f"{len(prompts)} prompts need as many (target, trap) pairs, got {len(given)}.")
    found = []
    for each, made in zip(given, prompts, strict=True):
        pair = (_word(each.target), _word(each.trap)) if isinstance(each, Decision) else each
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise MechsteerError(f"A target is a (target, trap) pair of words or token ids, got {shown(each)}.")
        found.append((target_id(model, pair[0], made), target_id(model, pair[1], made)))
    same = [place for place, (target, trap) in enumerate(found) if target == trap]
    if len(same) == len(found):
        raise MechsteerError("Target and trap start with the same token in every pair, so there is no decision.")
    if same:
        warnings.warn(
            f"Target and trap start with the same token in {len(same)} of {len(found)} pairs, e.g. {given[same[0]]!r}; "
            f"{undecided}.",
            stacklevel=3,
        )
    return found


def _word(value: Any) -> Any:
    """A trap example's words may end in a full stop, which is no part of them."""
    return value.strip(" .") if isinstance(value, str) else value
