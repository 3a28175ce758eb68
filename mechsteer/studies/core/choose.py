"""Choosing on validation data: the one rule that all studies share."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

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
