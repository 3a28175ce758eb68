"""Splits that must not share prompts: what was chosen on a prompt may not be reported on it."""

from mechsteer.errors import MechsteerError
from mechsteer.tasks.instructions import Instructions


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
