"""The paper's few-shot baseline: questions with answers that follow the instruction stand before the question.

The paper does not say how its examples are written. Ours are validation prompts of the same kind of instruction, with
what the model itself writes for them where no notes come between, as far as that follows the instruction and is true.
They stand behind the notes, so that the question comes last, as in every other prompt.
"""

from dataclasses import replace

from mechsteer.studies.directer.bench import ZERO_SHOT, Setup
from mechsteer.tasks import Instructions, instructions

SHOTS = 2
"""Examples before each question, at most."""

SEARCHED = 8
"""Validation prompts of each kind that examples are looked for among."""


def few_shot(setup: Setup, task: Instructions) -> Instructions:
    """The task with examples before each question; of a kind that the model never follows, none."""
    asked = instructions(setup.kinds, n=SEARCHED, split="validation")
    table = setup.samples(ZERO_SHOT, asked)
    shown: dict[str, list[str]] = {}
    for sample, output, worth in zip(asked.samples, table["output"], table["average"], strict=True):
        if worth == 1:
            shown.setdefault(sample.kind, []).append(f"{sample.task}\n\n{output.strip()}")
    samples = tuple(
        replace(one, task="\n\n".join([*shown.get(one.kind, [])[:SHOTS], one.task])) for one in task.samples
    )
    return replace(task, name=f"{task.name} with {SHOTS} shots", samples=samples)
