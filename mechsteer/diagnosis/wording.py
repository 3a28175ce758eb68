"""Numbers in the sentences of a diagnosis."""

import math

from mechsteer.diagnosis.evidence import NONE, Compared
from mechsteer.stats import Interval


def percent(interval: Interval) -> str:
    """A share with its interval."""
    if math.isnan(interval.mean):
        return "no share"
    ends = f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"
    return f"{100 * interval.mean:.0f} % ({round(interval.mean * interval.n)} of {interval.n}; 95 % interval {ends})"


def beside(one: Compared, what: str) -> str:
    """The control's number and what the control is, the difference and its test."""
    test = f"{one.up} of {one.up + one.down} above, {p_value(one.p)}"
    none = ", no evidence of a difference" if one.says == NONE else ""
    return f"against {one.control:.2g} {what} (difference {ends(one)}; {test}{none})"


def shift(one: Compared) -> str:
    """A number beside zero."""
    return f"{one.value:+.2g} ({ends(one)}; n = {one.n}, {p_value(one.p)})"


def ends(one: Compared) -> str:
    """The interval of a difference; one prompt has none."""
    if math.isnan(one.low):
        return f"{one.value - one.control:+.2g}, without an interval"
    return f"{one.low:.2g} to {one.high:.2g}, 95 % interval"


def p_value(value: float) -> str:
    """A p-value, named."""
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"
