"""Prompts to choose on and prompts to report on, which share no question.

What asks the same (without its instruction) or is about the same topic stays on one side, and both sides have all kinds
of samples. Which half is which, and in which order prompts are looked at, is decided by a hash of what they ask and a
seed.
"""

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from mechsteer.errors import MechsteerError, file_as_task, shown
from mechsteer.files import digest

LEAST = 3
"""The fewest prompts that a half must have."""

STRETCHES = 8
"""Prompts are looked at an eighth at a time."""


def halves(task: Any, validation: Any = None, seed: int = 0) -> tuple[Any, Any]:
    """The task to choose on, its prompts in the order in which they are looked at, and the task to report on.

    Args:
        task: A task whose answers are generated. Where ``validation`` is given, all of it is reported on.
        validation: A task of other prompts to choose on.
        seed: Decides the halves and the order.

    Raises:
        MechsteerError: for a task that generates nothing, too few prompts, or two tasks that share questions.
    """
    for one in (task, validation):
        needed = ("samples", "prompts", "max_new_tokens")
        if one is not None and not (is_dataclass(one) and all(hasattr(one, name) for name in needed)):
            raise MechsteerError(
                f"tune needs a task whose answers are generated, e.g. ms.task(...), got {shown(one)}."
                f"{file_as_task(one)}"
            )
    if validation is None:
        chosen, kept = _split(task.samples, seed)
        first, second = replace(task, name=f"{task.name}[validation]", samples=chosen), replace(task, samples=kept)
    else:
        shared = {asked(s) for s in task.samples} & {asked(s) for s in validation.samples}
        if shared:
            raise MechsteerError(
                f"{len(shared)} questions are in both tasks; what is chosen on a prompt may not be reported on it."
            )
        first, second = validation, task
    for one, what in ((first, "choose on"), (second, "report on")):
        if len(one.samples) < LEAST:
            raise MechsteerError(
                f"{len(one.samples)} prompts to {what} are too few: {LEAST} are the least, and 10 and more say "
                f"something. The task {task.name!r} has {len(task.samples)}{_alike(task.samples)}."
            )
    return replace(first, samples=_ordered(first.samples, seed)), second


def _alike(samples: Sequence[Any]) -> str:
    """How few questions they ask, where that is not as many as they are."""
    count = len(set(map(asked, samples)))
    few = f", which ask {'one question' if count == 1 else f'{count} questions'}: what asks the same is on one side"
    return few if count < len(samples) else ""


def blocks(count: int) -> list[tuple[int, int]]:
    """The stretches of prompts that are looked at one after another: first and end of each."""
    size = max(LEAST, -(-count // STRETCHES))
    starts = [start for start in range(0, count, size) if start == 0 or count - start >= LEAST]
    return list(zip(starts, [*starts[1:], count], strict=True))


def asked(sample: Any) -> str:
    """What two samples must share to be one question: the topic, or the text (with its context) without instruction."""
    for name in ("topic", "asks", "base", "task", "text", "prompt"):
        value = getattr(sample, name, None)
        if value is not None and value != "":
            return digest(value)
    return digest(repr(sample))


def _split(samples: Sequence[Any], seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    groups: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(asked(sample), []).append(place)
    kinds = {text: str(getattr(samples[places[0]], "kind", "")) for text, places in groups.items()}
    order = sorted(groups, key=lambda text: (kinds[text], digest([seed, text])))
    chosen = {place for rank, text in enumerate(order) if rank % 2 for place in groups[text]}
    return (
        tuple(s for place, s in enumerate(samples) if place in chosen),
        tuple(s for place, s in enumerate(samples) if place not in chosen),
    )


def _ordered(samples: Sequence[Any], seed: int) -> tuple[Any, ...]:
    """Shuffled, one of each kind after another, so that every beginning has as many kinds as it can."""
    by_kind: dict[str, list[Any]] = {}
    for _, sample in sorted(enumerate(samples), key=lambda one: digest([seed, one[0], asked(one[1])])):
        by_kind.setdefault(str(getattr(sample, "kind", "")), []).append(sample)
    rounds = chain.from_iterable(zip_longest(*by_kind.values()))
    return tuple(sample for sample in rounds if sample is not None)
