"""What is tried for one new token: how rows are copied for it, and what a schedule of trials has to tell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mechsteer.decoding.strategies import Pass
from mechsteer.models import State
from mechsteer.prompts import Prompt
from mechsteer.steering import Step

Hooks = Sequence[tuple[str, Callable[..., Any]]]


@dataclass(frozen=True)
class Copies:
    """How the rows of a pass are repeated.

    Attributes:
        rows: Rows of the batch, each of which stands ``raw + trials`` times, copies side by side.
        raw: 1 if the first copy of each is unsteered, else 0.
        trials: How many steered copies follow it.
        tried: How many trials, the strongest, are not among them, since they were made before.
    """

    rows: tuple[int, ...]
    raw: int
    trials: int
    tried: int = 0

    @property
    def numbers(self) -> slice:
        """Which trials these are."""
        return slice(self.tried, self.tried + self.trials)

    @property
    def times(self) -> int:
        """How often each row stands."""
        return self.raw + self.trials

    @property
    def each(self) -> list[int]:
        """For each copy, whose it is."""
        return [row for row in self.rows for _ in range(self.times)]


@runtime_checkable
class Trials(Protocol):
    """What is tried, the strongest first."""

    def count(self) -> int:
        """How many trials a token has at most."""
        ...

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Before the first pass of a run of these prompts.

        Raises:
            MechsteerError: if one of them lacks a span that a trial acts on.
        """
        ...

    def begin(self, current: Pass, before: State) -> None:
        """A batch begins: ``before`` is its state at the last prompt token, which ``current`` is about to run."""
        ...

    def hooks(self, step: Step, copies: Copies, end: int) -> tuple[Hooks, Hooks]:
        """What steers the copies in a pass that ends at a position: hooks before those on the model, and after."""
        ...

    def check(self) -> None:
        """A pass with all trials was made.

        Raises:
            MechsteerError: if one of them did nothing.
        """
        ...

    def describe(self, accepted: int) -> dict[str, Any]:
        """More columns of the trace for an accepted trial, by its number; 0 for none."""
        ...
