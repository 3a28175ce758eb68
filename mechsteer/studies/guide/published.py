"""GUIDE's published numbers, beside ours or as a reference."""

from typing import TYPE_CHECKING

from mechsteer.studies.core.published import published

if TYPE_CHECKING:
    import pandas as pd

MODEL = "mistralai/Mistral-7B-Instruct-v0.1"
"""The paper's main model: the reference for models that it does not have."""

SAME = {"instructions": "french"}
"""The paper's task that is most like one of ours, where the names differ."""

_SERIES = {
    "french": ("guide_french_by_length", "success_rate"),
    "needle": ("guide_needle_by_length", "success_rate"),
    "json": ("guide_json_by_length", "score"),
}


def reference(name: str) -> "pd.DataFrame":
    """The published series by length and strength, in one table; ``this_model`` marks the rows of this model.

    Columns: task, model, method, delta, tokens_from, tokens_to (the same for a single length), percent, source,
    this_model.
    """
    import pandas as pd

    frames = []
    for task, (series, column) in _SERIES.items():
        table = published(series)
        if "tokens_from" not in table:
            table = table.assign(tokens_from=table["tokens"], tokens_to=table["tokens"])
        if "method" not in table:
            table = table.assign(method=["guide" if delta else "raw" for delta in table["delta"]])
        kept = table[["model", "method", "delta", "tokens_from", "tokens_to", "source"]]
        frames.append(kept.assign(task=task, percent=100 * table[column]))
    made = pd.concat(frames, ignore_index=True)
    order = ["task", "model", "method", "delta", "tokens_from", "tokens_to", "percent", "source"]
    return made[order].assign(this_model=made["model"] == name)


def beside(strength: "pd.DataFrame", name: str) -> "pd.DataFrame":
    """Means over lengths by task, form and delta, beside the published mean over lengths of the same delta.

    ``published_model`` says whose numbers they are: this model's where the paper has it, else those of ``MODEL``, which
    are a reference and not to be compared. ``published_percent`` is our mean over the series' lengths;
    ``printed_percent`` is the mean that the authors' notebook prints, and ``headline_percent`` the paper's own figure
    of that delta (its abstract's, where there is one), which is another average than either.
    """
    groups = strength.groupby(["task", "form", "delta"], sort=False)
    made = groups[["score_percent", "fidelity_percent"]].mean().assign(n=groups["n"].sum()).reset_index()
    series = reference(name)
    series = series[(series["method"] != "uppercase") & series["percent"].notna()]
    values, models = [], []
    for row in made.to_dict("records"):
        part = series[(series["task"] == SAME.get(row["task"], row["task"])) & (series["delta"] == row["delta"])]
        chosen = part[part["this_model"]] if part["this_model"].any() else part[part["model"] == MODEL]
        values.append(chosen["percent"].mean())
        models.append("" if chosen.empty else str(chosen["model"].iloc[0]))
    made = made.assign(published_percent=values, published_model=models)
    return made.assign(printed_percent=_said(made, "guide_french"), headline_percent=_said(made, "guide_summary"))


def _said(table: "pd.DataFrame", name: str) -> list[float]:
    """Of each row, the number of the same task, model and delta in a table of single numbers; NaN where none is."""
    paper = published(name)
    column = "score" if "score" in paper else "success_rate"
    tasks = paper["task"] if "task" in paper else ["french"] * len(paper)
    plain = paper["method"].ne("uppercase") if "method" in paper else [True] * len(paper)
    deltas = paper["delta"].fillna(0.0)
    rows = zip(tasks, paper["model"], deltas, plain, paper[column], strict=True)
    known = {(task, model, float(delta)): 100 * value for task, model, delta, kept, value in rows if kept}
    keys = zip(table["task"], table["published_model"], table["delta"], strict=True)
    return [known.get((SAME.get(task, task), model, float(delta)), float("nan")) for task, model, delta in keys]
