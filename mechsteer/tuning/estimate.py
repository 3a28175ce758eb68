"""What a tuning will take, said before it begins, and once more when it is known how long answers are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mechsteer.decoding.divergence import PROMPTS, TOKENS
from mechsteer.models import plan, predicting_stack
from mechsteer.tuning.held_out import ASKED
from mechsteer.tuning.ladders import Family, layers_tried

SLOWER: Mapping[str, float] = {"directer": 7.0}
"""How much longer a token takes than one of a full batch: DIRECTER's batches are small, and each has its trials."""

BESIDE = 1.5
"""The same for all others, since edits cost too and not every batch is full."""

BEGUN = 30
"""About so many answers of a method are begun and not ended."""

READ = 1.6
"""A token whose likelihood is asked for, in tokens of a prompt: its logits are computed too."""

ARMS = 3 + len(ASKED)
"""Runs on the held-out prompts: unsteered, tuned, without instruction, and other ways to ask."""


@dataclass(frozen=True)
class Estimate:
    """What it will take.

    Attributes:
        answers: How many are written.
        longest: The most new tokens of an answer.
        fixed: Seconds, however long answers are.
        each: Seconds for one more token of every answer.
        megabytes: The model and the largest batch.
    """

    answers: int
    longest: int
    fixed: float
    each: float
    megabytes: float

    def minutes(self, length: float) -> float:
        """On this machine as it is now, if answers have so many tokens."""
        return (self.fixed + self.each * length) / 60

    def __str__(self) -> str:
        return (
            f"At most {self.answers * self.longest:,} new tokens: about {self.minutes(self.longest):.1f} minutes on "
            "this machine as it is now, less where answers end early; "
            f"{self.megabytes:,.0f} MB beside Python's own 1,000."
        )

    def of_length(self, length: float) -> str:
        """The same, once it is known how long answers are."""
        return (
            f"The unsteered model's answers have {length:.0f} tokens on average: about {self.minutes(length):.1f} "
            "minutes from the beginning, if the others are as long."
        )


def estimate(
    model: Any, choosing: Any, reporting: Any, families: Mapping[str, Family], answers: float, batch_size: int
) -> Estimate:
    """Time one batch, and count.

    Args:
        model: A loaded model.
        choosing: The validation task.
        reporting: The held-out task.
        families: The methods.
        answers: How often each method may answer all validation prompts.
        batch_size: Prompts computed together.
    """
    length = max(len(p) for task in (choosing, reporting) for p in task.prompts(model))
    new = choosing.max_new_tokens
    table = plan(model, prompts=batch_size, length=length, new_tokens=new, batch_size=batch_size).set_index("part")
    read = float(table.loc["prompt pass", "seconds"]) / (batch_size * length)  # type: ignore[arg-type]
    write = float(table.loc["new tokens", "seconds"]) / (batch_size * max(1, new - 1))  # type: ignore[arg-type]
    searched, others = answers * len(choosing.samples), len(choosing.samples) + ARMS * len(reporting.samples)
    weights = sum(SLOWER.get(name, BESIDE) for name in families)
    asked = len(families) * searched + others
    gates = sum(SLOWER.get(name, BESIDE) * len(f.ladder) for name, f in families.items() if f.kind == "gate")
    probed = points(model, {name: f for name, f in families.items() if f.kind != "gate"})
    fixed = read * ((asked + len(families) * BEGUN) * length + probed * PROMPTS * (length + TOKENS))
    fixed += write * gates * PROMPTS * TOKENS
    each = write * (weights * searched + BESIDE * others) + READ * read * asked
    return Estimate(round(asked), new, fixed, each, float(table.loc["total", "megabytes"]))  # type: ignore[arg-type]


def points(model: Any, families: Mapping[str, Family]) -> int:
    """How many points the full grid has."""
    layers = len(layers_tried(predicting_stack(model)[1]))
    return sum(len(f.ladder) * (layers if f.kind == "vector" else 1) for f in families.values())
