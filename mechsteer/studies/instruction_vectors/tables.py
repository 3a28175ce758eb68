"""The main table of the study: every kind of instruction, with and without it in the prompt, unsteered and steered."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import exact_p, mcnemar
from mechsteer.analysis.sinks import sinks
from mechsteer.studies.instruction_vectors.bench import FORMATS, WITH, WITHOUT, Bench, Prompts, Setting
from mechsteer.studies.instruction_vectors.choose import Choice, adjusted, choose, percent_of, percentages, strongest
from mechsteer.studies.instruction_vectors.vectors import Steering

if TYPE_CHECKING:
    import pandas as pd

Choices = Mapping[tuple[str, str], Choice]
"""What validation chose, by setting and kind."""

Rows = list[dict[str, Any]]


def choose_all(bench: Bench, prompts: Prompts, steering: Steering, kinds: Sequence[str]) -> tuple[Choices, Rows]:
    """The choice for each kind and setting, and the validation rows of all."""
    choices: dict[tuple[str, str], Choice] = {}
    rows: Rows = []
    for kind in kinds:
        for setting in prompts.settings:
            task = prompts.validated(kind, setting)
            make, options = steering.make(kind), steering.options(kind)
            chosen, tried = choose(bench, task, make, options, with_fidelity=kind == "length")
            choices[setting.name, kind] = chosen
            rows += [{"setting": setting.name, "kind": kind, **row} for row in tried]
    return choices, rows


def by_kind(
    bench: Bench, prompts: Prompts, steering: Steering, kinds: Sequence[str], choices: Choices
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Test prompts unsteered and at the chosen layer: one row a kind and setting, and the sample rows."""
    import pandas as pd

    rows: Rows = []
    samples = []
    for setting in prompts.settings:
        for kind in kinds:
            choice, task = choices[setting.name, kind], prompts.tested(kind, setting)
            plain = bench.measure(task)
            steered = bench.measure(task, steering.make(kind)(choice, task)) if choice.steers else plain
            own = plain if setting == WITH else bench.measure(prompts.tested(kind, WITH))
            rows.append(
                {
                    "setting": setting.name,
                    "kind": kind,
                    "method": "project" if kind in FORMATS else "add",
                    "layer": choice.layer,
                    "step": math.nan if kind in FORMATS or not choice.steers else choice.step,
                    "edge": strongest(steering.options(kind), choice),
                    **percentages(plain, "_unsteered"),
                    **percentages(steered, "_steered"),
                    **changes(plain, steered),
                    **_ratios(bench, prompts.tested(kind, WITH), own, plain, steered),
                }
            )
            for name, table in (("unsteered", plain), ("steered", steered)):
                extra = {"setting": setting.name, "row": name, "layer": choice.layer if name == "steered" else -1}
                samples.append(table.assign(**extra))
    leading = ["setting", "row", "kind", "layer"]
    every, table = pd.concat(samples, ignore_index=True), pd.DataFrame(rows)
    return table.assign(p_adjusted=adjusted(table)), every[
        leading + [name for name in every.columns if name not in leading]
    ]


def changes(before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
    """McNemar's test of the adherence of the same samples."""
    test = mcnemar(before["adherence"], after["adherence"])
    return {"gained": test.gained, "lost": test.lost, "p_value": test.p_value}


def _ratios(
    bench: Bench, task: Any, own: "pd.DataFrame", plain: "pd.DataFrame", steered: "pd.DataFrame"
) -> dict[str, float]:
    """Perplexity of outputs, given the instruction, over that of the model's own instructed answer; geometric means.

    Of samples whose output is empty nothing is known; they are left out.
    """
    reference = bench.surprise(task, own["output"].tolist())
    found = {}
    for name, table in (("unsteered", plain), ("steered", steered)):
        pairs = zip(bench.surprise(task, table["output"].tolist()), reference, strict=True)
        extra = [a - b for a, b in pairs if not math.isnan(a - b)]
        found[f"perplexity_ratio_{name}"] = math.exp(sum(extra) / len(extra)) if extra else math.nan
    return found


def summarise(table: "pd.DataFrame", samples: "pd.DataFrame") -> "pd.DataFrame":
    """Means over kinds, for each setting: over the kinds that validation steers, and over all; McNemar over samples.

    Intervals are by topic, whose prompts of several kinds are one cluster; there are none where kinds have different
    numbers of prompts.
    """
    import pandas as pd

    rows: Rows = []
    for setting, part in table.groupby("setting", sort=False):
        for name, chosen in (("steerable kinds", part[part["layer"] >= 0]), ("all kinds", part)):
            if chosen.empty:
                continue
            means = _means(chosen, samples[samples["setting"] == setting])
            gained, lost = int(chosen["gained"].sum()), int(chosen["lost"].sum())
            rows.append(
                {
                    "setting": setting,
                    "over": name,
                    "kinds": len(chosen),
                    **means,
                    "adherence_change_pp": means["adherence_steered_percent"] - means["adherence_unsteered_percent"],
                    "fidelity_change_pp": means["fidelity_steered_percent"] - means["fidelity_unsteered_percent"],
                    "perplexity_ratio_unsteered": geometric_mean(chosen["perplexity_ratio_unsteered"]),
                    "perplexity_ratio_steered": geometric_mean(chosen["perplexity_ratio_steered"]),
                    "gained": gained,
                    "lost": lost,
                    "p_value": exact_p(gained, lost),
                    "n": int(chosen["n"].sum()),
                }
            )
    return pd.DataFrame(rows)


def _means(chosen: "pd.DataFrame", samples: "pd.DataFrame") -> dict[str, float]:
    """Adherence and fidelity over kinds, unsteered and steered, with intervals."""
    rows = samples[samples["kind"].isin(chosen["kind"])]
    found: dict[str, float] = {}
    for measure in ("adherence", "fidelity"):
        for state in ("unsteered", "steered"):
            part, name = rows[rows["row"] == state], f"{measure}_{state}_percent"
            found |= percent_of(part, part[measure].astype(float).tolist(), name)
            if chosen["n"].nunique() > 1:
                found |= {f"{name}{end}": math.nan for end in ("_low", "_high")}
            found[name] = float(chosen[name].mean())
    return found


def geometric_mean(values: Any) -> float:
    """Of the values that are numbers."""
    logs = [math.log(value) for value in values if not math.isnan(value)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def scopes(bench: Bench, prompts: Prompts, steering: Steering, kinds: Sequence[str]) -> "pd.DataFrame":
    """Formats without their instruction, steered at all positions or at the prompt's last one only.

    And where the model has an attention sink at the first position, which the paper's projection moves too, at all
    positions but that.

    One row a kind and scope, each with its own layer from validation.
    """
    import pandas as pd

    rows: Rows = []
    formats = [kind for kind in kinds if kind in FORMATS]
    found = sinks(bench.model, prompts.validated(formats[0]).prompts(bench.model)) if formats else None
    beside = ["content"] if found is not None and (found["position"] == 0).any() else []
    for kind in formats:
        for scope in ("all", *beside, "last_prompt"):
            there = Steering(steering.source, prompts, steering.layers, scope)
            rows.append({"kind": kind, "scope": scope, **_at_best(bench, prompts, there, kind, WITHOUT)})
    return pd.DataFrame(rows)


def _at_best(bench: Bench, prompts: Prompts, steering: Steering, kind: str, setting: Setting) -> dict[str, Any]:
    make, task = steering.make(kind), prompts.tested(kind, setting)
    choice, _ = choose(bench, prompts.validated(kind, setting), make, steering.options(kind))
    steered = bench.measure(task, make(choice, task) if choice.steers else None)
    return {"layer": choice.layer, **percentages(steered)}
