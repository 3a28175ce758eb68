"""The paper's numbers, and ours of the same kind in a column of their own.

Models, prompts and instructions differ (the paper's are IFEval's), so the numbers are not to be compared; what steering
changes, and in which order, may be. ``published`` has those of the study's own model, where the paper has it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer.studies.core.published import published
from mechsteer.studies.instruction_vectors.bench import WITH, WITHOUT

if TYPE_CHECKING:
    import pandas as pd

_SETTINGS = {"without_instruction": WITHOUT.name, "with_instruction": WITH.name}
_STATES = {"none": "unsteered", "steered": "steered"}


def reference(tables: "Mapping[str, pd.DataFrame]") -> "pd.DataFrame":
    """Published numbers by part, beside the study's.

    Returns:
        Columns: part, variant, published_measure, published (percent; quality too, as shares of "yes"; cosines and
        words as they are), published_model, published_n, source; our_measure, ours (NaN where the study has none).
    """
    import pandas as pd

    parts = (_format, _quality, _change, _words, _exclusion, _length, _composition, _transfer, _shortened, _cosine)
    return pd.DataFrame([row for part in parts for row in part(tables)])


def _row(part: str, line: Mapping[Any, Any], variant: str, measure: str, value: float, ours: tuple[str, Any]) -> dict:
    return {
        "part": part,
        "variant": variant,
        "published_measure": measure,
        "published": value,
        "published_model": line["model"],
        "published_n": line.get("n", float("nan")),
        "source": line["source"],
        "our_measure": ours[0],
        "ours": float("nan") if ours[1] is None else float(ours[1]),
    }


def _lines(name: str) -> list[dict[Any, Any]]:
    return published(name).to_dict("records")


def _one(tables: "Mapping[str, pd.DataFrame]", name: str, column: str, **where: Any) -> float | None:
    """The mean of a column over the rows of a table that are so; None where there are none."""
    table = tables.get(name)
    if table is None or column not in table:
        return None
    for key, value in where.items():
        table = table[table[key] == value]
    return None if table.empty else float(table[column].mean())


def _format(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    rows = []
    for line in _lines("steer_instruct_format"):
        if line["scoring"] == "loose":
            setting, state = _SETTINGS[line["setting"]], _STATES[line["method"]]
            ours = _one(tables, "summary", f"adherence_{state}_percent", setting=setting, over="all kinds")
            variant = f"{setting}, {state}"
            rows.append(
                _row("format", line, variant, "accuracy, loose (%)", line["accuracy_percent"], ("adherence (%)", ours))
            )
    return rows


def _quality(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    rows = []
    for line in _lines("steer_instruct_quality"):
        setting, state = _SETTINGS[line["setting"]], _STATES[line["method"]]
        ours = _one(tables, "summary", f"fidelity_{state}_percent", setting=setting, over="all kinds")
        value = 100 * line["quality"]
        rows.append(_row("quality", line, f"{setting}, {state}", "judged quality (%)", value, ("fidelity (%)", ours)))
    return rows


def _words(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    rows = []
    for line in _lines("steer_instruct_words"):
        setting, state = _SETTINGS[line["setting"]], _STATES[line["method"]]
        ours = _one(tables, "words", "adherence_percent", task=line["task"], setting=setting, row=state)
        variant = f"{line['task']}, {setting}, {state}"
        rows.append(_row("words", line, variant, "accuracy (%)", 100 * line["accuracy"], ("adherence (%)", ours)))
    return rows


def _length(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    """At most and exactly n sentences, with the instruction."""
    vectors = {"conciseness": "conciseness", "length-specific": "own length"}
    rows = []
    for line in _lines("steer_instruct_length"):
        constraint, count = line["constraint"], line["sentences"]
        where = {"unit": "sentences", "constraint": constraint, "count": count, "setting": WITH.name}
        ours = _one(tables, "lengths", "adherence_percent", **where, vector=vectors.get(line["vector"], "none"))
        variant = f"{constraint} {count} sentences, {_STATES[line['method']]}"
        measure = "accuracy, with the instruction (%)"
        rows.append(_row("length", line, variant, measure, 100 * line["accuracy"], (measure, ours)))
    return rows


def _exclusion(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    """Without steering, and the best coefficient of the sweep: ours are in other units."""
    mine, rows = tables.get("exclusion"), []
    lines = published("steer_instruct_words_sweep").sort_values("accuracy", kind="stable")
    for theirs, part in lines.groupby("setting", sort=False):
        here = None if mine is None or mine.empty else mine[mine["setting"] == _SETTINGS[str(theirs)]]
        plain, top = part[part["coefficient"] == 0].iloc[0], part.iloc[-1]
        for name, line in (("unsteered", plain), ("best coefficient", top)):
            ours = None
            if here is not None and len(here):
                values = here["adherence_percent"]
                ours = float(values[here["step"] == 0].iloc[0] if name == "unsteered" else values.max())
            variant = f"exclusion, {_SETTINGS[str(theirs)]}, {name}"
            measure = ("adherence (%)", ours)
            rows.append(_row("exclusion", line.to_dict(), variant, "accuracy (%)", 100 * line["accuracy"], measure))
    return rows


def _change(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    """What steering takes from the quality of answers that are steered to a format."""
    rows = []
    for line in _lines("steer_instruct_quality_delta"):
        setting = _STEERED.get(line["change"])
        if line["task"] == "format" and setting is not None:
            ours = _one(tables, "summary", "fidelity_change_pp", setting=setting, over="all kinds")
            value, measure = 100 * line["quality_delta"], ("change of fidelity (points)", ours)
            rows.append(_row("change", line, line["change"], "change of judged quality (points)", value, measure))
    return rows


_STEERED = {
    "steering without the instruction": WITHOUT.name,
    "steering with the instruction": WITH.name,
}


def _shortened(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    """Words of the base model's answers, without steering and at the strongest coefficient."""
    rows = []
    lines, mine = _lines("steer_instruct_cross_model_length"), tables.get("shortened")
    for name, line, place in (("unsteered", lines[0], 0), ("strongest coefficient", lines[-1], -1)):
        ours = None if mine is None else float(mine["words_median"].iloc[place])
        variant, measure = f"base model, {name}", ("median words", ours)
        rows.append(_row("shortened", line, variant, "median words", line["median_words"], measure))
    return rows


def _composition(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    ends = {"format + length": ("length", {"format": "first", "length": "second", "both": "both"})}
    ends["lowercase + word exclusion"] = ("exclusion", {"casing": "first", "word": "second", "both": "both"})
    table, rows = tables.get("composition"), []
    for line in _lines("steer_instruct_composition"):
        end, columns = ends[line["experiment"]]
        setting, row = _SETTINGS[line["setting"]], {"none": "unsteered", "steered": "both"}[line["method"]]
        ours = None
        if table is not None and line["measure"] in columns:
            mine = {"composition": table[table["pair"].str.endswith(f"+ {end}")]}
            ours = _one(mine, "composition", f"{columns[line['measure']]}_percent", setting=setting, row=row)
        variant = f"{line['experiment']}, {setting}, {row}"
        measure = f"{line['measure']} (%)"
        rows.append(_row("composition", line, variant, measure, 100 * line["accuracy"], (measure, ours)))
    return rows


def _transfer(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    vectors = {"none": "none", "same-model vector": "own", "cross-model vector": "tuned"}
    rows = []
    for line in _lines("steer_instruct_cross_model"):
        setting, vector = _SETTINGS[line["setting"]], vectors[line["method"]]
        ours = _one(tables, "transfer", "adherence_percent", share=0.0, setting=setting, kind="all", vector=vector)
        variant = f"base model, {setting}, {line['method']}"
        rows.append(
            _row("transfer", line, variant, "accuracy, loose (%)", line["accuracy_percent"], ("adherence (%)", ours))
        )
    return rows


def _cosine(tables: "Mapping[str, pd.DataFrame]") -> list[dict]:
    """Of the paper's 32 layers; ours are at the same share of the depth, mean over kinds."""
    names = {
        "different query, same instruction": "same instruction, different query",
        "same query, with and without instruction": "same query, with and without",
        "different query, no instruction": "different queries",
    }
    mine, rows = tables.get("cosine"), []
    for line in _lines("steer_instruct_cosine"):
        ours, layer = None, -1
        if mine is not None:
            layer = round(line["layer"] / 31 * mine["layer"].max())
            relation = names[line["comparison"]]
            ours = _one(tables, "cosine", "cosine", layer=layer, relation=relation)
        variant = f"{line['instruction']}, {line['comparison']}, layer {line['layer']}"
        rows.append(
            _row("cosine", line, variant, "cosine", line["cosine"], (f"cosine, layer {layer}, mean over kinds", ours))
        )
    return rows
