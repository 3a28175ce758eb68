"""From rows of evaluations to the tables."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.stats import clustered_interval, holm, mean_interval
from mechsteer.tasks import IFEval
from mechsteer.tasks.ifeval import followed

if TYPE_CHECKING:
    import pandas as pd


def shares(rows: "pd.DataFrame") -> dict[str, float]:
    """Prompt level, strict and loose, and collapsed answers, as shares: what settings are chosen by."""
    return {
        "n": len(rows),
        "prompt_strict": float(rows["strict"].mean()),
        "prompt_loose": float(rows["loose"].mean()),
        "collapsed": float(rows["collapsed"].mean()),
    }


def differences(before: "pd.DataFrame", after: "pd.DataFrame", column: str) -> list[float]:
    """A column of truth values after minus before, for each prompt of ``after``, whatever the order of the rows."""
    first, second = (table.set_index(["key", "prompt"])[column].astype(float) for table in (before, after))
    return list(second - first.reindex(second.index))


def summary(
    rows: "pd.DataFrame", settings: Mapping[str, Sequence[float]], seconds: Mapping[str, float]
) -> "pd.DataFrame":
    """One row a method.

    Args:
        rows: The rows of all methods, told apart by the column ``name``; the first is what others are compared with.
        settings: What was chosen for each half of the prompts; nothing for ways to ask.
        seconds: How long each method's answers took; NaN where they were not made in this run.

    Returns:
        name, settings, n, then in percent with 95 % intervals: prompt_strict, prompt_loose (Wilson) and
        instruction_strict, instruction_loose (the same with the prompts as independent samples, however many
        instructions they have); repaired and broken (prompts, loose), p_value (exact McNemar) and p_adjusted (Holm);
        collapsed, empty and truncated in percent; uncollapsed_loose_percent (of the answers that did not collapse; NaN
        where all did); n_tokens, repetition, surprise (means); seconds_ratio.
    """
    import pandas as pd

    names = list(dict.fromkeys(rows["name"]))
    first = rows[rows["name"] == names[0]]
    made = [_row(name, rows[rows["name"] == name], first, settings.get(name, ())) for name in names]
    for row in made:
        row["seconds_ratio"] = seconds[row["name"]] / seconds[names[0]] if seconds[names[0]] else math.nan
    table = pd.DataFrame(made)
    adjusted = holm([math.nan, *table["p_value"].iloc[1:]])
    table["p_value"] = [math.nan, *table["p_value"].iloc[1:]]
    table.insert(table.columns.get_loc("p_value") + 1, "p_adjusted", adjusted)  # type: ignore[arg-type]
    return table


def _row(name: str, rows: "pd.DataFrame", first: "pd.DataFrame", settings: Sequence[float]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "settings": ", ".join(f"{s:g}" for s in dict.fromkeys(settings)),
        "n": len(rows),
    }
    for form in ("strict", "loose"):
        found = mean_interval(rows[form].astype(float))
        made |= percent(f"prompt_{form}", found.mean, found.low, found.high)
        done, asked = int(rows[f"n_{form}"].sum()), int(rows["n_instructions"].sum())
        made |= percent(f"instruction_{form}", done / asked, *clustered_interval(done, asked, len(rows)))
    change = differences(first, rows, "loose")
    repaired, broken = sum(d > 0 for d in change), sum(d < 0 for d in change)
    made |= {"repaired": repaired, "broken": broken, "p_value": exact_p(repaired, broken)}
    made |= {name: 100 * float(rows[name].astype(float).mean()) for name in ("collapsed", "empty", "truncated")}
    made["uncollapsed_loose_percent"] = 100 * float(rows.loc[~rows["collapsed"].astype(bool), "loose"].mean())
    return made | {name: float(rows[name].astype(float).mean()) for name in ("n_tokens", "repetition", "surprise")}


def percent(name: str, *shares: float) -> dict[str, float]:
    """A share and its ends as columns in percent."""
    ends = ("percent", "low", "high")
    return {f"{name}_{end}": 100 * share for end, share in zip(ends, shares, strict=True)}


def by_instruction(rows: "pd.DataFrame", task: IFEval) -> "pd.DataFrame":
    """For each method and instruction, how often it was followed: name, instruction, n, strict and loose with ends."""
    import pandas as pd

    samples = {(sample.key, sample.prompt): sample for sample in task.samples}
    each = []
    for row in rows.to_dict("records"):
        sample = samples[row["key"], row["prompt"]]
        strict, loose = followed(sample, row["output"])
        each += [
            {"name": row["name"], "instruction": name, "strict": s, "loose": lo}
            for name, s, lo in zip(sample.instructions, strict, loose, strict=True)
        ]
    table = pd.DataFrame(each)
    made = []
    for (name, instruction), group in table.groupby(["name", "instruction"], sort=False):
        line: dict[str, Any] = {"name": name, "instruction": instruction, "n": len(group)}
        for form in ("strict", "loose"):
            found = mean_interval(group[form].astype(float))
            line |= percent(form, found.mean, found.low, found.high)
        made.append(line)
    return pd.DataFrame(made)
