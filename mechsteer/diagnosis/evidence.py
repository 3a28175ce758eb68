"""Paired comparisons of few prompts: a difference with its interval, and the exact sign test."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.stats import student_interval

LEVEL = 0.05
ABOVE, BELOW, NONE = "above", "below", "no evidence"


@dataclass(frozen=True)
class Compared:
    """The same prompts, measured twice.

    Attributes:
        value: The mean of the first measure.
        control: The mean of the second.
        low: The lower end of the 95 % interval of the mean difference (Student's t).
        high: The upper end.
        up: Prompts whose first measure is the larger one.
        down: Prompts whose second is.
        p: Two-sided, of the exact sign test; ties do not count.
        n: Prompts.
    """

    value: float
    control: float
    low: float
    high: float
    up: int
    down: int
    p: float
    n: int

    @property
    def says(self) -> str:
        """``above``, ``below``, or ``no evidence``."""
        if not self.p < LEVEL:
            return NONE
        return ABOVE if self.up > self.down else BELOW


def compared(values: Iterable[float], controls: Iterable[float], *, tests: int = 1, least: float = 1e-6) -> Compared:
    """Compare two measures of the same prompts; pairs with a NaN are left out.

    Args:
        values: The first measure.
        controls: The second.
        tests: In how many comparisons of a family this is one; the p-value is multiplied by it (Bonferroni).
        least: Differences up to this one are ties.
    """
    pairs = [(a, b) for a, b in zip(values, controls, strict=True) if not (math.isnan(a) or math.isnan(b))]
    differences = [a - b for a, b in pairs]
    told = [a - b for a, b in pairs if not math.isclose(a, b, rel_tol=1e-3, abs_tol=least)]
    up, down = sum(d > 0 for d in told), sum(d < 0 for d in told)
    low, high = student_interval(differences)
    value, control = (_mean(column) for column in (zip(*pairs, strict=True) if pairs else ((), ())))
    return Compared(value, control, low, high, up, down, min(1.0, tests * exact_p(up, down)), len(pairs))


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept) if kept else math.nan
