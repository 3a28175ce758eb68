"""Choosing on validation data: the one rule that all studies share, and when a ladder of strengths was too short."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from mechsteer.errors import MechsteerError

Option = TypeVar("Option")


def best(
    options: Iterable[Option], value: Callable[[Option], Any], *, passes: Callable[[Option], bool] = lambda _: True
) -> Option | None:
    """The option with the highest value among those that pass; of equals the first.

    Whoever calls it gives the options in the order in which ties are to be decided, e.g. from weak to strong.

    Args:
        options: What there is to choose among.
        value: How good an option is on validation data: a number, or several of which the later ones decide ties.
        passes: A filter, e.g. of options whose outputs collapse.

    Returns:
        The option; None where none passes.
    """
    return max((option for option in options if passes(option)), key=value, default=None)


def at_edge(ladder: Sequence[Option], chosen: Option) -> bool:
    """Whether the choice is the strongest of a ladder, beyond which nothing was tried: a better one may be there.

    A table that reports such a choice marks it in a column ``edge``. The weak end is none: beyond it is the unsteered
    model.

    Args:
        ladder: What there was to choose among, from weak to strong.
        chosen: The choice.
    """
    return bool(ladder and chosen == ladder[-1])


def climbed(
    ladder: Sequence[Option], further: Sequence[Option], value: Callable[[Option], Any]
) -> "tuple[list[Option], Option]":
    """The best of a ladder that grows, rung by rung, for as long as its strongest is the best.

    Args:
        ladder: What is tried in any case, from weak to strong.
        further: What is tried beyond it, from weak to strong.
        value: How good one is on validation data.

    Returns:
        All that were tried, and the best (of equals the weakest). It is at the edge (:func:`at_edge`) where the further
        ones were used up.
    """
    tried = list(ladder)
    top = best(tried, value)
    for step in further:
        if top != tried[-1]:
            break
        tried.append(step)
        top = best(tried, value)
    if top is None:
        raise MechsteerError("There are no strengths to choose among.")
    return tried, top
