"""What a tuning will take at most, said before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mechsteer.decoding.divergence import PROMPTS, TOKENS
from mechsteer.models import plan, predicting_stack
from mechsteer.tuning.halves import blocks
from mechsteer.tuning.held_out import ASKED
from mechsteer.tuning.ladders import Family, layers_tried

SLOWER: Mapping[str, float] = {"directer": 2.5, "spotlight": 1.3, "pasta": 1.3}
"""How much longer a token takes than an unsteered one, roughly."""

TOGETHER = 3
"""So many candidates of a method answer together, on average."""

ARMS = 3 + len(ASKED)
"""Runs on the held-out prompts: unsteered, tuned, without instruction, and other ways to ask."""


@dataclass(frozen=True)
class Estimate:
    """The most that it will take, if every answer is as long as it may be.

    Attributes:
        tokens: New tokens.
        minutes: On this machine, as it is now.
        megabytes: The model and the largest batch.
    """

    tokens: int
    minutes: float
    megabytes: float

    def __str__(self) -> str:
        return (
            f"At most {self.tokens:,} new tokens: about {self.minutes:.1f} minutes on this machine as it is now, less "
            f"where answers end early; {self.megabytes:,.0f} MB beside Python's own 1,000."
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
    longest = max(len(p) for task in (choosing, reporting) for p in task.prompts(model))
    first = min(batch_size, TOGETHER * blocks(len(choosing.samples))[0][1])
    small = _plan(model, first, longest, choosing.max_new_tokens, first)
    whole = _plan(model, len(reporting.samples), longest, reporting.max_new_tokens, batch_size)
    weight = sum(SLOWER.get(name, 1.0) for name in families)
    each = answers * len(choosing.samples)
    seconds = (weight * each + len(choosing.samples)) * small["seconds"] / first
    seconds += (
        ARMS * whole["seconds"] + points(model, families) * PROMPTS * small["pass"] * (longest + TOKENS) / longest
    )
    tokens = (len(families) * each + len(choosing.samples)) * choosing.max_new_tokens
    tokens += ARMS * len(reporting.samples) * reporting.max_new_tokens
    return Estimate(round(tokens), seconds / 60, max(small["megabytes"], whole["megabytes"]))


def points(model: Any, families: Mapping[str, Family]) -> int:
    """How many points the full grid has."""
    layers = len(layers_tried(predicting_stack(model)[1]))
    return sum(len(f.ladder) * (layers if f.kind == "vector" else 1) for f in families.values())


def _plan(model: Any, prompts: int, length: int, new: int, batch_size: int) -> dict[str, float]:
    """Seconds and megabytes of all of it, and the seconds that one prompt's pass takes."""
    table = plan(model, prompts=prompts, length=length, new_tokens=new, batch_size=batch_size)
    rows = {row["part"]: row for row in table.to_dict("records")}
    total, once = rows["total"], rows["prompt pass"]["seconds"] / prompts
    return {"seconds": total["seconds"], "megabytes": total["megabytes"], "pass": once}
