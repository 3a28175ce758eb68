"""Side effects: answers to questions that have nothing to do with the instruction must stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from mechsteer.errors import MechsteerError, shown
from mechsteer.files import data_path
from mechsteer.prompts import Prompt
from mechsteer.quality.texts import has_content
from mechsteer.steering import Intervention
from mechsteer.tasks.own_task import task
from mechsteer.tuning.ladders import Way
from mechsteer.tuning.trying import Runs

LIMIT = 0.1
"""A way that makes more of the unrelated answers worse is not chosen."""

MAX_NEW_TOKENS = 32


class Effect(NamedTuple):
    """What a way does to unrelated answers, as shares of them.

    Attributes:
        same: Answers whose text is the same.
        kept: Answers that are no worse: neither is the score lower, nor have they collapsed now.
    """

    same: float
    kept: float


def unrelated() -> Any:
    """The bundled questions of general knowledge."""
    return task(data_path("tasks", "unrelated", "questions.csv"), name="unrelated", max_new_tokens=MAX_NEW_TOKENS)


def side_task(given: Any) -> Any:
    """The task of what was given: a task as it is, prompts as one whose answers need content, None for the bundled.

    Raises:
        MechsteerError: for prompts that are none, or a task that generates nothing or has no samples.
    """
    if given is None:
        return unrelated()
    if hasattr(given, "samples"):
        if not all(hasattr(given, name) for name in ("prompts", "max_new_tokens")) or not given.samples:
            raise MechsteerError(
                f"side must be a task whose answers are generated, with samples, e.g. ms.task(...), got {shown(given)}."
            )
        return given
    return task(given, lambda text, sample: has_content(text), name="unrelated", max_new_tokens=MAX_NEW_TOKENS)


@dataclass
class Side:
    """Unrelated prompts, answered once without steering.

    Attributes:
        runs: Evaluations on them.
    """

    runs: Runs

    def __post_init__(self) -> None:
        self.prompts: list[Prompt] = self.runs.task.prompts(self.runs.model)
        self.before: pd.DataFrame = self.runs.rows(Way())

    @property
    def right(self) -> float:
        """The share that the unsteered model answers well."""
        return float(self.before["adherence"].mean())

    def effect(self, way: Way) -> Effect:
        """What a way does; nothing where all that it does is to spans that these prompts do not have."""
        acting = acting_on(way, self.prompts)
        if acting == Way():
            return Effect(1.0, 1.0)
        after = self.runs.rows(acting)
        kept = after["adherence"].to_numpy() >= self.before["adherence"].to_numpy()
        kept &= ~(after["collapsed"].to_numpy(bool) & ~self.before["collapsed"].to_numpy(bool))
        same = after["output"].to_numpy() == self.before["output"].to_numpy()
        return Effect(float(same.mean()), float(kept.mean()))


def acting_on(way: Way, prompts: Sequence[Prompt]) -> Way:
    """What of a way can act on some prompts: edits and strategies of spans that they lack are left out."""
    shared = set.intersection(*(set(p.spans) for p in prompts))
    span = getattr(way.strategy, "span", ())
    needed = {span} if isinstance(span, str) else set(span)
    strategy = way.strategy if needed <= shared else None
    edits = tuple(edit for edit in way.steer.edits if set(edit.spans) <= shared) if way.steer else ()
    return Way(Intervention(edits) if edits else None, strategy)
