"""The measured parts of the study of GUIDE: cells of tasks, and tables of means with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.bootstrap import mean_interval
from mechsteer.errors import MechsteerError
from mechsteer.identity import cell_key
from mechsteer.steering import Intervention, attention_bias
from mechsteer.studies.core.cells import cell, evaluated
from mechsteer.studies.guide.predict import PREDICTORS, predictors
from mechsteer.studies.guide.tasks import OTHER_WORDINGS, WORDINGS, Subject, scores, worded
from mechsteer.tasks import json_schema, needle
from mechsteer.tasks.summaries import summaries

if TYPE_CHECKING:
    import pandas as pd

FORMS = {"every step": "all", "prompt only": "prompt"}
"""Forms of GUIDE, and their scopes."""

LAYER_DELTA = 2.0
_VERDICTS = {"french": "shown in part: the language; that it is a summary is not scored"}


@dataclass
class Work:
    """What every cell needs."""

    model: Any
    folder: Path
    batch_size: int
    bar: Any
    n: int

    def task(self, subject: Subject, length: int) -> Any:
        """The task of a length."""
        return subject.make(length, self.n)

    def scores(self, subject: Subject, task: Any, steer: Intervention | None = None) -> "pd.DataFrame":
        """The scores of a task's samples under an intervention, computed once."""
        table = evaluated(self.folder, self.model, task, steer, batch_size=self.batch_size)
        self.bar.update()
        return scores(table, subject).assign(output=table["output"])


def bias(subject: Subject, delta: float, *, form: str = "every step", layers: list[int] | None = None) -> Any:
    """GUIDE on the subject's span; None for 0, which changes nothing."""
    return attention_bias(subject.span, delta, layers=layers, scope=FORMS[form]) if delta else None


def means(table: "pd.DataFrame") -> dict[str, Any]:
    """Mean score and fidelity in percent, with intervals, and the number of prompts."""
    found: dict[str, Any] = {}
    for name in ("score", "fidelity"):
        ends = mean_interval(torch.tensor(table[name].to_numpy(dtype=float)))
        for label, value in zip(("percent", "percent_low", "percent_high"), ends, strict=True):
            found[f"{name}_{label}"] = 100 * float(value)
    return {**found, "n": len(table)}


def by_strength(work: Work, subject: Subject) -> "pd.DataFrame":
    """Score by form, delta and length; the form matters for the first task alone."""
    import pandas as pd

    rows = []
    forms = list(FORMS) if subject.name in ("instructions", "french") else ["every step"]
    for form in forms:
        for delta in subject.deltas:
            if not delta and form != forms[0]:
                continue
            for length in subject.lengths:
                table = work.scores(subject, work.task(subject, length), bias(subject, delta, form=form))
                cells = {"task": subject.name, "form": form, "delta": delta, "length": length, "unit": subject.unit}
                rows.append({**cells, **means(table)})
    made = pd.DataFrame(rows)
    same = [made[made["delta"] == 0].assign(form=form) for form in forms[1:]]  # at 0 the forms are one
    parts = [made[made["form"] == forms[0]], *same, made[made["form"] != forms[0]]]
    return pd.concat([part for part in parts if not part.empty], ignore_index=True)


def baselines(work: Work, subject: Subject) -> "pd.DataFrame":
    """Score by wording and length, without any bias."""
    import pandas as pd

    rows, by_kind = [], {}
    for wording in (*WORDINGS, *OTHER_WORDINGS):
        for length in subject.lengths:
            task = worded(work.task(subject, length), wording)
            table = work.scores(subject, task)
            tokens = [len(ids) for ids in _instruction_tokens(work.model, task)]
            capitals = 100 * float(table["output"].map(str.isupper).mean())
            rows.append(
                {
                    "task": subject.name,
                    "wording": wording,
                    "length": length,
                    "unit": subject.unit,
                    **means(table),
                    "in_capitals_percent": capitals,
                    "tokens": sum(tokens) / len(tokens) if any(tokens) else float("nan"),
                }
            )
            if length == subject.lengths[0]:
                by_kind[wording] = table.groupby("kind")["score"].mean()
    read = {name: _read(scored, by_kind["plain"], by_kind["none"]) for name, scored in by_kind.items()}
    made = pd.DataFrame(rows)
    kinds, of = made["wording"].map(read), len(by_kind["plain"])
    return made.assign(kinds_read=kinds, kinds=of, applicable=(kinds > of / 2) & (made["wording"] != "none"))


def _instruction_tokens(model: Any, task: Any) -> list[list[int]]:
    return [model.tokenizer(s.instruction, add_special_tokens=False)["input_ids"] for s in task.samples]


def _read(scored: "pd.Series", plain: "pd.Series", none: "pd.Series") -> int:
    """How many kinds of instructions a wording makes the model follow at least half as often as the plain one does."""
    gain = plain - none
    return int(((scored - none >= gain / 2) & (gain > 0)).sum())


def layers(work: Work, subject: Subject, groups: Mapping[str, Sequence[int]]) -> "pd.DataFrame":
    """Score with the bias in some layers only, at the two longest lengths; ``none`` is the unbiased model."""
    import pandas as pd

    rows = []
    for length in subject.lengths[-2:]:
        task = work.task(subject, length)
        for name, chosen in {"none": [], **groups}.items():
            steer = bias(subject, LAYER_DELTA, layers=list(chosen)) if chosen else None
            rows.append(
                {
                    "task": subject.name,
                    "layers": name,
                    "layer_indices": " ".join(map(str, chosen)),
                    "delta": LAYER_DELTA if chosen else 0.0,
                    "length": length,
                    "unit": subject.unit,
                    **means(work.scores(subject, task, steer)),
                }
            )
    return pd.DataFrame(rows)


def needle_grid(work: Work, subject: Subject) -> "pd.DataFrame":
    """How often the needle is found, by delta, length and depth."""
    import pandas as pd

    rows = []
    for delta in subject.deltas:
        for length in subject.lengths:
            task = work.task(subject, length)
            table = evaluated(
                work.folder, work.model, task, bias(subject, delta), batch_size=work.batch_size
            )  # the cells of by_strength
            for depth, part in table.groupby("depth"):
                low, high = (100 * float(end) for end in mean_interval(torch.tensor(part["found"].to_numpy(float)))[1:])
                rows.append(
                    {
                        "delta": delta,
                        "length": length,
                        "depth_percent": depth,
                        "found_percent": 100 * float(part["found"].mean()),
                        "found_percent_low": low,
                        "found_percent_high": high,
                        "n": len(part),
                    }
                )
    return pd.DataFrame(rows)


def predicted(work: Work, subject: Subject) -> "pd.DataFrame":
    """Every unsteered prompt with its score and its predictors."""
    import pandas as pd

    frames = []
    for length in subject.lengths:
        task = work.task(subject, length)
        found = scores(evaluated(work.folder, work.model, task, batch_size=work.batch_size), subject)
        options = {"predictors": PREDICTORS, "span": subject.span, "last": subject.last}
        key = cell_key(work.model, task, options=options)
        values = cell(work.folder, key, lambda task=task: _predictors(work.model, task, subject))
        work.bar.update()
        frames.append(pd.concat([found, values.drop(columns="prompt")], axis=1).assign(length=length))
    made = pd.concat(frames, ignore_index=True)
    made.insert(0, "task", subject.name)
    return made


def _predictors(model: Any, task: Any, subject: Subject) -> "pd.DataFrame":
    return predictors(model, task.prompts(model), subject.span, last=subject.last)


def limits(work: Work, *, words: int = 60, n: int = 10) -> "pd.DataFrame":
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
            table = evaluated(work.folder, work.model, task, batch_size=work.batch_size)
        except MechsteerError as error:  # the context is too short
            rows.append({"task": name, "words": words, "score_percent": float("nan"), "n": 0, "verdict": str(error)})
            continue
        score = table[column].astype(float)
        rows.append(
            {
                "task": name,
                "words": words,
                "score_percent": 100 * float(score.mean()),
                "n": len(score),
                "verdict": _VERDICTS.get(name, "shown in part") if score.any() else "not shown by this model",
            }
        )
        work.bar.update()
    return pd.DataFrame(rows)
