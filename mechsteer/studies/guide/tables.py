"""The measured parts of the study of GUIDE: cells of tasks, and tables of means with intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.errors import MechsteerError
from mechsteer.stats import cluster_interval, mean_interval
from mechsteer.steering import attention_bias
from mechsteer.studies.core.bench import Bench, Wanted
from mechsteer.studies.guide.predict import PREDICTORS, predictors
from mechsteer.studies.guide.tasks import OTHER_WORDINGS, WORDINGS, TaskByLength, scores, worded
from mechsteer.tasks import json_schema, needle
from mechsteer.tasks.summaries import summaries

if TYPE_CHECKING:
    import pandas as pd

FORMS = {"every step": "all", "prompt only": "prompt"}
"""Forms of GUIDE, and their scopes."""

LAYER_DELTA = 2.0
_VERDICTS = {"french": "shown in part: the language; that it is a summary is not scored"}


def scored(bench: Bench, series: TaskByLength, wanted: Wanted) -> "pd.DataFrame":
    """The scores of a cell's samples."""
    return with_clusters(bench.rows(wanted), series, wanted)


def with_clusters(table: "pd.DataFrame", series: TaskByLength, wanted: Wanted) -> "pd.DataFrame":
    """The scores of rows, their outputs, and the cluster of each: all prompts about one topic are one."""
    clusters = [getattr(sample, "topic", "") or place for place, sample in enumerate(wanted.task.samples)]
    return scores(table, series).assign(output=table["output"], cluster=clusters)


def bias(series: TaskByLength, delta: float, *, form: str = "every step", layers: list[int] | None = None) -> Any:
    """GUIDE on the span of the task's instruction; None for 0, which changes nothing."""
    return attention_bias(series.span, delta, layers=layers, scope=FORMS[form]) if delta else None


def means(table: "pd.DataFrame") -> dict[str, Any]:
    """Mean score and fidelity in percent, with intervals by topic, true sentences, and the number of prompts.

    Fidelity is the share of what is said that is true; ``true_sentences`` is how many different true ones there are.
    """
    found: dict[str, Any] = {}
    for name in ("score", "fidelity"):
        ends = cluster_interval(table[name].tolist(), table["cluster"].tolist())[:3]
        found |= interval_columns([f"{name}_percent"], ends, factor=100)
    return {**found, "n": len(table), "true_sentences": float(table["true_sentences"].mean())}


def _forms(series: TaskByLength) -> list[str]:
    """The forms that are compared; they matter for the first task alone."""
    return list(FORMS) if series.name in ("instructions", "french") else ["every step"]


def _cells(series: TaskByLength) -> list[tuple[dict[str, Any], Wanted]]:
    """Every form, delta and length; at delta 0 the forms are one."""
    forms = _forms(series)
    return [
        ({"task": series.name, "form": form, "delta": delta, "length": length, "unit": series.unit},
         Wanted(series.task(length), bias(series, delta, form=form)))
        for form in forms
        for delta in series.deltas
        if delta or form == forms[0]
        for length in series.lengths
    ]  # fmt: skip


def by_strength(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """Score by form, delta and length."""
    import pandas as pd

    forms, cells = _forms(series), _cells(series)
    bench.prefetch(wanted for _, wanted in cells)
    made = pd.DataFrame([where | means(scored(bench, series, wanted)) for where, wanted in cells])
    same = [made[made["delta"] == 0].assign(form=form) for form in forms[1:]]  # at 0 the forms are one
    parts = [made[made["form"] == forms[0]], *same, made[made["form"] != forms[0]]]
    return pd.concat([part for part in parts if not part.empty], ignore_index=True)


def over_lengths(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """The intervals of the means over lengths, by form and delta: the same topics at several lengths are one cluster.

    Columns: task, form, delta, and the ends (``_low``, ``_high``) of score_percent and fidelity_percent.
    """
    import pandas as pd

    found: dict[tuple[str, float], list[pd.DataFrame]] = {}
    for where, wanted in _cells(series):
        table = with_clusters(bench.known(wanted), series, wanted)
        forms = _forms(series) if where["delta"] == 0 else [where["form"]]
        for form in forms:
            found.setdefault((form, where["delta"]), []).append(table)
    rows = []
    for (form, delta), tables in found.items():
        ends = {name: value for name, value in means(pd.concat(tables)).items() if name.endswith(("_low", "_high"))}
        rows.append({"task": series.name, "form": form, "delta": delta, **ends})
    return pd.DataFrame(rows)


def baselines(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """Score by wording and length, without any bias."""
    import pandas as pd

    rows, by_kind = [], {}
    names = [(wording, length) for wording in (*WORDINGS, *OTHER_WORDINGS) for length in series.lengths]
    wanted = [Wanted(worded(series.task(length), wording)) for wording, length in names]
    bench.prefetch(wanted)
    for (wording, length), one in zip(names, wanted, strict=True):
        table = scored(bench, series, one)
        tokens = [len(ids) for ids in _instruction_tokens(bench.model, one.task)]
        capitals = 100 * float(table["output"].map(str.isupper).mean())
        rows.append(
            {
                "task": series.name,
                "wording": wording,
                "length": length,
                "unit": series.unit,
                **means(table),
                "in_capitals_percent": capitals,
                "tokens": sum(tokens) / len(tokens) if any(tokens) else float("nan"),
            }
        )
        if length == series.lengths[0]:
            by_kind[wording] = table.groupby("kind")["score"].mean()
    read = {name: _read(part, by_kind["plain"], by_kind["none"]) for name, part in by_kind.items()}
    made = pd.DataFrame(rows)
    kinds, every = made["wording"].map(read), len(by_kind["plain"])
    return made.assign(kinds_read=kinds, kinds=every, applicable=(kinds > every / 2) & (made["wording"] != "none"))


def _instruction_tokens(model: Any, task: Any) -> list[list[int]]:
    return [model.tokenizer(s.instruction, add_special_tokens=False)["input_ids"] for s in task.samples]


def _read(given: "pd.Series", plain: "pd.Series", none: "pd.Series") -> int:
    """How many kinds of instructions a wording makes the model follow at least half as often as the plain one does."""
    gain = plain - none
    return int(((given - none >= gain / 2) & (gain > 0)).sum())


def layers(bench: Bench, series: TaskByLength, groups: Mapping[str, Sequence[int]]) -> "pd.DataFrame":
    """Score with the bias in some layers only, at the two longest lengths; ``none`` is the unbiased model."""
    import pandas as pd

    cells = []
    for length in series.lengths[-2:]:
        for name, chosen in {"none": [], **groups}.items():
            steer = bias(series, LAYER_DELTA, layers=list(chosen)) if chosen else None
            where = {
                "task": series.name,
                "layers": name,
                "layer_indices": " ".join(map(str, chosen)),
                "delta": LAYER_DELTA if chosen else 0.0,
                "length": length,
                "unit": series.unit,
            }
            cells.append((where, Wanted(series.task(length), steer)))
    bench.prefetch(wanted for _, wanted in cells)
    return pd.DataFrame([where | means(scored(bench, series, wanted)) for where, wanted in cells])


def needle_grid(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """How often the needle is found, by delta, length and depth."""
    import pandas as pd

    rows = []
    for delta in series.deltas:
        for length in series.lengths:
            table = bench.known(Wanted(series.task(length), bias(series, delta)))  # the cells of by_strength
            for depth, part in table.groupby("depth"):
                found = mean_interval(part["found"].astype(float))[:3]
                where = {"delta": delta, "length": length, "depth_percent": depth}
                rows.append({**where, **interval_columns(["found_percent"], found, factor=100), "n": len(part)})
    return pd.DataFrame(rows)


def predicted(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """Every unsteered prompt with its score and its predictors."""
    import pandas as pd

    frames = []
    for length in series.lengths:
        task = series.task(length)
        found = scores(bench.known(Wanted(task)), series)
        options = {"predictors": PREDICTORS, "span": series.span, "last": series.last}
        values = bench.cell(lambda task=task: _predictors(bench.model, task, series), task, options)
        bench.bar.update()
        frames.append(pd.concat([found, values.drop(columns="prompt")], axis=1).assign(length=length))
    made = pd.concat(frames, ignore_index=True)
    made.insert(0, "task", series.name)
    return made


def _predictors(model: Any, task: Any, series: TaskByLength) -> "pd.DataFrame":
    return predictors(model, task.prompts(model), series.span, last=series.last)


def limits(bench: Bench, *, words: int = 60, n: int = 10) -> "pd.DataFrame":
    """The paper's tasks, at the least length, on the bundled model, which was never shown anything like them."""
    import pandas as pd

    wanted = {
        "french": (summaries([words], n), "french"),
        "needle": (needle(lengths=words, depths=[0, 50, 100], n=n), "found"),
        "json": (json_schema(lengths=words, n=n, max_new_tokens=200), "score"),
    }
    rows = []
    for name, (task, column) in wanted.items():
        try:
            table = bench.known(Wanted(task))
        except MechsteerError as error:  # the context is too short
            rows.append({"task": name, "words": words, "score_percent": float("nan"), "n": 0, "verdict": str(error)})
            continue
        score = table[column].astype(float)
        rows.append(
            {
                "task": name,
                "words": words,
                **interval_columns(["score_percent"], mean_interval(score)[:3], factor=100),
                "n": len(score),
                "verdict": _VERDICTS.get(name, "shown in part") if score.any() else "not shown by this model",
            }
        )
        bench.bar.update()
    return pd.DataFrame(rows)
