"""McNemar's exact test: did the same samples change for the better more often than for the worse?

Of the samples whose answer changed, b from wrong to right and c from right to wrong, under the hypothesis of no
difference each change is a fair coin. The two-sided p is twice the smaller tail of the binomial,

    p = min(1, 2 * sum_{i <= min(b, c)} C(b + c, i) / 2^(b + c)),

and 1 where nothing changed. With few samples it is exact where the chi-squared form is not.
"""

from collections.abc import Iterable
from math import comb
from typing import Any, NamedTuple

from mechsteer.errors import MechsteerError, listed


class McNemar(NamedTuple):
    """What changed.

    Attributes:
        gained: Samples that were wrong before and right after.
        lost: Samples that were right before and wrong after.
        p_value: Two-sided.
    """

    gained: int
    lost: int
    p_value: float


def mcnemar(before: Iterable[Any], after: Iterable[Any]) -> McNemar:
    """Compare the same samples before and after.

    Args:
        before: Whether each sample was right.
        after: Whether the same samples, in the same order, were right.

    Raises:
        MechsteerError: if there is not the same number of both, or a value is not True, False, 0 or 1.
    """
    first, second = listed("before", before), listed("after", after)
    if len(first) != len(second):
        raise MechsteerError(f"The test needs the same samples twice, got {len(first)} before and {len(second)} after.")
    odd = [value for value in (*first, *second) if not _is_verdict(value)]
    if odd:
        raise MechsteerError(f"The test is for right and wrong (True and False), got {odd[0]!r}.")
    gained = sum(not a and bool(b) for a, b in zip(first, second, strict=True))
    lost = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    return McNemar(gained, lost, exact_p(gained, lost))


def _is_verdict(value: Any) -> bool:
    try:
        return bool(value in (0, 1))
    except (TypeError, ValueError, RuntimeError):  # pandas' missing values; arrays and tensors of several numbers
        return False


def exact_p(gained: int, lost: int) -> float:
    """The two-sided p of so many samples gained and lost."""
    changed = gained + lost
    tail = sum(comb(changed, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def one_sided_p(gained: int, lost: int) -> float:
    """The p of gaining at least so many samples of all that changed; 1 where none was gained."""
    changed = gained + lost
    return sum(comb(changed, i) for i in range(gained, changed + 1)) / 2**changed
