"""Words and several instructions at once.

``words``: inclusion adds a word's vector, exclusion subtracts it. The word to include is one that the question has
nothing to do with; the word to exclude is one that the plain answer has. The bundled model knows no instruction to
leave a word out: with one in the prompt it is shown what it never saw, and an exclusion vector, which the paper found
weaker, is not made.

``exclusion``: leaving a word out by coefficient, on the test prompts (the paper's appendix).

``composition``: a format by projection and a second vector, in one pass, each at its own layer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.steering import Intervention
from mechsteer.studies.instruction_vectors.bench import FORMATS, WITHOUT, Bench, Prompts, Setting
from mechsteer.studies.instruction_vectors.choose import (
    Choice,
    adjusted,
    choose,
    difference_of,
    percent_of,
    percentages,
    strongest,
)
from mechsteer.studies.instruction_vectors.tables import Choices, Rows, changes
from mechsteer.studies.instruction_vectors.vectors import Steering, excluded, to_exclude
from mechsteer.tasks import Instructions
from mechsteer.tasks.checkers import KINDS
from mechsteer.tasks.instructions import load_world

if TYPE_CHECKING:
    import pandas as pd

CASES = ("upper", "lower")
EXCLUDED = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
"""Coefficients of the table ``exclusion``, in norms of each word's vector."""

Keep = Callable[["pd.DataFrame"], list[bool]]


def words(bench: Bench, prompts: Prompts, steering: Steering, choices: Choices) -> "tuple[pd.DataFrame, Choice, Rows]":
    """Inclusion and exclusion in each setting.

    Returns:
        One row a task and setting, unsteered and steered: adherence is that the word is there, or that it is not; the
        choice for exclusion without an instruction; and the validation rows of exclusion.
    """
    import pandas as pd

    rows: Rows = []
    for setting in prompts.settings:
        choice, task = choices[setting.name, "keyword"], prompts.tested("keyword", setting)
        plain = bench.measure(task)
        steered = bench.measure(task, steering.words(choice, task)) if choice.steers else plain
        rows += _pair("inclusion", setting, choice, strongest(steering.options("keyword"), choice), plain, steered)
    chosen: dict[str, Choice] = {}
    validated: Rows = []
    for setting in prompts.settings:
        choice, tried = _choose_exclusion(bench, prompts, steering, setting)
        chosen[setting.name], validated = choice, validated + tried
        task = to_exclude(prompts.tested("keyword", setting), instructed=setting.instructed)
        if task.samples:
            rescore = excluded(task)
            plain = rescore(bench.measure(task))
            steered = rescore(bench.measure(task, steering.words(choice, task, sign=-1.0))) if choice.steers else plain
            edge = strongest(steering.options("keyword"), choice)
            rows += _pair("exclusion", setting, choice, edge, plain, steered)
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=adjusted(table)), chosen[WITHOUT.name], validated


def by_coefficient(bench: Bench, prompts: Prompts, steering: Steering, exclusion: Choice) -> "pd.DataFrame":
    """Leaving a word out on the test prompts: one row a setting and step, at the layer of the choice for exclusion.

    Where validation did not steer, at the last layer of the grid, as the paper's are late.
    """
    import pandas as pd

    layer = exclusion.layer if exclusion.steers else steering.layers[-1]
    rows: Rows = []
    for setting in prompts.settings:
        task = to_exclude(prompts.tested("keyword", setting), instructed=setting.instructed)
        for step in (0.0, *EXCLUDED) if task.samples else ():
            steer = steering.words(Choice(layer, step), task, sign=-1.0) if step else None
            table = excluded(task)(bench.measure(task, steer))
            rows.append({"setting": setting.name, "layer": layer, "step": step, **percentages(table)})
    return pd.DataFrame(rows)


def _choose_exclusion(bench: Bench, prompts: Prompts, steering: Steering, setting: Setting) -> tuple[Choice, Rows]:
    task = to_exclude(prompts.validated("keyword", setting), instructed=setting.instructed)
    if not task.samples:
        return Choice(), []
    choice, tried = choose(
        bench,
        task,
        lambda option, there: steering.words(option, there, sign=-1.0),
        steering.options("keyword"),
        rescore=excluded(task),
    )
    return choice, [{"setting": setting.name, "kind": "exclusion", **row} for row in tried]


def _pair(
    name: str, setting: Setting, choice: Choice, edge: bool, plain: "pd.DataFrame", steered: "pd.DataFrame"
) -> list[dict[str, Any]]:
    where = {"layer": choice.layer, "step": choice.step if choice.steers else math.nan, "edge": edge}
    return [
        {"task": name, "setting": setting.name, "row": "unsteered", "layer": -1, "step": math.nan, "edge": False}
        | percentages(plain)
        | {"gained": 0, "lost": 0, "p_value": 1.0},
        {"task": name, "setting": setting.name, "row": "steered"}
        | where
        | percentages(steered)
        | changes(plain, steered),
    ]


def composition(
    bench: Bench, prompts: Prompts, steering: Steering, kinds: Sequence[str], choices: Choices, exclusion: Choice | None
) -> "pd.DataFrame":
    """Formats with a limit of words, in each setting, and cases with the exclusion of a word.

    A pair has rows only where validation steers both of its parts. One row a pair, setting and what is steered: the
    share that follows the first, the second and both instructions, fidelity, and the mean of both times fidelity.
    ``beyond_single_pp``, where both are steered, is the change of "both" from the better of the two alone, on the same
    prompts and with its 95 % interval by topic; the better one is taken on these prompts, which favours it.
    """
    import pandas as pd

    rows: Rows = []
    formats = [kind for kind in kinds if kind in FORMATS]
    for setting in prompts.settings if "length" in kinds else ():
        for kind in formats:
            first, second = choices[setting.name, kind], choices[setting.name, "length"]
            if first.steers and second.steers:
                task = _two_instructions(prompts, kind, setting)
                edits = steering.make(kind)(first, task), steering.make("length")(second, task)
                rows += _combined(bench, task, f"{kind} + length", setting, edits, _follows(kind), _short(task))
    task = to_exclude(prompts.tested("keyword")) if "keyword" in kinds else None
    for kind in [kind for kind in formats if kind in CASES]:
        first = choices[WITHOUT.name, kind]
        if task is not None and task.samples and first.steers and exclusion and exclusion.steers:
            edits = steering.make(kind)(first, task), steering.words(exclusion, task, sign=-1.0)
            left_out = excluded(task)
            kept: Keep = lambda table, rescore=left_out: rescore(table)["adherence"].tolist()  # noqa: E731
            rows += _combined(bench, task, f"{kind} + exclusion", WITHOUT, edits, _follows(kind), kept)
    return pd.DataFrame(rows, columns=_COLUMNS)


_MEASURES = ("first", "second", "both", "both_and_true", "fidelity")
_COLUMNS = [
    *("pair", "setting", "row"),
    *(f"{name}_percent{end}" for name in _MEASURES for end in ("", "_low", "_high")),
    *("bad_percent", "n"),
    *(f"beyond_single{end}_pp" for end in ("", "_low", "_high")),
]


def _two_instructions(prompts: Prompts, kind: str, setting: Setting) -> Instructions:
    """The prompts about a limit of words, each with an instruction of the kind before its own."""
    told = prompts.tested(kind, setting).samples
    task = prompts.tested("length", setting)
    samples = [
        replace(sample, instruction=f"{told[place % len(told)].instruction} {sample.instruction}")
        for place, sample in enumerate(task.samples)
    ]
    return replace(task, samples=tuple(samples))


def _follows(kind: str) -> Keep:
    french = load_world().french
    return lambda table: [KINDS[kind](text.strip(), french=french) for text in table["output"]]


def _short(task: Instructions) -> Keep:
    limits = [sample.limit for sample in task.samples]
    return lambda table: [
        KINDS["length"](text.strip(), limit=limit) for text, limit in zip(table["output"], limits, strict=True)
    ]


def _combined(
    bench: Bench,
    task: Instructions,
    pair: str,
    setting: Setting,
    edits: tuple[Intervention, Intervention],
    first: Keep,
    second: Keep,
) -> Rows:
    """The rows of one pair: unsteered, each part alone, and both."""
    names = ("unsteered", "first", "second", "both")
    rows: Rows = []
    alone: list[list[bool]] = []
    for name, steer in zip(names, (None, edits[0], edits[1], edits[0] + edits[1]), strict=True):
        table = bench.measure(task, steer)
        one, two = first(table), second(table)
        both = [a and b for a, b in zip(one, two, strict=True)]
        known = table["fidelity"].astype(float)
        values = (one, two, both, (known * both).tolist(), known.tolist())
        row: dict[str, Any] = {"pair": pair, "setting": setting.name, "row": name}
        for measure, scores in zip(_MEASURES, values, strict=True):
            row |= percent_of(table, scores, f"{measure}_percent")
        row |= {"bad_percent": 100 * float(table["bad"].mean()), "n": len(table)}
        if name == "both":
            row |= difference_of(table, max(alone, key=sum), both, "beyond_single")
        elif steer:
            alone.append(both)
        rows.append(row)
    return rows
