"""A strategy that chooses as another does and keeps what was asked and written, for who does not call ``generate``."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mechsteer.decoding.strategies import Choice, Chooser, Pass, Strategy
from mechsteer.prompts import Prompt


@dataclass(frozen=True)
class Watched:
    """Wraps a strategy.

    Attributes:
        strategy: What chooses.
        first: Added to the places of the prompts: a sampler that is given a part of a list draws as for the whole. Only
            for samplers: other strategies look their prompts up by place.
        runs: For each call of ``generate``, what it read and wrote.
    """

    strategy: Strategy
    first: int = 0
    runs: "list[Run]" = field(default_factory=list, repr=False)

    @property
    def repetition_penalty(self) -> float:
        """The strategy's own; one that is not 1 takes the place of the checkpoint's."""
        return float(getattr(self.strategy, "repetition_penalty", 1.0))

    def chooser(self, model: Any) -> "Run":
        """Begin a run."""
        run = Run(self.strategy.chooser(model), self.first)
        self.runs.append(run)
        return run

    def renewed(self, model: Any) -> "Run":
        """Go on with the last run after an interruption: rows that had not ended begin again."""
        run = self.runs[-1]
        run.inner = self.strategy.chooser(model)
        return run


@dataclass
class Run:
    """One call of ``generate``.

    Attributes:
        inner: What chooses.
        first: Added to the places.
        prompts: The prompt at each place of the list given to ``generate``.
        written: The tokens written at each place, the end token included.
    """

    inner: Chooser
    first: int = 0
    prompts: dict[int, Prompt] = field(default_factory=dict)
    written: dict[int, Sequence[int]] = field(default_factory=dict)

    def choose(self, current: Pass) -> Choice:
        """Choose as the other does."""
        alive = range(len(current.step.batch)) if current.step.alive is None else current.step.alive
        for place, row, tokens in zip(current.places, alive, current.written, strict=True):
            if place not in self.written:  # the loop's own list, which grows
                self.prompts[place], self.written[place] = current.step.batch.prompts[row], tokens
        moved = replace(current, places=[self.first + place for place in current.places]) if self.first else current
        return self.inner.choose(moved)
