"""Is an instruction a constant shift of the state?

Two comparisons of the same maps from states without an instruction to states with it: a constant shift, a projection,
affine maps of rank 1 to 16 (:func:`mechsteer.affine`), and a shift for each cluster of states.

- ``linear_prediction``: how much of the change from without to with each predicts for topics that it has not seen
  (:mod:`mechsteer.studies.questions.predictions`).
- ``linear_steering``: how the model answers when steered by each, at equal divergence from the unsteered model: the
  mean Jensen-Shannon divergence (nats) of the first new token over validation prompts. Every way has a strength c from
  no change (0) to the map as fitted (1) and beyond; c is where the divergence first passes the target. Ways that do not
  reach it for a kind have no prompts of that kind, and differences from the shift are on the prompts that both have.

Controls: ``random`` (a random direction) and maps of shuffled pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.distributions import jsd
from mechsteer.directions import Direction, random_direction
from mechsteer.models import provenance, site
from mechsteer.steering import Intervention, add, affine, project
from mechsteer.studies.compose.interference import first_logits
from mechsteer.studies.core.bench import Wanted
from mechsteer.studies.directer.bench import Way
from mechsteer.studies.questions import pools
from mechsteer.studies.questions.bench import Place, Setup, by_kind
from mechsteer.studies.questions.predictions import (
    PROJECTION,
    SHIFT,
    affine_of,
    cluster_shifts,
    clusters,
    errors_of,
    explained,
    nearest,
    predictors,
)
from mechsteer.studies.questions.scores import differences, finding, scored, shares, with_ends
from mechsteer.tasks import Instructions

if TYPE_CHECKING:
    import pandas as pd

NAME = "linear"
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
TARGETS = (0.1, 0.3, 0.5)
"""Nats, of ln 2 = 0.69 at most."""
RANKS = (1, 4, 16)
CLUSTERS = 4
RANDOM, SHUFFLED = "random", "affine 4, shuffled"
HELD_OUT = 80

Make = Callable[[float, Sequence[int], Instructions], Intervention]
"""From a strength, a kind's rows in a task, and the task."""


def run(setup: Setup, places: Mapping[str, Place]) -> "dict[str, pd.DataFrame]":
    """The tables ``linear_prediction``, ``linear_errors``, ``linear_divergence`` and ``linear_steering``."""
    import pandas as pd

    errors = pd.concat([_errors(setup, kind, places[kind].layer) for kind in setup.kinds], ignore_index=True)
    ways = {kind: Ways(setup, kind, places[kind]).makers() for kind in setup.kinds}
    divergence = divergences(setup, ways)
    return {
        "linear_prediction": explained(errors),
        "linear_errors": errors,
        "linear_divergence": divergence,
        "linear_steering": steering(setup, ways, divergence),
    }


def _errors(setup: Setup, kind: str, layer: int) -> "pd.DataFrame":
    fitted, held = _samples(setup, kind)
    at = site(setup.model, "resid_post", layer=layer)

    def compute() -> "pd.DataFrame":
        found = predictors(*setup.both(fitted, layer), [s.topic for s in fitted], site=at)
        errors = errors_of(found, *setup.both(held, layer), [s.topic for s in held])
        return errors.assign(kind=kind, layer=layer)

    return setup.bench.cell(compute, [fitted, held], {"linear": layer})


def _samples(setup: Setup, kind: str) -> tuple[list[Any], list[Any]]:
    """Pairs to fit to, twice as many as the kind's vector has, and pairs of the evaluation topics."""
    held = pools.drawn(kind, pools.WIDE, HELD_OUT, draw=0, topics=pools.topics_of("evaluation"))
    return setup.estimated(kind, 2 * setup.pairs), held


@dataclass(frozen=True)
class Ways:
    """The ways to steer a kind.

    Attributes:
        setup: The setup.
        kind: The kind.
        place: Where it is steered; its step does not count.
    """

    setup: Setup
    kind: str
    place: Place

    def makers(self) -> dict[str, Make]:
        """Each way by name."""
        setup, layer, scope = self.setup, self.place.layer, self.place.scope
        samples, _ = _samples(setup, self.kind)
        with_it, without = setup.both(samples, layer)
        groups, at = [s.topic for s in samples], site(setup.model, "resid_post", layer=layer)
        d = setup.direction(with_it, without, layer)
        drawn = random_direction(setup.model, seed=0, layer=layer)
        change = with_it - without
        order = torch.randperm(len(change), generator=torch.Generator().manual_seed(0))
        about: dict[str, Any] = {"site": at, "meta": provenance(setup.model)}
        maps = {f"affine {rank}": affine_of(with_it, without, groups, rank=rank, **about)[0] for rank in RANKS}
        maps[SHUFFLED] = affine_of(without + change[order], without, groups, rank=4, **about)[0]

        def projected(c: float, rows: Sequence[int], task: Instructions) -> Intervention:
            return project(d, target=d.mean_projection + (c - 1) * d.norm, scope=scope, rows=rows)

        def mapped(name: str, c: float, rows: Sequence[int], task: Instructions) -> Intervention:
            return affine(maps[name], c, scope=scope, rows=rows)

        return {
            SHIFT: lambda c, rows, task: add(d, c * d.norm, scope=scope, rows=rows),
            PROJECTION: projected,
            **{name: partial(mapped, name) for name in maps},
            f"clusters {CLUSTERS}": self._clustered(with_it, without, d),
            RANDOM: lambda c, rows, task: add(drawn, c * d.norm, scope=scope, rows=rows),
        }

    def _clustered(self, with_it: Any, without: Any, like: Direction) -> Make:
        """The shift of the cluster that a prompt's own state, unsteered, is nearest to."""
        setup, place = self.setup, self.place
        centres, labels = clusters(without, min(CLUSTERS, len(without)))
        shifts = cluster_shifts(with_it - without, labels, len(centres))

        def make(c: float, rows: Sequence[int], task: Instructions) -> Intervention:
            of = nearest(setup.states([task.samples[row] for row in rows], False, place.layer), centres)
            made = Intervention()
            for k in of.unique().tolist():
                d = replace(like, vector=shifts[k])
                mine = [row for row, own in zip(rows, of.tolist(), strict=True) if own == k]
                made += add(d, c * d.norm, scope=place.scope, rows=mine)
            return made

        return make


def first_divergence(model: Any, task: Instructions, *, steer: Intervention | None, **how: Any) -> "pd.DataFrame":
    """The divergence of each prompt's first new token from the unsteered model's, in nats."""
    import pandas as pd

    prompts, size = task.prompts(model), how["batch_size"]
    plain, steered = (first_logits(model, prompts, Way(s), batch_size=size).log_softmax(-1) for s in (None, steer))
    return pd.DataFrame({"kind": [s.kind for s in task.samples], "divergence": jsd(plain, steered).tolist()})


def divergences(setup: Setup, ways: Mapping[str, Mapping[str, Make]]) -> "pd.DataFrame":
    """The mean divergence by kind, way and strength, on the validation prompts."""
    import pandas as pd

    task = setup.validation()
    names = list(next(iter(ways.values())))
    steers = {
        (name, c): by_kind(task, lambda kind, rows, name=name, c=c: ways[kind][name](c, rows, task))
        for name in names
        for c in STRENGTHS
    }
    wanted = {key: Wanted(task, steer, rows=first_divergence) for key, steer in steers.items()}
    setup.bench.prefetch(wanted.values())
    rows = []
    for (name, c), one in wanted.items():
        means = setup.bench.rows(one).groupby("kind", sort=False)["divergence"].mean()
        rows += [{"kind": kind, "way": name, "strength": c, "divergence": value} for kind, value in means.items()]
    return pd.DataFrame(rows)


def strength_at(strengths: Sequence[float], found: Sequence[float], target: float) -> float:
    """Where the divergence first passes the target, between the strengths that were tried; NaN where it does not."""
    before, below = 0.0, 0.0
    for strength, value in zip(strengths, found, strict=True):
        if value >= target:
            return before + (strength - before) * (target - below) / (value - below)
        before, below = strength, value
    return float("nan")


def steering(setup: Setup, ways: Mapping[str, Mapping[str, Make]], divergence: "pd.DataFrame") -> "pd.DataFrame":
    """One row a target and way: the measures, the kinds that reach the target, and differences from the shift."""
    import pandas as pd

    names = list(dict.fromkeys(divergence["way"]))
    curves = {key: part for key, part in divergence.groupby(["kind", "way"], sort=False)}
    rows = []
    for target in TARGETS:
        found: dict[str, pd.DataFrame] = {}
        for name in names:
            at = {kind: _at(curves[kind, name], target) for kind in setup.kinds}
            kinds = [kind for kind, c in at.items() if c == c]
            if kinds:
                task = setup.task(kinds)
                steer = by_kind(task, lambda kind, rows, n=name, c=at, t=task: ways[kind][n](c[kind], rows, t))
                found[name] = scored(setup.answers(task, steer), setup.knows).set_index(["kind", "topic"], drop=False)
                rows.append({"target": target, "way": name, "kinds": len(kinds), **shares(found[name])})
                rows[-1] |= _apart(found[name], found.get(SHIFT))
    return pd.DataFrame(rows, columns=None if rows else ["target", "way", "kinds", "common"])


def _apart(table: "pd.DataFrame", shifted: "pd.DataFrame | None") -> dict[str, Any]:
    """Differences from the shift on the prompts that both have."""
    common = [] if shifted is None else [key for key in table.index if key in shifted.index]
    if shifted is None or not common:
        return {"common": 0}
    return {"common": len(common), **differences(table.loc[common], shifted.loc[common], "over_shift")}


def _at(curve: "pd.DataFrame", target: float) -> float:
    return strength_at(curve["strength"].tolist(), curve["divergence"].tolist(), target)


def findings(tables: "Mapping[str, pd.DataFrame]") -> list[dict[str, Any]]:
    """What was found, as claims with their numbers."""
    predicted, steered = tables["linear_prediction"], tables["linear_steering"]
    made = []
    for way in [w for w in dict.fromkeys(predicted["way"]) if w != SHIFT]:
        rows = predicted[predicted["way"] == way]
        kinds, every = rows[rows["kind"] != "all"], rows[rows["kind"] == "all"].iloc[0]
        better, worse = (kinds["beyond_shift_low"] > 0).sum(), (kinds["beyond_shift_high"] < 0).sum()
        note = f"clearly better for {better} and worse for {worse} of {len(kinds)} kinds; "
        note += f"{100 * every['explained']:.0f} % of the change predicted"
        claim = f"{way}: leaves another error than a constant shift for new topics (share of the shift's that it mends)"
        made.append(finding(NAME, claim, with_ends(every, "beyond_shift"), "share", note))
    for target in TARGETS:
        rows = steered[steered["target"] == target].set_index("way")
        for way, row in rows.iterrows():
            if way == SHIFT or not row["common"]:
                continue
            note = f"followed and good: {row['value_percent']:.1f} %, {int(row['kinds'])} kinds reach it"
            claim = f"{way}: steers otherwise than a constant shift at a divergence of {target:g} nats"
            made.append(finding(NAME, claim, with_ends(row, "value_over_shift"), "points", note))
    return made
