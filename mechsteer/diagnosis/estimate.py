"""What a diagnosis will take, said before it begins."""

from typing import Any

from mechsteer.diagnosis.arms import asked_arms, other_arms
from mechsteer.diagnosis.cases import Cases
from mechsteer.models import plan

PASSES = 3
"""Forward passes over prompts and first answer tokens that the measures take, in arms' generations: about."""


def estimate(model: Any, cases: Cases, batch_size: int) -> str:
    """Time and memory in words: one batch is run to find them; shorter where the model turns out to follow."""
    readable = cases.readable
    if not readable:
        return "No prompt can be asked: nothing is generated."
    arms = len(asked_arms(readable)) + len(other_arms(model, readable, cases.max_new_tokens))
    length = max(len(case.prompt) for case in readable)
    table = plan(
        model, prompts=len(readable), length=length, new_tokens=cases.max_new_tokens, batch_size=batch_size
    ).set_index("part")
    seconds = (arms + PASSES) * float(table.loc["total", "seconds"])  # type: ignore[arg-type]
    amount = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return (
        f"{len(readable)} prompts asked in {arms} ways, at most {cases.max_new_tokens} new tokens each: at most about "
        f"{amount} and {float(table.loc['total', 'megabytes']):.0f} megabytes."  # type: ignore[arg-type]
    )
