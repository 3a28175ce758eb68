"""What the tables of a diagnosis say, as numbers with their tests: all that the verdict and the sentences stand on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mechsteer.analysis.mcnemar import mcnemar
from mechsteer.diagnosis.arms import IN_PLACE, WITHOUT
from mechsteer.diagnosis.cutting import ALL
from mechsteer.diagnosis.evidence import ABOVE, BELOW, LEVEL, NONE, Compared, compared
from mechsteer.diagnosis.windows import SPANS
from mechsteer.stats import Interval, holm, mean_interval

if TYPE_CHECKING:
    import pandas as pd

SLIGHT = 0.25
"""The part of what other text gets, below which attention to the instruction counts as none."""

TINY = 0.1
"""Nats of a margin that do not count."""


@dataclass(frozen=True)
class Better:
    """An arm against the prompts as they are.

    Attributes:
        arm: Its name.
        group: Its group.
        followed: The share that it follows.
        passed: The share that passes the check, collapsed answers too.
        collapsed: The share of collapsed answers.
        repaired: Prompts that only it follows.
        broken: Prompts that only the prompts as they are follow.
        p: Exact McNemar test, adjusted over its group (Holm).
    """

    arm: str
    group: str
    followed: Interval
    passed: Interval
    collapsed: float
    repaired: int
    broken: int
    p: float

    @property
    def helps(self) -> bool:
        """Whether it follows more prompts than are followed as they are."""
        return self.p < LEVEL and self.repaired > self.broken


@dataclass(frozen=True)
class Decodable:
    """The layer whose state tells best whether there was an instruction.

    Attributes:
        layer: The layer.
        accuracy: Held-out accuracy there.
        low: The lower end of its 95 % interval.
        high: The upper end.
        shuffled: Accuracy with shuffled labels there.
        cut: Accuracy with attention to the instruction cut.
        p: Adjusted over layers.
        n: States.
    """

    layer: int
    accuracy: float
    low: float
    high: float
    shuffled: float
    cut: float
    p: float
    n: int

    @property
    def says(self) -> str:
        """``above`` chance, or ``no evidence``."""
        return ABOVE if self.p < LEVEL and self.accuracy > self.shuffled else NONE


@dataclass(frozen=True)
class Facts:
    """All of it.

    Attributes:
        n: Prompts.
        missing: Prompts whose instruction the model cannot read, by reason.
        followed: How many of the others are followed.
        without: How many answers pass the check without the instruction; None where that was not tried.
        others: The other arms.
        mass: Attention mass of the instruction beside controls, of ignored prompts, mean over layers.
        mass_layers: The same by layer, adjusted over layers.
        slight: Mass and state beside a part (:data:`SLIGHT`) of the controls'.
        state: How far cutting all attention to it moves the state, beside controls.
        answer: How far that moves the log-probability of the answer's first tokens, beside controls.
        pull: By group of layers, the margin that attention to it adds, beside none; of ignored prompts.
        supplied: The pull in all layers beside a part (:data:`SLIGHT`) of what following needs beyond the rest.
        nearer_mass: By form, the attention mass there beside that in place, mean over layers.
        nearer_pull: By form, the pull of attention to it there beside that in place.
        decodable: None where that was not tried.
    """

    n: int
    missing: Mapping[str, int]
    followed: Interval | None = None
    without: Interval | None = None
    others: Sequence[Better] = ()
    mass: Compared | None = None
    mass_layers: Mapping[int, Compared] = field(default_factory=dict)
    state: Compared | None = None
    slight: Sequence[Compared] = ()
    answer: Mapping[str, Compared] = field(default_factory=dict)
    pull: Mapping[str, Compared] = field(default_factory=dict)
    supplied: Compared | None = None
    nearer_mass: Mapping[str, Compared] = field(default_factory=dict)
    nearer_pull: Mapping[str, Compared] = field(default_factory=dict)
    decodable: Decodable | None = None

    @property
    def unattended(self) -> bool:
        """Whether attention to the instruction and its effect are slight beside other text, and it supplies little."""
        slight = bool(self.slight) and all(one.says == BELOW for one in self.slight)
        return slight and not (self.supplied is not None and self.supplied.says == ABOVE)


def arm_facts(answers: "pd.DataFrame") -> tuple[Interval, Interval | None, list[Better]]:
    """How often the prompts are followed as they are, how often their check passes without, and the other arms."""
    arms = {str(name): rows.set_index("case") for name, rows in answers.groupby("arm", sort=False)}
    own = arms[IN_PLACE]
    without = mean_interval(arms[WITHOUT]["passed"]) if WITHOUT in arms else None
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
    table = _by_span(mass[mass["case"].isin(cases)], ["case", "layer"], "mass")
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
        sizes = _by_span(part.assign(answer=part["answer"].abs()), ["case"], "answer")
        answer[name] = compared(sizes["instruction"], sizes["control"], tests=tests)
        signed = _by_span(part, ["case"], "margin")
        pull[name] = compared(signed["instruction"], [0.0] * len(signed), tests=tests, least=TINY)
    states = _by_span(own[own["layers"] == ALL], ["case"], "state")
    whole = own[(own["layers"] == ALL) & (own["span"] == SPANS[0])]
    return Cuts(
        compared(states["instruction"], states["control"]),
        compared(states["instruction"], SLIGHT * states["control"]),
        answer,
        pull,
        compared(whole["margin"], SLIGHT * (whole["margin"] - whole["intact"]), least=TINY),
    )


def decodable_fact(table: "pd.DataFrame") -> Decodable | None:
    """The layer with the best accuracy, the first of several."""
    if table.empty:
        return None
    best = table.sort_values(["accuracy", "layer"], ascending=[False, True]).to_dict("records")[0]
    return Decodable(
        layer=int(best["layer"]),
        accuracy=best["accuracy"],
        low=best["low"],
        high=best["high"],
        shuffled=best["shuffled"],
        cut=best["accuracy_cut"],
        p=best["p_adjusted"],
        n=int(best["n_test"]),
    )


def _by_span(table: "pd.DataFrame", keys: list[str], value: str) -> "pd.DataFrame":
    """The instruction's values, and the mean of the controls', side by side."""
    wide = table.pivot(index=keys, columns="span", values=value)
    controls = wide[[name for name in wide.columns if name != SPANS[0]]]
    return wide[[SPANS[0]]].assign(control=controls.mean(axis=1))


def percent(interval: Interval) -> str:
    """A share with its interval, for a sentence."""
    if math.isnan(interval.mean):
        return "no share"
    ends = f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"
    return f"{100 * interval.mean:.0f} % ({round(interval.mean * interval.n)} of {interval.n}; 95 % interval {ends})"
