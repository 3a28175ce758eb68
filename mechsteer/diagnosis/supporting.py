"""What stands beside the verdict and does not decide it: place, followed against ignored, lens, sinks, mild methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mechsteer.diagnosis.arms import IN_PLACE
from mechsteer.diagnosis.cases import SPAN
from mechsteer.diagnosis.evidence import LEVEL, Compared, compared
from mechsteer.diagnosis.facts import TINY
from mechsteer.diagnosis.measures.windows import FIRST_TOKEN
from mechsteer.diagnosis.reading import by_span
from mechsteer.stats import holm

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 3
"""Prompts that each of two groups needs to be compared."""


@dataclass(frozen=True)
class Split:
    """Prompts that were followed against those that were not, at the layer where they differ most surely.

    Attributes:
        measure: What was compared.
        layer: The layer; None for a measure of the prompt.
        followed: The median of followed prompts.
        ignored: That of ignored ones.
        n_followed: How many.
        n_ignored: How many.
        p: Mann-Whitney, two-sided, adjusted over layers (Holm).
    """

    measure: str
    layer: int | None
    followed: float
    ignored: float
    n_followed: int
    n_ignored: int
    p: float

    @property
    def differs(self) -> bool:
        """Whether the two groups do."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Sink:
    """The position with the largest norm beside the others.

    Attributes:
        layer: The first layer after which it is a sink.
        position: Its position.
        ratio: Its norm, in medians of the other positions, where it is largest.
        layers: After how many layers it is one.
        mass: Attention to the first token at the answer, mean over layers.
        stack: Whose position it is: of an encoder-decoder, ``encoder`` or ``decoder``.
    """

    layer: int
    position: int
    ratio: float
    layers: int
    mass: float
    stack: str = ""


@dataclass(frozen=True)
class Supporting:
    """All of it; what could not be measured is empty.

    Attributes:
        tokens: Median length of the prompts.
        instruction: Median length of the instruction.
        distance: Median number of tokens between its end and the answer.
        splits: Followed against ignored.
        influence: Influence of the instruction beside a control at the answer, last layer.
        lens: By layer, how far the token that follows is ahead of the other, logits; ignored prompts.
        sink: None where there is none.
        methods: By mild method, how far it moves the margin; ignored prompts, adjusted.
    """

    tokens: float
    instruction: float
    distance: float
    splits: Sequence[Split] = ()
    influence: Compared | None = None
    lens: "Mapping[int, Compared] | None" = None
    sink: Sink | None = None
    methods: "Mapping[str, Compared] | None" = None


def supporting_of(tables: "Mapping[str, pd.DataFrame]") -> Supporting | None:
    """Everything that the tables have; None where no prompt could be read."""
    if "mass" not in tables:
        return None
    own = tables["answers"]
    own = own[own["arm"] == IN_PLACE]
    followed = {int(case) for case in own.loc[own["followed"], "case"]}
    ignored = {int(case) for case in own["case"]} - followed
    measured = set(tables["mass"]["case"])
    told = (ignored or followed) & measured
    prompts = tables["prompts"][tables["prompts"]["missing"] == ""]
    return Supporting(
        tokens=float(prompts["tokens"].median()),
        instruction=float(prompts["instruction_tokens"].median()),
        distance=float(prompts["distance"].median()),
        splits=_splits(tables, prompts, followed & measured, ignored & measured),
        influence=_influence(tables["influence"], told),
        lens=_lens(tables["lens"], told),
        sink=sink_of(tables["sinks"], tables["mass"]),
        methods=_methods(tables["methods"], told),
    )


def _influence(influence: "pd.DataFrame", cases: set[int]) -> Compared | None:
    if not cases:
        return None
    kept = by_span(influence[influence["case"].isin(cases)], ["case", "layer"], "influence")
    last = kept.xs(influence["layer"].max(), level="layer")
    return compared(last["instruction"], last["control"])


def _splits(
    tables: "Mapping[str, pd.DataFrame]", prompts: "pd.DataFrame", followed: set[int], ignored: set[int]
) -> list[Split]:
    if min(len(followed), len(ignored)) < FEWEST:
        return []
    made = [_split("distance to the answer", prompts.assign(layer=0), "distance", followed, ignored, layers=False)]
    for name, column in (("attention", "mass"), ("Influence", "influence")):
        table = tables[column]
        made.append(_split(name, table[table["span"] == SPAN], column, followed, ignored))
    return [one for one in made if one is not None]


def _split(
    measure: str, table: "pd.DataFrame", column: str, followed: set[int], ignored: set[int], *, layers: bool = True
) -> Split | None:
    """The layer with the smallest p; None for a measure that is the same in all prompts."""
    from scipy.stats import mannwhitneyu

    found = []
    for layer in sorted(set(table["layer"])):
        values = table[table["layer"] == layer].set_index("case")[column].astype(float)
        first, second = (values[values.index.isin(cases)] for cases in (followed, ignored))
        if values.nunique() > 1:
            p = float(mannwhitneyu(first, second, alternative="two-sided").pvalue)
            found.append((int(layer), float(first.median()), float(second.median()), len(first), len(second), p))
    if not found:
        return None
    adjusted = holm([one[-1] for one in found])
    best = min(range(len(found)), key=adjusted.__getitem__)
    layer, one, other, n_one, n_other, _ = found[best]
    return Split(measure, layer if layers else None, one, other, n_one, n_other, adjusted[best])


def _lens(lens: "pd.DataFrame", cases: set[int]) -> dict[int, Compared] | None:
    kept = lens[lens["case"].isin(cases)]
    if kept.empty:
        return None
    wide = kept.pivot(index=["case", "layer"], columns="role", values="logit")
    layers = [int(layer) for layer in wide.index.get_level_values("layer").unique()]
    parts = {layer: wide.xs(layer, level="layer") for layer in layers}
    return {
        layer: compared(part["follow"], part["ignore"], tests=len(layers), least=TINY) for layer, part in parts.items()
    }


def sink_of(sinks: "pd.DataFrame", mass: "pd.DataFrame") -> Sink | None:
    """The strongest sink; an encoder-decoder has positions of two stacks."""
    if sinks.empty:
        return None
    sinks = sinks if "stack" in sinks else sinks.assign(stack="")
    top = sinks.sort_values("ratio", ascending=False).to_dict("records")[0]
    own = sinks[(sinks["position"] == top["position"]) & (sinks["stack"] == top["stack"])]
    first = float(mass.loc[mass["span"] == FIRST_TOKEN, "mass"].mean())
    return Sink(int(own["layer"].min()), int(top["position"]), float(top["ratio"]), len(own), first, str(top["stack"]))


def _methods(methods: "pd.DataFrame", cases: set[int]) -> dict[str, Compared] | None:
    kept = methods[methods["case"].isin(cases)]
    names = list(dict.fromkeys(kept["method"]))
    parts = {name: kept.loc[kept["method"] == name, "shift"] for name in names}
    found = {str(name): compared(part, [0.0] * len(part), tests=len(names), least=TINY) for name, part in parts.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1].value)) or None
