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
    difference = f"difference {one.low:.2g} to {one.high:.2g}, 95 % interval"
    test = f"{one.up} of {one.up + one.down} above, p = {p_value(one.p)}"
    none = ", no evidence of a difference" if one.says == NONE else ""
    return f"against {one.control:.2g} {what} ({difference}; {test}{none})"


def shift(one: Compared) -> str:
    """A number beside zero."""
    return f"{one.value:+.2g} ({one.low:.2g} to {one.high:.2g}, 95 % interval; n = {one.n}, p = {p_value(one.p)})"


def p_value(value: float) -> str:
    """A p-value."""
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"
