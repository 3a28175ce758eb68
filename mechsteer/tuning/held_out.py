"""The one run on the prompts that nothing was chosen on: the tuned way, the unsteered model, and other ways to ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.summary import summarise
from mechsteer.tuning.asking import (
    WORDINGS,
    Example,
    Reworded,
    example_text,
    kind_of,
    one_list,
    reworded,
    uninstructed,
    with_examples,
)
from mechsteer.tuning.ladders import Way
from mechsteer.tuning.trying import Runs, all_or_each

if TYPE_CHECKING:
    import pandas as pd

UNSTEERED, TUNED, EXAMPLES, WITHOUT = "unsteered", "tuned", "two examples", "without instruction"
Examples = Mapping[str, Sequence[Example]]

ASKED = (*WORDINGS, EXAMPLES)
"""Ways to ask that a method is compared with."""


@dataclass(frozen=True)
class HeldOut:
    """What came out.

    Attributes:
        rows: One row a prompt and way, with the way's ``name``.
        summary: One row a way; see :func:`mechsteer.comparison.summary.summarise`. ``adherence`` counts answers that
            follow and have not collapsed.
        left_out: Ways to ask that could not be tried, and why.
    """

    rows: "pd.DataFrame"
    summary: "pd.DataFrame"
    left_out: Mapping[str, str] = field(default_factory=dict)


def held_out(runs: Runs, tuned: tuple[str, Way] | None, examples: Examples) -> HeldOut:
    """Run all of it.

    Args:
        runs: Evaluations on the held-out prompts.
        tuned: Name of the tuned way and the way; None where nothing was better than the unsteered model.
        examples: Two worked examples of each kind from the validation prompts; fewer where there are none.
    """
    import pandas as pd

    tables: dict[str, pd.DataFrame] = {UNSTEERED: runs.rows(Way())}
    if tuned is not None:
        tables[f"{TUNED}: {tuned[0]}"] = runs.rows(tuned[1])
    left_out: dict[str, str] = {}
    tasks = _asked(runs.task, examples)
    askable = {name: task for name, task in tasks.items() if isinstance(task, Reworded)}
    for name, found in all_or_each(askable, partial(_answered, runs)).items():
        if isinstance(found, str):
            left_out[name] = found
        else:
            tables[name] = found
    left_out |= {name: task for name, task in tasks.items() if isinstance(task, str)}
    rows = pd.concat([table.assign(name=name) for name, table in tables.items()], ignore_index=True)
    rows.insert(0, "name", rows.pop("name"))
    summary = summarise(rows, "adherence", {}).drop(columns=["tokens_per_second", "adherence_uncollapsed"])
    followed = rows.groupby("name", sort=False)["followed"].mean()
    quality = rows.groupby("name", sort=False)["quality"].mean()
    place = list(summary.columns).index("adherence_high") + 1
    summary.insert(place, "followed", list(followed))
    summary.insert(place + 1, "quality", list(quality))
    return HeldOut(rows, summary, left_out)


def _answered(runs: Runs, tasks: Mapping[str, Reworded]) -> "dict[str, pd.DataFrame]":
    """The rows of each wording, all answered together."""
    task = one_list(list(tasks.values())) if len(tasks) > 1 else next(iter(tasks.values()))
    table = replace(runs, task=task).rows(Way())
    size = len(runs.task.samples)
    parts = [table.iloc[place * size : (place + 1) * size].reset_index(drop=True) for place in range(len(tasks))]
    about = [{"sample": range(size), "task": task.name, "data_hash": task.data_hash} for task in tasks.values()]
    return {name: part.assign(**own) for name, part, own in zip(tasks, parts, about, strict=True)}


def _asked(task: Any, examples: Examples) -> dict[str, Any]:
    """The task asked in other ways; a text, the reason, where that cannot be."""
    unknown = "where the instruction of these prompts stands is not known"
    made: dict[str, Any] = {name: reworded(task, name, ask) or unknown for name, ask in WORDINGS.items()}
    kinds = dict.fromkeys(map(kind_of, task.samples))
    lacking = [kind for kind in kinds if len(examples.get(kind, ())) < 2]
    of_kind = f" of the kind {lacking[0]!r}" if lacking and lacking[0] else ""
    few = f"fewer than 2 validation prompts{of_kind} have an answer that follows and was not cut off"
    made[EXAMPLES] = few if lacking else with_examples(task, examples) or unknown
    made[WITHOUT] = reworded(task, WITHOUT, uninstructed) or unknown
    return made


def worked_examples(task: Any, tables: Sequence["pd.DataFrame"]) -> Examples:
    """By kind, two validation prompts with an answer that follows: the unsteered model's where it has any.

    Args:
        task: The validation task.
        tables: Rows of all its prompts, the unsteered model's first.
    """
    found: dict[str, dict[int, Example]] = {}
    for table in tables:
        for place, row in enumerate(table.to_dict("records")):
            text, mine = example_text(task.samples[place]), found.setdefault(kind_of(task.samples[place]), {})
            if len(mine) < 2 and place not in mine and text and row["adherence"] >= 1 and not row["truncated"]:
                mine[place] = (text, str(row["output"]).strip())
    return {kind: list(mine.values()) for kind, mine in found.items()}
