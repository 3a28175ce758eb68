"""Ways to ask the same questions, generated and scored: in place, without the instruction, other forms, pushes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.summary import score_column, shares
from mechsteer.diagnosis.cases import SPAN, Case, Cases
from mechsteer.diagnosis.forms import forms_of
from mechsteer.evaluation import evaluate
from mechsteer.files import digest
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, attention_bias
from mechsteer.tasks.own_samples import OwnSample
from mechsteer.tasks.own_task import OwnTask

if TYPE_CHECKING:
    import pandas as pd

IN_PLACE, WITHOUT = "in place", "without"
DELTAS = (1.0, 2.0, 4.0)
"""Nats on the span's keys: mild, strong, and as much as shows whether the model can follow at all."""

FOLLOWED = 0.5
"""A score from which on a prompt counts as followed."""


@dataclass(frozen=True)
class Arm:
    """One way to ask.

    Attributes:
        name: Its name in tables.
        group: ``"as asked"``, ``"form"`` or ``"push"``.
        prompts: A prompt for each case; None where it has none.
        steer: An intervention.
    """

    name: str
    group: str
    prompts: Sequence[Prompt | None]
    steer: Intervention | None = None


@dataclass(frozen=True)
class Scorer:
    """The check of the task that a case comes from."""

    cases: Cases = field(repr=False)

    def __call__(self, text: str, sample: Any) -> dict[str, Any]:
        """The scores of an answer."""
        return self.cases.score(sample["number"], text)


def asked_arms(cases: Sequence[Case]) -> list[Arm]:
    """The prompts as they are, and without their instruction where that can be."""
    arms = [Arm(IN_PLACE, "as asked", [case.prompt for case in cases])]
    if any(case.without is not None for case in cases):
        arms.append(Arm(WITHOUT, "as asked", [case.without for case in cases]))
    return arms


def other_arms(model: Any, cases: Sequence[Case], new_tokens: int) -> list[Arm]:
    """Other forms of the prompts, and pushes of the attention to the instruction."""
    forms = [Arm(name, "form", made) for name, made in forms_of(model, cases, new_tokens).items()]
    own = [case.prompt for case in cases]
    return forms + [Arm(f"attention + {delta:g}", "push", own, attention_bias(SPAN, delta)) for delta in DELTAS]


def run_arm(
    model: Any, cases: Cases, arm: Arm, *, score: str | None, batch_size: int, out: Path | None, progress: bool
) -> "pd.DataFrame":
    """The rows of :func:`mechsteer.evaluate`, with arm, group, case (its place in the task), passed and followed."""
    readable = cases.readable
    kept = [place for place, made in enumerate(arm.prompts) if made is not None]
    asked = digest(cases.task.data_hash)
    samples = tuple(
        OwnSample(
            f"{arm.name}, sample {readable[place].number}",
            arm.prompts[place],  # type: ignore[arg-type]
            given=MappingProxyType({"prompt": "", "number": readable[place].number, "task": asked}),
        )
        for place in kept
    )
    task = OwnTask(f"{cases.task.name}: {arm.name}", samples, Scorer(cases), cases.max_new_tokens)
    folder = None if out is None else out / arm.name.replace(" ", "-")
    rows = evaluate(
        model,
        task,
        steer=arm.steer,
        batch_size=batch_size,
        quality=True,
        out=folder,
        progress=progress,
    )
    passed = shares(rows, score_column(rows, score)) >= FOLLOWED
    about = {"arm": arm.name, "group": arm.group, "case": [readable[place].number for place in kept]}
    rows = rows.drop(columns=[name for name in about if name in rows])  # scores of one's own may be called so
    for place, (name, value) in enumerate(about.items()):
        rows.insert(place, name, value)
    return rows.assign(passed=passed, followed=passed & ~rows["collapsed"])
