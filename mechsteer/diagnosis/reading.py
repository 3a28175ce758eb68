"""From the tables of a diagnosis to its facts: every number of a sentence is computed here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mechsteer.analysis.mcnemar import mcnemar
from mechsteer.comparison.summary import repeats
from mechsteer.diagnosis.arms import IN_PLACE, WITHOUT
from mechsteer.diagnosis.cases import SPAN
from mechsteer.diagnosis.evidence import Compared, compared
from mechsteer.diagnosis.facts import SLIGHT, TINY, Better, Decodable, Facts
from mechsteer.diagnosis.measures.cutting import ALL
from mechsteer.diagnosis.measures.decodable import best_layer
from mechsteer.diagnosis.measures.windows import CONTROLS, SPANS
from mechsteer.diagnosis.verdict import compliant
from mechsteer.stats import Interval, holm, mean_interval

if TYPE_CHECKING:
    import pandas as pd


def facts_of(tables: "Mapping[str, pd.DataFrame]") -> Facts:
    """All facts; those whose table is not there are left out."""
    reasons = [reason.lstrip("0123456789 ") for reason in tables["prompts"]["missing"] if reason]
    facts = Facts(len(tables["prompts"]), dict(Counter(reasons)))
    if "answers" not in tables:
        return facts
    answers = tables["answers"]
    followed, without, others = arm_facts(answers)
    own = answers[answers["arm"] == IN_PLACE]
    collapsed = float(own["collapsed"].mean())
    facts = replace(facts, followed=followed, collapsed=collapsed, repeats=repeats(own))
    facts = replace(facts, without=without, others=others)
    if "mass" not in tables:
        return facts
    ignored = own.loc[~own["followed"], "case"].tolist()
    asked = own["case"].tolist() if compliant(facts) else ignored
    measured = set(tables["mass"]["case"])  # not where there is no text beside the instruction
    chosen = [case for case in asked if case in measured]
    facts = replace(facts, decodable=decodable_fact(tables["decodable"]))
    if not chosen:
        return facts
    mass, layers, slight = mass_facts(tables["mass"], chosen)
    cuts = cut_facts(tables["cut"], chosen)
    nearer_mass, nearer_pull = _nearer(tables, chosen)
    return replace(
        facts,
        mass=mass,
        mass_layers=layers,
        state=cuts.state,
        slight=(slight, cuts.slight),
        answer=cuts.answer,
        pull=cuts.pull,
        supplied=cuts.supplied,
        nearer_mass=nearer_mass,
        nearer_pull=nearer_pull,
    )


def arm_facts(answers: "pd.DataFrame") -> tuple[Interval, Better | None, list[Better]]:
    """How often the prompts are followed as they are; the arm without the instruction; the other arms."""
    arms = {str(name): rows.set_index("case") for name, rows in answers.groupby("arm", sort=False)}
    own = arms[IN_PLACE]
    without = _better(WITHOUT, own, arms[WITHOUT]) if WITHOUT in arms else None
    made = [_better(name, own, rows) for name, rows in arms.items() if name not in (IN_PLACE, WITHOUT)]
    adjusted: dict[str, float] = {}
    for group in dict.fromkeys(one.group for one in made):
        members = [one for one in made if one.group == group]
        adjusted |= zip([one.arm for one in members], holm([one.p for one in members]), strict=True)
    return mean_interval(own["followed"]), without, [replace(one, p=adjusted[one.arm]) for one in made]


def _better(name: str, own: "pd.DataFrame", rows: "pd.DataFrame") -> Better:
    """An arm against the prompts as they are; its p is not adjusted."""
    test = mcnemar(own.loc[rows.index, "followed"].tolist(), rows["followed"].tolist())
    return Better(
        arm=name,
        group=str(rows["group"].iloc[0]),
        followed=mean_interval(rows["followed"]),
        passed=mean_interval(rows["passed"]),
        collapsed=float(rows["collapsed"].mean()),
        repaired=test.gained,
        broken=test.lost,
        p=test.p_value,
    )


def mass_facts(mass: "pd.DataFrame", cases: Sequence[int]) -> tuple[Compared, dict[int, Compared], Compared]:
    """The instruction's attention mass beside its controls' mean: mean over layers, layer by layer, and slight."""
    table = by_span(mass[mass["case"].isin(cases)], ["case", "layer"], "mass")
    layers = [int(layer) for layer in table.index.get_level_values("layer").unique()]
    means = table.groupby(level="case").mean()
    parts = {layer: table.xs(layer, level="layer") for layer in layers}
    by_layer = {
        layer: compared(part["instruction"], part["control"], tests=len(layers)) for layer, part in parts.items()
    }
    slight = compared(means["instruction"], SLIGHT * means["control"])
    return compared(means["instruction"], means["control"]), by_layer, slight


@dataclass(frozen=True)
class Cuts:
    """What the cuts in some prompts say; see :class:`Facts`."""

    state: Compared
    slight: Compared
    answer: Mapping[str, Compared]
    pull: Mapping[str, Compared]
    supplied: Compared


def cut_facts(effects: "pd.DataFrame", cases: Sequence[int]) -> Cuts:
    """State and what is supplied (all layers), answer and pull (by group of layers) of the cuts in some prompts."""
    own = effects[effects["case"].isin(cases)]
    groups = list(dict.fromkeys(own["layers"]))
    answer, pull = {}, {}
    for name in groups:
        tests = 1 if name == ALL else max(1, len(groups) - 1)
        part = own[own["layers"] == name]
        sizes = by_span(part.assign(answer=part["answer"].abs()), ["case"], "answer")
        answer[name] = compared(sizes["instruction"], sizes["control"], tests=tests)
        signed = by_span(part, ["case"], "margin")
        pull[name] = compared(signed["instruction"], [0.0] * len(signed), tests=tests, least=TINY)
    states = by_span(own[own["layers"] == ALL], ["case"], "state")
    whole = own[(own["layers"] == ALL) & (own["span"] == SPANS[0])]
    return Cuts(
        compared(states["instruction"], states["control"]),
        compared(states["instruction"], SLIGHT * states["control"]),
        answer,
        pull,
        compared(whole["margin"], SLIGHT * (whole["margin"] - whole["intact"]), least=TINY),
    )


def decodable_fact(table: "pd.DataFrame") -> Decodable | None:
    """The numbers of the best layer."""
    layer = best_layer(table, len(table))
    if layer is None:
        return None
    best = table[table["layer"] == layer].to_dict("records")[0]
    return Decodable(
        layer=layer,
        accuracy=best["accuracy"],
        low=best["low"],
        high=best["high"],
        shuffled=best["shuffled"],
        shuffled_most=best["shuffled_most"],
        cut=best["accuracy_cut"],
        p=best["p_value"],
        n=int(best["n_test"]),
    )


def by_span(table: "pd.DataFrame", keys: list[str], value: str) -> "pd.DataFrame":
    """The instruction's values, and the mean of the controls', side by side."""
    wide = table.pivot(index=keys, columns="span", values=value)
    controls = wide[[name for name in wide.columns if name in CONTROLS]]
    return wide[[SPANS[0]]].assign(control=controls.mean(axis=1))


def _nearer(
    tables: "Mapping[str, pd.DataFrame]", cases: Sequence[int]
) -> tuple[dict[str, Compared], dict[str, Compared]]:
    """Attention mass (mean over layers) and pull of the instruction in each nearer form, beside those in place."""
    forms, mass, effects = tables["nearer"], tables["mass"], tables["cut"]
    if forms.empty:
        return {}, {}
    own = mass[(mass["span"] == SPAN) & mass["case"].isin(cases)].groupby("case")["mass"].mean()
    whole = effects[(effects["span"] == SPAN) & (effects["layers"] == ALL)].set_index("case")
    masses, pulls = {}, {}
    for name, table in forms.groupby("form", sort=False):
        there = table.set_index("case")
        common = [case for case in own.index if case in there.index]
        masses[str(name)] = compared(there.loc[common, "mass"], own.loc[common])
        pulls[str(name)] = compared(there.loc[common, "pull"], whole.loc[common, "margin"], least=TINY)
    return masses, pulls
