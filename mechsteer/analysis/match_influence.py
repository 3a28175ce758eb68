"""Choosing GUIDE's Delta by forward passes alone: as much Influence as a target has.

GUIDE (arXiv 2409.19001) takes the Delta under which the Influence of the instruction equals that of the same
instruction in capitals; nothing is generated. The exact layer, tokens and rule are not published: here the mean over
the last tokens at one layer (the paper's read-out of Influence, last 10 tokens and last layer), and bisection.
Influence mostly grows with Delta, but need not; of several such Deltas one near 0 is found.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.exits import written
from mechsteer.analysis.influence import influence
from mechsteer.errors import MechsteerError, finite, positive_int, shown
from mechsteer.models import as_prompts
from mechsteer.prompts import Prompt, Prompts
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

FIRST_STEP = 0.5
STEPS = 60  # halvings; the last of them are below the resolution of a float


@torch.no_grad()
def match_influence(
    model: Any,
    prompts: Prompts,
    target: float | Sequence[float] | Sequence[Prompt],
    span: str = "instruction",
    *,
    together: bool = False,
    last: int = 10,
    layer: int = -1,
    low: float = 0.0,
    high: float = 8.0,
    tolerance: float = 0.01,
    steer: Intervention | None = None,
    **options: Any,
) -> "pd.DataFrame":
    """The Delta at which the Influence of a span equals a target; forward passes only.

    Args:
        model: A loaded model.
        prompts: The prompts to bias.
        target: The Influence to reach: a number, one for each prompt, or prompts (one each, e.g. with the instruction
            in capitals) whose Influence of the same span it is.
        span: The span to bias.
        together: One Delta for all prompts, which brings their mean Influence to the mean target.
        last: Influence is the mean over this many last tokens of the predicting stack (all, where there are fewer).
        layer: At this layer; negative counts from the end.
        low: The least Delta, at most 0.
        high: The largest, at least 0.
        tolerance: How far from the target Influence may be, as a part of the target.
        steer: An intervention to measure under, for prompts and targets.
        **options: More options of :func:`mechsteer.influence`, e.g. ``source`` or ``norm``; a ``continuation`` follows
            prompts and targets alike.

    Returns:
        One row a prompt (one row in all, prompt -1, if ``together``): columns prompt, target, unbiased (Influence at
        Delta 0), delta, influence (at that Delta) and evaluations (how many values of Delta were tried).

    Raises:
        MechsteerError: for a target that is not between 0 and 1, or out of reach between ``low`` and ``high`` (with the
            Influence at 0 and at that end), numbers that do not fit the prompts, a layer that is not there, or anything
            that :func:`mechsteer.influence` refuses.

    Example:
        >>> capitals = ms.prompt(model, "Tell me about the writer.", instruction="USE ONLY UPPERCASE LETTERS.")
        >>> ms.match_influence(model, [prompt], [capitals])
    """
    import pandas as pd

    positive_int("last", last)
    if not finite("tolerance", tolerance) > 0:
        raise MechsteerError(f"tolerance must be above 0, got {tolerance}.")
    if not finite("low", low) <= 0 <= finite("high", high):
        raise MechsteerError(f"low must be at most 0 and high at least 0, got {low} and {high}.")
    made = as_prompts(model, prompts)
    after = options.pop("continuation", None)
    texts = None if after is None else written(made, after)

    def read(group: Sequence[Prompt], places: slice = slice(None), delta: float = 0.0) -> list[float]:
        said = None if texts is None else texts[places]
        same = {"last": last, "layer": layer, "steer": steer, **options}
        return influences(model, group, span, delta=delta, continuation=said, **same)

    wanted = _targets(target, len(made), read)
    groups, targets = [slice(place, place + 1) for place in range(len(made))], wanted
    if together:
        groups, targets = [slice(None)], [sum(wanted) / len(wanted)]
    rows = []
    for place, (group, number) in enumerate(zip(groups, targets, strict=True)):

        def mean(delta: float, group: slice = group) -> float:
            found = read(made[group], group, delta)
            return sum(found) / len(found)

        label = "these prompts" if together else f"prompt {place}"
        rows.append({"prompt": -1 if together else place, **_bisect(mean, number, low, high, tolerance, label)})
    return pd.DataFrame(rows)


@torch.no_grad()
def influences(
    model: Any,
    prompts: Prompts,
    span: str = "instruction",
    *,
    last: int = 10,
    layer: int = -1,
    **options: Any,
) -> list[float]:
    """One number a prompt: the span's mean Influence over the last tokens of the predicting stack, at one layer.

    Args:
        model: A loaded model.
        prompts: The prompts.
        span: The span.
        last: How many tokens; all, where there are fewer.
        layer: The layer; negative counts from the end.
        **options: Options of :func:`mechsteer.influence`; one ``delta`` only.

    Raises:
        MechsteerError: for a layer that is not there, and as :func:`mechsteer.influence`.
    """
    if not isinstance(span, str):
        raise MechsteerError(f"One span is read here, got {shown(span)}.")
    table = influence(model, prompts, span, **options)
    return last_tokens(table, "influence", last=last, layer=layer)


def last_tokens(table: "pd.DataFrame", quantity: str, *, last: int, layer: int = -1) -> list[float]:
    """The mean of a table of Influence or rollout over the last tokens at one layer, prompt by prompt."""
    table = table[table["stack"] == table["stack"].iloc[-1]]
    count = int(table["layer"].max()) + 1
    if not -count <= layer < count:
        raise MechsteerError(f"Layer {layer} is out of range: layers are 0 to {count - 1}.")
    at = table[table["layer"] == layer % count]
    return [float(part[quantity].tail(last).mean()) for _, part in at.groupby("prompt", sort=True)]


def _targets(target: Any, count: int, read: Callable[[Sequence[Prompt]], list[float]]) -> list[float]:
    single = not isinstance(target, Iterable) or getattr(target, "ndim", 1) == 0
    many: list[Any] = [target] * count if single else list(target)
    if len(many) != count:
        raise MechsteerError(f"{count} prompts but {len(many)} targets were given.")
    if all(isinstance(one, Prompt) for one in many):
        return read(many)
    numbers = [finite("target", one) for one in many]
    for number in numbers:
        if not 0 < number < 1:
            raise MechsteerError(f"A target is an Influence, between 0 and 1, got {number}.")
    return numbers


def _bisect(
    value: Callable[[float], float], target: float, low: float, high: float, tolerance: float, label: str
) -> dict[str, float]:
    """Step out from Delta 0 until the target is passed, then halve: of several such Deltas one near 0 is found."""
    unbiased = value(0.0)
    if abs(unbiased - target) <= tolerance * target:
        return _row(target, unbiased, 0.0, unbiased, 1)
    upwards = target > unbiased
    end, tried = (high if upwards else low), 1
    inner, outer, found = 0.0, 0.0, unbiased
    while (found < target) == upwards and outer != end:
        inner, outer = outer, (min if upwards else max)(2 * outer or math.copysign(FIRST_STEP, end), end)
        found, tried = value(outer), tried + 1
    if (found < target) == upwards:
        reached = f" and {found:.4g} at Delta {end:g}" if end else ""
        hint = "raise high" if upwards else "lower low (a Delta below 0 mutes the span)"
        raise MechsteerError(
            f"The target Influence {target:.4g} is out of reach for {label}: it is {unbiased:.4g} at Delta 0{reached}; "
            f"{hint}."
        )
    for _ in range(STEPS):
        if abs(found - target) <= tolerance * target:
            return _row(target, unbiased, outer, found, tried)
        middle = (inner + outer) / 2
        number, tried = value(middle), tried + 1
        if (number < target) == upwards and abs(number - target) > tolerance * target:
            inner = middle
        else:
            outer, found = middle, number
    raise MechsteerError(
        f"For {label} no Delta brings Influence within {tolerance:g} of {target:.4g}; the nearest has {found:.4g}, at "
        f"Delta {outer:.4g}. Raise tolerance."
    )


def _row(target: float, unbiased: float, delta: float, found: float, tried: int) -> dict[str, float]:
    return {"target": target, "unbiased": unbiased, "delta": delta, "influence": found, "evaluations": tried}
