"""Two questions about coefficients: is the dynamic one better than a constant, and what does conciseness cost?

``weights``: formats by projection, whose coefficient zbar - <x, u> is another one at each position, beside the same
vector added with a constant. ``followed_and_true`` is the mean over samples of adherence times fidelity, and the
verdict compares it (adherence alone where fidelity is not known); the constant is the best one on the test prompts,
which favours it.

``length``: the conciseness vector by coefficient. The bundled model has no instruction about an exact length, so
"exactly" is only the share of answers of one sentence, without a target that was asked for.
"""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from mechsteer.studies.steer_instruct_cells import FORMATS, WITHOUT, Bench, Prompts
from mechsteer.studies.steer_instruct_choice import percentages
from mechsteer.studies.steer_instruct_kinds import Choices, Rows
from mechsteer.studies.steer_instruct_vectors import Steering
from mechsteer.tasks.checkers import sentences

if TYPE_CHECKING:
    import pandas as pd

CONSTANTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Constant coefficients, in units of the vector's norm."""

LENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
THIRDS = ["up_to_8", "9_to_11", "12_or_more"]
DYNAMIC = "dynamic (project)"
CONSTANT = "constant (add)"


def weights(
    bench: Bench, prompts: Prompts, steering: Steering, kinds: Sequence[str], choices: Choices
) -> "pd.DataFrame":
    """One row a format that validation steers, and one their mean, by weight; the verdict stands in the dynamic row."""
    import pandas as pd

    rows: Rows = []
    for kind in [k for k in kinds if k in FORMATS and choices[WITHOUT.name, k].steers]:
        choice, task = choices[WITHOUT.name, kind], prompts.tested(kind)
        vector = steering.vectors(kind)[choice.layer]
        dynamic = bench.measure(task, steering.make(kind)(choice, task))
        rows.append({"kind": kind, "layer": choice.layer, **_row(DYNAMIC, float("nan"), dynamic)})
        for step in CONSTANTS:
            constant = bench.measure(task, steering.added(vector, step))
            rows.append({"kind": kind, "layer": choice.layer, **_row(CONSTANT, step, constant)})
    table = pd.DataFrame(rows, columns=_COLUMNS)
    if not table.empty:
        measures = [name for name in _COLUMNS if name.endswith("_percent")]
        mean = table.groupby(["weight", "step"], sort=False, dropna=False)[measures].mean().reset_index()
        mean = mean.assign(kind="mean", layer=-1, n=int(table[table["weight"] == DYNAMIC]["n"].sum()))
        table = pd.concat([table, mean[_COLUMNS]], ignore_index=True)
    return table.assign(verdict=_verdicts(table))


_COLUMNS = [
    "kind",
    "layer",
    "weight",
    "step",
    "adherence_percent",
    "fidelity_percent",
    "bad_percent",
    "followed_and_true_percent",
    "n",
]


def _row(weight: str, step: float, table: "pd.DataFrame") -> dict[str, Any]:
    both = 100 * float((table["adherence"] * table["fidelity"]).mean())
    return {"weight": weight, "step": step, **percentages(table), "followed_and_true_percent": both}


def _verdicts(table: "pd.DataFrame") -> list[str]:
    """In each dynamic row, how it compares with the best constant; empty in the others."""
    said = []
    for _, row in table.iterrows():
        if row["weight"] != DYNAMIC:
            said.append("")
            continue
        constants = table[(table["kind"] == row["kind"]) & (table["weight"] == CONSTANT)]
        measure = "adherence_percent" if isnan(row["followed_and_true_percent"]) else "followed_and_true_percent"
        top = constants.loc[constants[measure].idxmax()]
        ours, theirs = (round(float(r[measure]), 1) for r in (row, top))
        word = "better than" if ours > theirs else "as good as" if ours == theirs else "not better than"
        said.append(f"{word} the best constant, c = {top['step']:g} norms: {ours} against {theirs} %")
    return said


def length(bench: Bench, prompts: Prompts, steering: Steering, choices: Choices) -> "pd.DataFrame":
    """The conciseness vector by coefficient, in each setting at its chosen layer, or the first where none was chosen.

    One row a setting and step: words of an answer (mean, median), its sentences, adherence to "at most n words" for
    all limits and for each third of them, and the share of answers of exactly one sentence.
    """
    import pandas as pd

    vectors = steering.vectors("length")
    rows: Rows = []
    for setting in prompts.settings:
        task, choice = prompts.tested("length", setting), choices[setting.name, "length"]
        layer = choice.layer if choice.steers else steering.layers[0]
        for step in (0.0, *LENGTHS):
            table = bench.measure(task, steering.added(vectors[layer], step) if step else None)
            outputs = [str(text) for text in table["output"]]
            counts = pd.Series([len(text.split()) for text in outputs])
            parts = pd.Series([len(sentences(text)) for text in outputs])
            limits = pd.Series([sample.limit for sample in task.samples])
            thirds = pd.cut(limits, [0, 8, 11, 10_000], labels=THIRDS)
            by_limit = table["adherence"].groupby(thirds, observed=False).mean()
            rows.append(
                {
                    "setting": setting.name,
                    "layer": layer,
                    "step": step,
                    "chosen": choice.steers and step == choice.step,
                    "words_mean": float(counts.mean()),
                    "words_median": float(counts.median()),
                    "sentences_mean": float(parts.mean()),
                    "one_sentence_percent": 100 * float((parts == 1).mean()),
                    **percentages(table),
                    **{f"limit_{name}_percent": 100 * float(by_limit[name]) for name in THIRDS},
                }
            )
    return pd.DataFrame(rows)
