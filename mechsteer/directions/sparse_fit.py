"""What was learned with one pair of weights, and how it is learned."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mechsteer.directions.direction import Direction
from mechsteer.directions.proximal import Groups, minimise, zero_is_stationary
from mechsteer.directions.sparse_problem import Problem
from mechsteer.errors import MechsteerError, finite, positive_int


@dataclass(frozen=True, eq=False)
class SparseFit:
    """What was learned with one pair of weights.

    Attributes:
        delta: D, ``[heads, d_head]``, of several layers one after another; ``[layers, d_model]`` at sites of the
            residual stream.
        l1: The weight of |D|_1.
        group_l2: The weight of the groups' norms.
        loss: Mean loss of the training examples, without the penalty, nats.
        validation_loss: The same of the validation examples; NaN without.
        unsteered_loss: Mean loss of the training examples at D = 0.
        steps: Steps that were taken.
        stopped: Why it ended: ``"zero"``, ``"converged"``, ``"validation"`` or ``"steps"``.
        sites: The full names of the hook points, one a layer.
        meta: Provenance.
    """

    delta: Float[Tensor, "groups width"]
    l1: float
    group_l2: float
    loss: float
    validation_loss: float
    unsteered_loss: float
    steps: int
    stopped: str
    sites: tuple[str, ...]
    meta: dict[str, str] = field(repr=False)

    @property
    def groups(self) -> list[int]:
        """The groups with a non-zero part: of one layer, its heads."""
        return self.delta.any(1).nonzero()[:, 0].tolist()

    @property
    def direction(self) -> Direction:
        """D as a direction, for :func:`mechsteer.heads`.

        Raises:
            MechsteerError: if D is zero, or of several layers.
        """
        if len(self.sites) > 1:
            raise MechsteerError(f"This was learned at {len(self.sites)} layers; use .directions.")
        found = self.directions
        if not found:
            raise MechsteerError(
                f"With l1={self.l1:g} and group_l2={self.group_l2:g} the learned vector at {', '.join(self.sites)} is "
                "zero; use smaller weights."
            )
        (direction,) = found.values()
        return direction

    @property
    def directions(self) -> dict[str, Direction]:
        """A direction for each site where D is not zero."""
        measured = self.meta | {
            "loss": f"{self.loss:.6g}",
            "validation_loss": f"{self.validation_loss:.6g}",
            "unsteered_loss": f"{self.unsteered_loss:.6g}",
            "steps": str(self.steps),
            "stopped": self.stopped,
            "nonzero_groups": str(len(self.groups)),
        }
        return {
            name: Direction(part.flatten().float(), name, "sparse", meta=measured)
            for name, part in zip(self.sites, self.delta.chunk(len(self.sites)), strict=True)
            if part.any()
        }


def fit(
    problem: Problem,
    l1: float,
    group_l2: float,
    *,
    start: Groups | None = None,
    patience: int = 10,
    max_steps: int = 100,
    tolerance: float = 1e-5,
) -> SparseFit:
    """Minimise the problem's loss with one pair of weights.

    Args:
        problem: The loss.
        l1: Weight of |D|_1.
        group_l2: Weight of the groups' norms.
        start: Where to begin; default: zero. Where zero is best for these weights, it begins there in any case.
        patience: Steps without a better validation loss before it stops.
        max_steps: The most steps.
        tolerance: See :func:`mechsteer.directions.proximal.minimise`.

    Raises:
        MechsteerError: for weights below 0, or a loss that is not finite.
    """
    for name, weight in (("l1", l1), ("group_l2", group_l2)):
        if finite(name, weight) < 0:
            raise MechsteerError(f"{name} must not be negative, got {weight}.")
    positive_int("max_steps", max_steps)
    positive_int("patience", patience)
    unsteered, gradient = problem.smooth(problem.zero())
    if start is None or zero_is_stationary(gradient, l1, group_l2):
        start = problem.zero()
    found = minimise(
        problem.smooth,
        problem.training_loss,
        start,
        l1=l1,
        group_l2=group_l2,
        validation=problem.validation_loss if problem.held_out else None,
        patience=patience,
        max_steps=max_steps,
        tolerance=tolerance,
    )
    return SparseFit(
        delta=found.delta,
        l1=float(l1),
        group_l2=float(group_l2),
        loss=found.loss,
        validation_loss=found.validation,
        unsteered_loss=unsteered,
        steps=found.steps,
        stopped=found.stopped,
        sites=problem.sites,
        meta=problem.meta | {"l1": f"{l1:.9g}", "group_l2": f"{group_l2:.9g}"},
    )
