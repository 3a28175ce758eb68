"""``Gated``: any schedule of interventions under DIRECTER's plausibility gate.

Paper: <https://arxiv.org/abs/2603.06745>, its figure 2b, where PASTA (alpha .01, .1, 1) and SpotLight (psi .3, .2, .1,
0) are put under the gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mechsteer.decoding.gate import checked_beta
from mechsteer.decoding.strategies import Pass, own_numbers
from mechsteer.decoding.trial_copies import Copies, Hooks
from mechsteer.decoding.trials import GatedChooser
from mechsteer.errors import MechsteerError, shown
from mechsteer.models import State
from mechsteer.prompts import Prompt
from mechsteer.steering import BoundEdit, Intervention, Step, attach, check_fired, several
from mechsteer.steering.batches import check_spans
from mechsteer.steering.registry import on_keys


@dataclass(frozen=True)
class Gated:
    """Greedy decoding under interventions that the unsteered model must find plausible, from the strongest on.

    The prompt is read unsteered, and keys and values of generated tokens are those of unsteered passes: an intervention
    acts on the one position that predicts. ``Generation.trace`` is as :class:`mechsteer.Directer` has it, without
    ``layers``; ``accepted`` is the number of the schedule's intervention, from 1.

    Attributes:
        schedule: What to try, the strongest first.
        beta: A token must be at least this share of the most likely one's probability, in (0, 1].

    Example:
        >>> schedule = [ms.attention_bias(delta=delta) for delta in (5.0, 2.0, 1.0)]
        >>> ms.generate(model, prompt, strategy=ms.Gated(schedule, beta=0.1)).texts
    """

    schedule: Sequence[Intervention]
    beta: float = 0.5

    def __post_init__(self) -> None:
        own_numbers(self, "beta")
        checked_beta(self.beta)
        if not isinstance(self.schedule, Sequence) or not self.schedule:
            raise MechsteerError(
                f"The schedule must be a list of interventions, at least one, got {shown(self.schedule)}."
            )
        for item in self.schedule:
            if not isinstance(item, Intervention) or not item.edits:
                raise MechsteerError(
                    f"The schedule must be a list of interventions, got {shown(item)} in it.{several(item)}"
                )

    def chooser(self, model: Any) -> GatedChooser:
        """Begin a run.

        Raises:
            MechsteerError: if an intervention does not fit the model.
        """
        for item in self.schedule:
            item.check(model)
        return GatedChooser(Schedule(model, self.schedule), self.beta)


@dataclass
class Schedule:
    """Interventions as trials."""

    model: Any
    interventions: Sequence[Intervention]
    narrow: Step | None = None
    bound: list[list[BoundEdit]] = field(default_factory=list)
    tried: set[int] = field(default_factory=set)

    def count(self) -> int:
        """One for each intervention."""
        return len(self.interventions)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Each needs the spans of the interventions that are meant for it."""
        for item in self.interventions:
            check_spans(prompts, item)

    def begin(self, current: Pass, before: State) -> None:
        """Bind the interventions to a step of their own, which follows the run's."""
        step = current.step
        if self.narrow is None:
            self.narrow = Step(step.batch, decoder_prefix=step.decoder_prefix, index=step.index)
            self.bound = [item.bind(self.model, self.narrow) for item in self.interventions]

    def hooks(self, step: Step, copies: Copies, end: int) -> tuple[Hooks, Hooks]:
        """Each intervention sees its copies alone."""
        if self.narrow is not None:
            self.narrow.show(step.batch, step.index or range(len(step.batch)), step.decoder_starts)
            self.narrow.alive = copies.rows
            self.narrow.begin(end, 1)
            self.tried.update(copies.rows if step.index is None else (step.index[row] for row in copies.rows))
        parts = [
            (name, _Part(edit, copies, copies.raw + number))
            for number, edits in enumerate(self.bound[copies.numbers])
            for name, edit in attach(edits, self.model)
        ]
        of_keys = [on_keys(part.edit.edit) for _, part in parts]
        before = [part for part, first in zip(parts, of_keys, strict=True) if first]
        return before, [part for part, first in zip(parts, of_keys, strict=True) if not first]

    def check(self) -> None:
        """Each of them that is meant for a prompt of the batch must have acted, once that prompt had trials.

        Raises:
            MechsteerError: for an intervention that did not, as in the encoder, which has run before.
        """
        waiting = [bound for edits in self.bound for bound in edits if not bound.fired]
        check_fired([bound for bound in waiting if self._meant(bound.edit.scope.rows)], self.model)

    def _meant(self, rows: Sequence[int] | None) -> bool:
        return rows is None or not self.tried.isdisjoint(rows)

    def describe(self, accepted: int) -> dict[str, Any]:
        """Nothing to add."""
        return {}


@dataclass(frozen=True)
class _Part:
    """A hook function for one copy of every row; what stands below the copies in a tensor is left alone."""

    edit: BoundEdit
    copies: Copies
    copy: int

    def __call__(self, x: Tensor, hook: Any) -> Tensor | None:
        mine = slice(self.copy, len(self.copies.each), self.copies.times)
        edited = self.edit(x[mine], hook)
        if edited is None:
            return None
        made = x.clone()
        made[mine] = edited
        return made
