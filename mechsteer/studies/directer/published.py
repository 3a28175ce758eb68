"""DIRECTER's published numbers, and ours of the same kind in a column of their own."""

from typing import TYPE_CHECKING, Any

from mechsteer.studies.core.published import published

if TYPE_CHECKING:
    import pandas as pd

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
"""The paper's main model."""

_MAIN = {
    "zero-shot": ("zero-shot", "", None),
    "*-marked instruction": ("*-marked instruction", "", None),
    "pasta (alpha 0.01)": ("pasta", "paper", 0.01),
    "pasta (alpha 0.1)": ("pasta", "paper", 0.1),
    "spotlight (psi 0.3)": ("spotlight", "paper", 0.3),
    "spotlight (psi 0.1)": ("spotlight", "paper", 0.1),
    "directer": ("directer", "paper", 0.5),
    "few-shot": ("few-shot", "", None),
}
_COLUMNS = {
    ("gsm8k-format", "format accuracy"): "adherence",
    ("gsm8k-format", "task accuracy"): "fidelity",
    ("gsm8k-format", "mean"): "average",
    ("ifeval", "mean"): "adherence",
    ("lifbench", "mean"): "adherence",
    ("all seven columns", "mean"): "average",
}
"""Which of our measures asks most nearly what a published one does."""


def beside(
    name: str, summary: "pd.DataFrame", ablation: "pd.DataFrame", gate: "pd.DataFrame", cost: "pd.DataFrame"
) -> "pd.DataFrame":
    """Published numbers and ours of the same variant, never in one column.

    Args:
        name: Our model's name.
        summary: The study's table, at the number of notes that the other tables have.
        ablation: The study's table.
        gate: The study's table.
        cost: The study's table.

    Returns:
        Columns: part, variant, published_measure, published, unit, published_model, source; our_measure, ours,
        our_model, same_model. The numbers of different models and tasks are not to be compared, their order may be.
    """
    import pandas as pd

    rows = [*_main(summary), *_models(summary), *_quality(summary), *_ablation(ablation), *_gate(gate), *_cost(cost)]
    made = pd.DataFrame(rows).dropna(subset="published").reset_index(drop=True)
    return made.assign(our_model=name, same_model=made["published_model"] == name)


def _row(part: str, variant: str, measure: str, value: float, source: str, ours: tuple[str, float]) -> dict[str, Any]:
    return {
        "part": part,
        "variant": variant,
        "published_measure": measure,
        "published": value,
        "unit": "%",
        "published_model": MODEL,
        "source": source,
        "our_measure": ours[0],
        "ours": ours[1],
    }


def _main(summary: "pd.DataFrame") -> list[dict[str, Any]]:
    rows = []
    for line in published("directer_main").to_dict("records"):
        measure = _COLUMNS.get((line["benchmark"], line["metric"]))
        if measure is None or line["method"] not in _MAIN:
            continue
        ours = _ours(summary, line["method"], measure)
        label = f"{line['benchmark']}, {line['metric']}"
        rows.append(_row("main", line["method"], label, line["percent"], line["source"], (f"{measure} (%)", ours)))
    return rows


def _ours(summary: "pd.DataFrame", name: str, measure: str) -> float:
    """Our mean of a measure under a method at the paper's strength; NaN where it was not run."""
    method, setting, strength = _MAIN[name]
    part = summary[(summary["method"] == method) & (summary["setting"] == setting)]
    part = part if strength is None else part[part["strength"] == strength]
    return float(part[f"{measure}_percent"].iloc[0]) if len(part) else float("nan")


def _models(summary: "pd.DataFrame") -> list[dict[str, Any]]:
    """Table 2: other models of the paper, each row by its own."""
    return [
        _row("models", line["method"], "ifeval, mean", line["ifeval_mean_percent"], line["source"],
             ("adherence (%)", _ours(summary, line["method"], "adherence"))) | {"published_model": line["model"]}
        for line in published("directer_models").to_dict("records")
    ]  # fmt: skip


def _quality(summary: "pd.DataFrame") -> list[dict[str, Any]]:
    """Judges of the answers: what is asked of them is nearest to our fidelity."""
    rows = []
    for line in published("directer_quality").to_dict("records"):
        ours = ("fidelity (%)", _ours(summary, line["method"], "fidelity"))
        label = f"{line['measure']}, {line['judge']}"
        row = _row("quality", line["method"], label, line["value"], line["source"], ours)
        rows.append(row | {"unit": "of 5" if line["measure"] == "text quality" else "%"})
    return rows


def _ablation(ablation: "pd.DataFrame") -> list[dict[str, Any]]:
    table = ablation.set_index("variant")
    return [
        _row("ablation", line["variant"], *_said(line), (f"{measure} (%)", float(table[column][line["variant"]])))
        for line in _experiment("layer ranking")
        for measure, column in _BOTH.items()
    ]


def _gate(gate: "pd.DataFrame") -> list[dict[str, Any]]:
    first = gate.groupby(["method", "gate"]).first()  # without the gate: at the strongest
    rows = []
    for line in _experiment("plausibility filter on other methods"):
        method, _, under = line["variant"].partition(" + ")
        for measure, column in _BOTH.items():
            ours = (f"{measure} (%)", float(first[column][method, bool(under)]))
            rows.append(_row("gate", line["variant"], *_said(line), ours))
    return rows


_BOTH = {"adherence": "adherence_percent", "average": "average_percent"}
"""IFEval asks for adherence alone, and loses it where a text collapses; ours need not, so the average stands by."""


def _experiment(name: str) -> list[dict[str, Any]]:
    paper = published("directer_ablation")
    return paper[paper["experiment"] == name].to_dict("records")  # pyright: ignore[reportReturnType]


def _said(line: dict[str, Any]) -> tuple[str, float, str]:
    return f"{line['benchmark']}, {line['metric']}", line["percent"], line["source"]


_COST = {
    "time to first token": ("first_token_ms", 1e-3, "s"),
    "throughput, relative to zero-shot": ("tokens_per_second_times", None, "%"),
    "latency per token, relative to zero-shot": ("token_ms_times", None, "%"),
    "mean output length": ("tokens", 1.0, "tokens"),
    "normalised tokens per second": ("tokens_per_second_times", 100.0, "zero-shot = 100"),
}


def _cost(cost: "pd.DataFrame") -> list[dict[str, Any]]:
    table, rows = cost.set_index("method"), []
    for line in published("directer_cost").to_dict("records"):
        if line["measure"] not in _COST or line["method"] not in table.index:
            continue
        column, scale, unit = _COST[line["measure"]]
        value = float(table[column][line["method"]])
        ours = 100 * (value - 1) if scale is None else scale * value
        row = _row("cost", line["method"], line["measure"], line["value"], line["source"], (f"{column} ({unit})", ours))
        rows.append(row | {"unit": unit})
    return rows
