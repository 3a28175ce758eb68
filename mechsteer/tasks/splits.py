"""Splits that must not share prompts: what was chosen on a prompt may not be reported on it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mechsteer.errors import MechsteerError, one_of
from mechsteer.files import digest

SPLITS = ("evaluation", "validation")


Task = TypeVar("Task", bound=Any)


def half(task: Task, split: str, asked: Sequence[Any]) -> Task:
    """One half of a task's samples: what asks the same is on one side, whatever the order.

    Args:
        task: The task, a dataclass with a name and samples.
        split: ``validation`` for choosing and making vectors, ``evaluation`` for reporting.
        asked: What each sample asks.

    Raises:
        MechsteerError: for another split, or if a half would be empty.
    """
    one_of("split", split, SPLITS)
    texts = [digest(one) for one in asked]
    side = {text: SPLITS[rank % 2] for rank, text in enumerate(sorted(set(texts)))}
    if len(side) < 2:
        raise MechsteerError(f"{task.name!r} asks one thing only, so it cannot be divided.")
    kept = tuple(s for s, text in zip(task.samples, texts, strict=True) if side[text] == split)
    return replace(task, name=task.name if split == "evaluation" else f"{task.name}[{split}]", samples=kept)


def of_kind(task: Task, kind: str) -> Task:
    """The samples of one kind.

    Raises:
        MechsteerError: for a kind that none has.
    """
    one_of("kind", kind, dict.fromkeys(s.kind for s in task.samples))
    return replace(task, samples=tuple(s for s in task.samples if s.kind == kind))


def check_disjoint(validation: Task, test: Task) -> None:
    """Refuse two splits that share questions, whatever the instructions beside them.

    Raises:
        MechsteerError: with the number of prompts of the test split whose question is in the validation split too.
    """
    known = {sample.task for sample in validation.samples}
    shared = [sample.task for sample in test.samples if sample.task in known]
    if shared:
        raise MechsteerError(
            f"{len(shared)} of {len(test.samples)} test prompts ask what validation prompts ask, e.g. {shared[0]!r}: "
            "layers chosen on them would look better than they are."
        )
