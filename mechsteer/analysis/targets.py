"""The two words that a decision is between: the one that obeys and the one that memory suggests, as tokens."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mechsteer.analysis.lens import target_id
from mechsteer.errors import MechsteerError


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


def target_pairs(model: Any, targets: TargetPairs, prompts: int) -> list[tuple[int, int]]:
    """The token ids of (target, trap), one pair a prompt.

    Raises:
        MechsteerError: for a wrong number of pairs, or what is no pair of words or token ids.
    """
    if isinstance(targets, str) or len(targets) != prompts:
        raise MechsteerError(f"{prompts} prompts need as many (target, trap) pairs, got {len(targets)}.")
    found = []
    for each in targets:
        pair = (each.target.strip(" ."), each.trap.strip(" .")) if isinstance(each, Decision) else each
        if isinstance(pair, str) or len(pair) != 2:
            raise MechsteerError(f"A target is a (target, trap) pair of words or token ids, got {each!r}.")
        found.append((target_id(model, pair[0]), target_id(model, pair[1])))
    return found
