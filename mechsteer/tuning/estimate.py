"""What a tuning will take, said before it begins, and once more when the unsteered model has answered."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mechsteer.decoding.divergence import PROMPTS, TOKENS
from mechsteer.models import plan, predicting_stack
from mechsteer.tuning.held_out import ASKED
from mechsteer.tuning.ladders import Family, layers_tried

SLOWER: Mapping[str, float] = {"span": 1.2, "vector": 1.2, "gate": 2.0}
"""How much longer a token of a family's answers takes than one of the unsteered model's: edits cost, and DIRECTER tries
several layers for each token."""

BEGUN = 30
"""About so many answers of a method are begun and not ended."""

READ = 1.6
"""A token whose likelihood is asked for, in tokens of a prompt: its logits are computed too."""

ARMS = 3 + len(ASKED)
"""Runs on the held-out prompts: unsteered, tuned, without instruction, and other ways to ask."""

LONGER = 2
"""So many prompts' length more the examples of one of them are, about."""

BESIDE = 4.0
"""Seconds for what no model computes: the search's draws, tables, figure and page."""


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        own: Answers of the unsteered model and of other ways to ask.
        steered: Answers of methods, each counted as so many unsteered ones as it takes (:data:`SLOWER`).
        side: Tokens of answers to unrelated prompts.
        readings: Points whose divergence is read from given tokens.
        writings: The same of gates, which write tokens for it, counted as steered answers are.
    """

    own: float = 0.0
    steered: float = 0.0
    side: float = 0.0
    readings: float = 0.0
    writings: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What was timed while the unsteered model answered.

    Attributes:
        token: Seconds for each token of its answers, with all that belongs to them: prompts, surprise, scores.
        reading: Seconds for one divergence that is read from given tokens.
        writing: Seconds for the tokens that a gate's divergence takes, unsteered.
    """

    token: float
    reading: float
    writing: float


@dataclass(frozen=True)
class Estimate:
    """What it will take.

    Attributes:
        answers: How many are written.
        longest: The most new tokens of an answer.
        fixed: Seconds, however long answers are.
        each: Seconds for one more token of every answer.
        megabytes: The model and the largest batch.
        work: How much there is to do.
    """

    answers: int
    longest: int
    fixed: float
    each: float
    megabytes: float
    work: Work = Work()

    def minutes(self, length: float) -> float:
        """On this machine as it is now, if answers have so many tokens."""
        return (self.fixed + self.each * length) / 60

    def after(self, seen: Seen) -> "Estimate":
        """The same, once it is known how fast the unsteered model answers.

        Where it was faster than the one batch that was timed, an earlier run had kept its answers: that says nothing.
        """
        work = self.work
        each = seen.token * (work.own + work.steered)
        fixed = seen.token * work.side + seen.reading * work.readings + seen.writing * work.writings + BESIDE
        return self if each < self.each else replace(self, each=each, fixed=fixed)

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
    model: Any,
    choosing: Any,
    reporting: Any,
    aside: Any,
    families: Mapping[str, Family],
    answers: float,
    batch_size: int,
) -> Estimate:
    """Time one batch, and count.

    Args:
        model: A loaded model.
        choosing: The validation task.
        reporting: The held-out task.
        aside: The unrelated task.
        families: The methods.
        answers: How often each method may answer all validation prompts.
        batch_size: Prompts computed together.
    """
    length = max(len(p) for task in (choosing, reporting) for p in task.prompts(model))
    new, rows = choosing.max_new_tokens, min(batch_size, len(choosing.samples))
    most = _planned(model, length, new, batch_size)
    seconds = (most if rows == batch_size else _planned(model, length, new, rows))["seconds"]
    read, write = seconds["prompt pass"] / (rows * length), seconds["new tokens"] / (rows * max(1, new - 1))
    searched, tested = answers * len(choosing.samples), len(reporting.samples)
    kinds = [family.kind for family in families.values()]
    work = Work(
        own=len(choosing.samples) + ARMS * tested,
        steered=sum(SLOWER[kind] * searched for kind in kinds),
        side=(1 + kinds.count("vector")) * len(aside.samples) * aside.max_new_tokens,
        readings=points(model, {name: f for name, f in families.items() if f.kind != "gate"}),
        writings=SLOWER["gate"] * sum(len(f.ladder) for f in families.values() if f.kind == "gate"),
    )
    asked = len(families) * searched + work.own
    prompts = 2 * (asked + LONGER * tested) + len(families) * BEGUN  # twice, for surprise reads them again
    fixed = read * (prompts * length + work.readings * PROMPTS * (length + TOKENS)) + BESIDE
    fixed += write * (work.writings * PROMPTS * TOKENS + work.side)
    each = write * (work.own + work.steered) + READ * read * asked
    return Estimate(round(asked), new, fixed, each, most["megabytes"]["total"], work)


def _planned(model: Any, length: int, new: int, rows: int) -> dict[str, dict[str, float]]:
    """Megabytes and seconds by part, of one batch."""
    table = plan(model, prompts=rows, length=length, new_tokens=new, batch_size=rows).set_index("part")
    return table.astype(float).to_dict()  # type: ignore[return-value]


def points(model: Any, families: Mapping[str, Family]) -> int:
    """How many points the full grid has."""
    layers = len(layers_tried(predicting_stack(model)[1]))
    return sum(len(f.ladder) * (layers if f.kind == "vector" else 1) for f in families.values())
