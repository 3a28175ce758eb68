"""Proximal gradient for a smooth loss plus the sparse-group penalty, with exact zeros.

    minimise f(D) + a |D|_1 + b sum_h |D_h|_2,   D = (D_1, ..., D_H)

The penalty's prox has a closed form: with step s, soft-threshold every entry by s a, then shrink every group's norm by
s b (Simon et al., "A Sparse-Group Lasso", 2013). The steps are FISTA's (Beck and Teboulle, 2009) with backtracking; the
momentum starts anew whenever the objective rose (O'Donoghue and Candes, 2015), also because f need not be convex.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, finite

Groups = Float[Tensor, "groups width"]
Smooth = Callable[[Groups], tuple[float, Groups]]
"""The loss and its gradient."""
Loss = Callable[[Groups], float]

_HALVINGS = 60


@dataclass(frozen=True)
class Minimum:
    """Where the minimisation ended.

    Attributes:
        delta: The best point: by the validation loss where there is one, else the last.
        loss: The smooth loss there.
        validation: The validation loss there; NaN without one.
        steps: How many steps were taken.
        stopped: ``"zero"`` (zero is stationary), ``"converged"``, ``"validation"`` or ``"steps"``.
    """

    delta: Groups
    loss: float
    validation: float
    steps: int
    stopped: str


def prox(x: Groups, l1: float, group_l2: float) -> Groups:
    """The minimiser of ``|z - x|^2 / 2 + l1 |z|_1 + group_l2 sum_h |z_h|_2``."""
    soft = soft_threshold(x, l1)
    norms = soft.norm(dim=1, keepdim=True)
    return soft * (1 - group_l2 / norms.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=0)


def soft_threshold(x: Tensor, by: float) -> Tensor:
    """Every entry moved towards zero by ``by``, those within ``by`` of it to zero."""
    return x.sign() * (x.abs() - by).clamp(min=0)


def penalty(x: Groups, l1: float, group_l2: float) -> float:
    """``l1 |x|_1 + group_l2 sum_h |x_h|_2``."""
    return l1 * float(x.abs().sum()) + group_l2 * float(x.norm(dim=1).sum())


def zero_is_stationary(gradient: Groups, l1: float, group_l2: float) -> bool:
    """Whether D = 0 is stationary, given the smooth loss's gradient there.

    Up to the rounding of single precision, which differs between batch sizes: one part in 10^5.
    """
    return bool((soft_threshold(gradient.double(), l1).norm(dim=1) <= group_l2 + 1e-5 * (l1 + group_l2)).all())


def largest_weight(gradient: Groups, l1_share: float) -> float:
    """The smallest w at which D = 0 is stationary for ``l1 = l1_share w``, ``group_l2 = (1 - l1_share) w``.

    Of a group with entries g sorted by size, w solves ``sum_i (|g_i| - share w)_+^2 = (1 - share)^2 w^2``, a quadratic
    in w once it is known which entries are above the threshold.
    """
    return max(_largest(row.double().abs().sort(descending=True).values.tolist(), l1_share) for row in gradient)


def _largest(sizes: list[float], share: float) -> float:
    if share == 1:
        return sizes[0]
    one = two = 0.0
    for count, size in enumerate(sizes, start=1):
        one, two = one + size, two + size**2
        a, b = count * share**2 - (1 - share) ** 2, share * one
        inner = max(b * b - a * two, 0.0)
        # a w^2 - 2 b w + two = 0, its root with all kept entries above the threshold, in the form that does not cancel
        weight = two / (b + math.sqrt(inner)) if two else 0.0
        following = sizes[count] if count < len(sizes) else 0.0
        if share * weight >= following:
            return weight
    return 0.0


def minimise(
    smooth: Smooth,
    loss: Loss,
    start: Groups,
    *,
    l1: float,
    group_l2: float,
    validation: Loss | None = None,
    patience: int = 10,
    max_steps: int = 200,
    tolerance: float = 1e-5,
    step: float = 1.0,
    rounding: float = 1e-6,
) -> Minimum:
    """Minimise by accelerated proximal gradient with backtracking.

    Args:
        smooth: The smooth loss and its gradient.
        loss: The smooth loss alone, for the backtracking.
        start: Where to begin.
        l1: a.
        group_l2: b.
        validation: A loss on other examples, for early stopping; its best point is returned.
        patience: Steps without a better validation loss before it stops.
        max_steps: The most steps.
        tolerance: It has converged when the objective fell by less than this part of itself, for three steps.
        step: The first step size that is tried. It is halved until the loss is below its quadratic bound. After every
            step it doubles as long as it was never halved, and then grows by a quarter.
        rounding: The relative error of the loss that the bound forgives; the default is for losses in float32.

    Raises:
        MechsteerError: if the loss or its gradient is not finite, or no step size lets it fall.
    """
    point, momentum = start.double(), 1.0
    value, gradient = _checked(smooth, point, 0)
    if not point.any() and zero_is_stationary(gradient, l1, group_l2):
        return Minimum(point, value, validation(point) if validation else math.nan, 0, "zero")
    objective = value + penalty(point, l1, group_l2)
    best = Minimum(point, value, validation(point) if validation else math.nan, 0, "steps")
    ahead, ahead_value, ahead_gradient = point, value, gradient
    still, since, taken, growth = 0, 0, 0, 2.0
    # Gradients are taken at a point ahead, where the last step's direction would lead. There the curvature may be
    # another (f is the loss of a network), so that the objective can rise; then the same step is taken again from where
    # we stand, which backtracking guarantees not to rise.
    for taken in range(1, max_steps + 1):
        tried = step
        new, new_value, step = _step(loss, ahead, ahead_value, ahead_gradient, step, l1, group_l2, rounding, taken)
        new_objective = new_value + penalty(new, l1, group_l2)
        # Nobody knows the scale of f, so the step doubles until one was too long for the first time; from then on it is
        # about right, and doubling would cost a halving, one more loss, in every step.
        growth = growth if step == tried else 1.25
        rose = new_objective > objective
        if rose and ahead is not point:  # again, without momentum
            ahead, momentum = point, 1.0
            ahead_value, ahead_gradient = _checked(smooth, ahead, taken)
            continue
        fell = objective - new_objective
        # Three steps in a row: a single one may stand still because the momentum has just been dropped.
        still = still + 1 if fell <= tolerance * max(abs(objective), 1e-12) else 0
        previous, point, objective, step = point, new, new_objective, growth * step
        if validation is None:
            best = Minimum(point, new_value, math.nan, taken, "steps")
        else:
            measured = finite("The validation loss", validation(point))
            since += 1
            if measured < best.validation:
                best, since = Minimum(point, new_value, measured, taken, "steps"), 0
            if since >= patience:
                return _ended(best, taken, "validation")
        if still >= 3:
            return _ended(best, taken, "converged")
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = point + (momentum - 1) / following * (point - previous)
        momentum = following
        ahead_value, ahead_gradient = _checked(smooth, ahead, taken)
    return _ended(best, taken, "steps")


def _ended(best: Minimum, steps: int, stopped: str) -> Minimum:
    return Minimum(best.delta, best.loss, best.validation, steps, stopped)


def _step(
    loss: Loss,
    point: Groups,
    value: float,
    gradient: Groups,
    step: float,
    l1: float,
    group_l2: float,
    rounding: float,
    taken: int,
) -> tuple[Groups, float, float]:
    """The next point, its loss, and the step size that was small enough."""
    for _ in range(_HALVINGS):
        # A gradient step on f alone, and then the exact minimiser of the penalty near it: entries that the gradient
        # cannot keep away from zero become zero, not small. The penalty has no gradient at zero, so that it is never
        # asked for one.
        new = prox(point - step * gradient, step * l1, step * group_l2)
        change = new - point
        new_value = loss(new)
        # The step is short enough once f lies below this parabola, which touches it at the point.
        bound = value + float((gradient * change).sum()) + float(change.square().sum()) / (2 * step)
        if math.isfinite(new_value) and new_value <= bound + rounding * max(abs(value), 1e-3):
            return new, new_value, step
        step /= 2
    raise MechsteerError(
        f"The loss diverges: at step {taken}, from {value:.6g}, no step size down to {step:.1e} helps."
    )


def _checked(smooth: Smooth, point: Groups, taken: int) -> tuple[float, Groups]:
    value, gradient = smooth(point)
    if not math.isfinite(value) or not gradient.isfinite().all():
        raise MechsteerError(f"The loss or its gradient is NaN or infinite at step {taken} (loss {value}).")
    return value, gradient
