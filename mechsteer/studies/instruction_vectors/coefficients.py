"""Questions about coefficients: is the dynamic one better than a constant, what does conciseness cost, can it aim?

``weights``: formats by projection, whose coefficient zbar - <x, u> is another one at each position, beside vectors
added with a constant, at the layer of the dynamic one and at the next of the grid. ``followed_and_true`` is the mean
over samples of adherence times fidelity, and the verdict compares it (adherence alone where fidelity is not known). The
constant and its layer are the best on the test prompts, which favours them: the dynamic weight was not tuned on these.
``difference_pp`` is dynamic minus that constant on the same prompts, with its 95 % interval by topic; ``p_adjusted`` is
Holm's, over the formats; ``edge`` says that the constant is the strongest that was tried.

``length``: the conciseness vector by coefficient.

``exactly``: the coefficient that gives answers of exactly n sentences most often on validation prompts, on the test
prompts. The paper has an instruction and a vector for each n; the bundled model knows no such instruction, so that n
is in no prompt here and the conciseness vector has to do.
"""

import math
from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from mechsteer.stats import holm, paired_interval, paired_p
from mechsteer.studies.core.choose import at_edge
from mechsteer.studies.instruction_vectors.bench import FORMATS, WITHOUT, Bench, Prompts
from mechsteer.studies.instruction_vectors.choose import Choice, Rescore, adjusted, choose, percentages, strongest
from mechsteer.studies.instruction_vectors.tables import Choices, Rows, changes
from mechsteer.studies.instruction_vectors.vectors import Steering
from mechsteer.tasks.checkers import sentences

if TYPE_CHECKING:
    import pandas as pd

CONSTANTS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.5)
"""Constant coefficients, in units of the vector's norm."""

LENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SENTENCES = (1, 2, 3, 4)
THIRDS = ["up_to_8", "9_to_11", "12_or_more"]
DYNAMIC = "dynamic (project)"
CONSTANT = "constant (add)"
BEST = "best constant of each format"


def weights(
    bench: Bench, prompts: Prompts, steering: Steering, kinds: Sequence[str], choices: Choices
) -> "pd.DataFrame":
    """One row a weight of each format that validation steers, and of their mean; verdicts stand in the dynamic rows.

    The mean has the dynamic rows, one constant for all formats by coefficient (at the layers of the dynamic ones), and
    each format's own best constant.
    """
    import pandas as pd

    rows: Rows = []
    worth: dict[tuple[str, int, float], pd.Series] = {}
    topics: dict[str, list[str]] = {}
    for kind in [k for k in kinds if k in FORMATS and choices[WITHOUT.name, k].steers]:
        choice, task = choices[WITHOUT.name, kind], prompts.tested(kind)
        dynamic = bench.measure(task, steering.make(kind)(choice, task))
        rows.append({"kind": kind, "layer": choice.layer, **_row(DYNAMIC, float("nan"), dynamic)})
        worth[kind, choice.layer, 0.0] = _worth(dynamic)
        topics[kind] = [sample.topic for sample in task.samples[: len(dynamic)]]
        for layer in [layer for layer in steering.layers if layer >= choice.layer][:2]:
            vector = steering.vectors(kind)[layer]
            for step in CONSTANTS:
                constant = bench.measure(task, steering.added(vector, step))
                rows.append({"kind": kind, "layer": layer, **_row(CONSTANT, step, constant)})
                worth[kind, layer, step] = _worth(constant)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    apart = _differences(table, worth, topics)
    if not table.empty:
        table = pd.concat([table, _means(table)], ignore_index=True)
    marked = table.assign(verdict=_verdicts(table), edge=_edges(table))
    return marked.merge(apart, on=["kind", "weight"], how="left")


def _worth(table: "pd.DataFrame") -> "pd.Series":
    """What verdicts compare, of each sample."""
    both = (table["adherence"] * table["fidelity"]).astype(float)
    return table["adherence"].astype(float) if both.isna().all() else both


def _differences(
    table: "pd.DataFrame",
    worth: "Mapping[tuple[str, int, float], pd.Series]",
    topics: Mapping[str, Sequence[str]],
) -> "pd.DataFrame":
    """By format, dynamic minus its best constant on the same prompts; ``mean``: all of them, each with its own best."""
    import pandas as pd

    pairs: dict[str, list[tuple[float, str]]] = {}
    for kind, part in table.groupby("kind", sort=False):
        own, top = part[part["weight"] == DYNAMIC].iloc[0], _top(part[part["weight"] == CONSTANT])
        change = worth[str(kind), own["layer"], 0.0] - worth[str(kind), top["layer"], top["step"]]
        pairs[str(kind)] = list(zip(change.tolist(), topics[str(kind)], strict=True))
    rows = []
    for kind, found in (*pairs.items(), ("mean", [pair for part in pairs.values() for pair in part])):
        changes, named = [pair[0] for pair in found], [pair[1] for pair in found]
        mean, low, high, _ = paired_interval(changes, named)
        ends = {"difference_pp": 100 * mean, "difference_low_pp": 100 * low, "difference_high_pp": 100 * high}
        rows.append({"kind": kind, "weight": DYNAMIC, **ends, "p_by_topic": paired_p(changes, named)})
    made = pd.DataFrame(rows)
    return made.assign(p_adjusted=[*holm(made["p_by_topic"].tolist()[:-1]), math.nan])


def _means(table: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    dynamic = table[table["weight"] == DYNAMIC]
    layers = table["kind"].map(dynamic.set_index("kind")["layer"])
    constants = table[table["weight"] == CONSTANT]
    tops = pd.DataFrame([_top(part) for _, part in constants.groupby("kind")]).assign(weight=BEST, step=float("nan"))
    chosen = pd.concat([table[table["layer"] == layers], tops])
    measures = [name for name in _COLUMNS if name.endswith("_percent")]
    means = chosen.groupby(["weight", "step"], sort=False, dropna=False)[measures].mean().reset_index()
    return means.assign(kind="mean", layer=-1, n=int(dynamic["n"].sum())).reindex(columns=_COLUMNS)


_COLUMNS = [
    "kind",
    "layer",
    "weight",
    "step",
    *(f"{measure}_percent{end}" for measure in ("adherence", "fidelity") for end in ("", "_low", "_high")),
    "bad_percent",
    "followed_and_true_percent",
    "n",
]


def _row(weight: str, step: float, table: "pd.DataFrame") -> dict[str, Any]:
    both = 100 * float((table["adherence"] * table["fidelity"]).mean())
    return {"weight": weight, "step": step, **percentages(table), "followed_and_true_percent": both}


def _compared(row: "pd.Series") -> float:
    """What verdicts compare."""
    both, alone = float(row["followed_and_true_percent"]), float(row["adherence_percent"])
    return alone if isnan(both) else both


def _top(rows: "pd.DataFrame") -> "pd.Series":
    return rows.iloc[int(rows.apply(_compared, axis=1).to_numpy().argmax())]


def _edges(table: "pd.DataFrame") -> list[bool]:
    """In each dynamic row of a format, whether its best constant is the strongest that was tried; False in others."""
    tops = {kind: _top(part) for kind, part in table[table["weight"] == CONSTANT].groupby("kind") if kind != "mean"}
    edges = {kind: at_edge(CONSTANTS, float(top["step"])) for kind, top in tops.items()}
    return [
        weight == DYNAMIC and edges.get(kind, False)
        for kind, weight in zip(table["kind"], table["weight"], strict=True)
    ]


def _verdicts(table: "pd.DataFrame") -> list[str]:
    """In each dynamic row, how it compares with the best constant; empty in the others."""
    said = []
    for _, row in table.iterrows():
        others = table[(table["kind"] == row["kind"]) & (table["weight"] != DYNAMIC)]
        if row["weight"] != DYNAMIC:
            said.append("")
        elif row["kind"] != "mean":
            top = _top(others)
            said.append(_verdict(row, top, f"the best constant, c = {top['step']:g} norms at layer {top['layer']}"))
        else:
            one, each = _top(others[others["weight"] == CONSTANT]), _top(others[others["weight"] == BEST])
            first = _verdict(row, one, f"one constant for all, c = {one['step']:g} norms")
            said.append(f"{first}; {_verdict(row, each, 'the best constant of each format')}")
    return said


def _verdict(dynamic: "pd.Series", constant: "pd.Series", name: str) -> str:
    ours, theirs = (round(_compared(row), 1) for row in (dynamic, constant))
    word = "better than" if ours > theirs else "as good as" if ours == theirs else "not better than"
    return f"{word} {name}: {ours} against {theirs} %"


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


def exactly(bench: Bench, prompts: Prompts, steering: Steering, choices: Choices) -> "pd.DataFrame":
    """Answers of exactly n sentences without an instruction, unsteered and at the coefficient validation chose for n.

    One row a number of sentences, at the layer of the conciseness vector (the first where none was chosen). A tie goes
    to no steering, then to the weakest coefficient; coefficients with bad outputs do not count.
    """
    import pandas as pd

    choice, test = choices[WITHOUT.name, "length"], prompts.tested("length")
    layer = choice.layer if choice.steers else steering.layers[0]
    vector = steering.vectors("length")[layer]
    options = [Choice(), *(Choice(layer, step) for step in LENGTHS)]
    rows: Rows = []
    for wanted in SENTENCES:
        rescore = _of_sentences(wanted)
        chosen, _ = choose(
            bench,
            prompts.validated("length"),
            lambda option, _: steering.added(vector, option.step),
            options,
            rescore=rescore,
        )
        plain = rescore(bench.measure(test))
        steered = rescore(bench.measure(test, steering.added(vector, chosen.step))) if chosen.steers else plain
        scores = percentages(plain, "_unsteered") | percentages(steered, "_steered")
        rows.append(
            {
                "sentences": wanted,
                "layer": chosen.layer,
                "step": chosen.step,
                "edge": strongest(options, chosen),
                **{name.replace("adherence", "exactly"): value for name, value in scores.items()},
                **changes(plain, steered),
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=adjusted(table))


def _of_sentences(wanted: int) -> Rescore:
    return lambda table: table.assign(adherence=[len(sentences(str(text))) == wanted for text in table["output"]])
