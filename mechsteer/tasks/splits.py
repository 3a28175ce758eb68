"""Splits that must not share prompts: what was chosen on a prompt may not be reported on it."""

from collections.abc import Sequence
from typing import Any

from mechsteer.errors import MechsteerError, one_of
from mechsteer.files import digest
from mechsteer.tasks.instructions import Instructions

SPLITS = ("evaluation", "validation")


def half(name: str, split: str, asked: Sequence[Any]) -> list[int]:
    """The places of one half: what asks the same is on one side, whatever the order.

    Raises:
        MechsteerError: for another split, or if a half would be empty.
    """
    one_of("split", split, SPLITS)
    texts = [digest(one) for one in asked]
    side = {text: SPLITS[rank % 2] for rank, text in enumerate(sorted(set(texts)))}
    if len(side) < 2:
        raise MechsteerError(f"{name!r} asks one thing only, so it cannot be divided.")
    return [place for place, text in enumerate(texts) if side[text] == split]


def check_disjoint(validation: Instructions, test: Instructions) -> None:
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
