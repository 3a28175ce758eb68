"""Does an instruction vector cross from one model to another?

From the last-token states of the same uninstructed prompts in a source A and a target B, at layers of the same relative
depth, a ridge map A -> B (:mod:`mechsteer.studies.questions.ridge`). It says

- ``r2``: how much of B's states it predicts on prompts about other topics;
- ``cosine``: of A's vector, mapped, with B's own;
- ``share``: the gain of A's mapped vector over no steering, divided by that of B's own vector: the same length, place
  and prompts. Not given where the own vector's gain is not clear.

The map has seen no instruction. The row ``other instructions`` is of one that has: the instructed states of all other
kinds stand beside the uninstructed ones. Controls: ``shuffled`` (the same fit, B's rows in another order) and ``random
orthogonal`` (no fit at all), three of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mechsteer.analysis.bootstrap import interval, resamples
from mechsteer.directions import Direction
from mechsteer.models import model_info
from mechsteer.steering import Intervention
from mechsteer.studies.questions import pools
from mechsteer.studies.questions.bench import Place, Setup, steered
from mechsteer.studies.questions.ridge import RidgeMap, explained, orthogonal, ridge_map
from mechsteer.studies.questions.scores import averaged, differences, finding, scored, shares, with_ends

if TYPE_CHECKING:
    import pandas as pd

NAME = "architectures"
RIDGE, TOLD, SHUFFLED, RANDOM = "ridge", "other instructions", "shuffled", "random orthogonal"
SEEDS = 3
FITTED_ON, HELD_OUT = 160, 120
"""Prompts that maps are fitted to, and others."""


@dataclass(frozen=True)
class Crossing:
    """A source, and a target with its places.

    Attributes:
        source: The model whose vectors cross.
        target: The model that is steered.
        places: Where the target is steered.
    """

    source: Setup
    target: Setup
    places: Mapping[str, Place]

    def layer(self, kind: str) -> tuple[int, int]:
        """The source's and the target's layer: the same place in their lists of depths."""
        own = self.places[kind].layer
        at = self.target.layers.index(own)
        return self.source.layers[min(at, len(self.source.layers) - 1)], own

    @property
    def names(self) -> dict[str, str]:
        """The models' names."""
        found = {"source": self.source.model, "target": self.target.model}
        return {side: model_info(model).name for side, model in found.items()}


def run(crossings: Sequence[Crossing]) -> "dict[str, pd.DataFrame]":
    """The tables ``architectures`` (one row a crossing and map) and ``architectures_kinds`` (one a kind as well)."""
    import pandas as pd

    every, kinds = [], []
    for crossing in crossings:
        maps = {kind: _maps(crossing, kind) for kind in crossing.target.kinds}
        kinds += [row for kind in maps for row in _of_kind(crossing, kind, maps[kind])]
        every += _steered(crossing, maps)
    return {"architectures": pd.DataFrame(every), "architectures_kinds": pd.DataFrame(kinds)}


def _plain(setup: Setup, layer: int, split: str) -> Tensor:
    topics = setup.topics if split == "validation" else pools.topics_of("evaluation")
    count = FITTED_ON if split == "validation" else HELD_OUT
    return setup.states(pools.drawn("upper", pools.TOPICS, count, draw=0, topics=topics), False, layer)


def _maps(crossing: Crossing, kind: str) -> dict[tuple[str, int], RidgeMap]:
    """The fitted maps, by name and seed."""
    layers = crossing.layer(kind)
    x, y = (_plain(s, at, "validation") for s, at in zip((crossing.source, crossing.target), layers, strict=True))
    found = {(RIDGE, 0): ridge_map(x, y)}
    others = [other for other in crossing.target.kinds if other != kind]
    if others:
        told = [
            torch.cat([setup.states(crossing.target.estimated(other), True, at) for other in others])
            for setup, at in zip((crossing.source, crossing.target), layers, strict=True)
        ]
        found[TOLD, 0] = ridge_map(torch.cat([x, told[0]]), torch.cat([y, told[1]]))
    for seed in range(SEEDS):
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        found[SHUFFLED, seed] = ridge_map(x, y[order])
        width, into = y.shape[1], x.shape[1]
        found[RANDOM, seed] = RidgeMap(
            x.double().mean(0), y.double().mean(0), orthogonal(width, into, seed), float("nan"), False
        )
    return found


def _vectors(crossing: Crossing, kind: str) -> tuple[Direction, Direction, Tensor]:
    """The source's vector and the target's own, of the same prompts; and the source's instructed states."""
    samples, layers = crossing.target.estimated(kind), crossing.layer(kind)
    (a, b), (c, d) = (s.both(samples, at) for s, at in zip((crossing.source, crossing.target), layers, strict=True))
    return crossing.source.direction(a, b, layers[0]), crossing.target.direction(c, d, layers[1]), a


def _of_kind(crossing: Crossing, kind: str, maps: Mapping[tuple[str, int], RidgeMap]) -> list[dict[str, Any]]:
    """R^2 on held-out prompts with its interval, and the cosine of the mapped vector with the own one."""
    source, target = crossing.layer(kind)
    x, y = _plain(crossing.source, source, "evaluation"), _plain(crossing.target, target, "evaluation")
    v, own, _ = _vectors(crossing, kind)
    counts = resamples(len(y)).double()
    rows = []
    for (name, seed), found in maps.items():
        errors, spread = explained(y, found.states(x), found.target)
        low, high = interval(1 - (counts @ errors) / (counts @ spread))
        mapped = found.vector(v.vector)
        rows.append(
            {
                **crossing.names,
                "kind": kind,
                "map": name,
                "seed": seed,
                "source_layer": source,
                "target_layer": target,
                "r2": 1 - float(errors.sum() / spread.sum()),
                "r2_low": float(low),
                "r2_high": float(high),
                "weight": found.weight,
                "edge": found.edge,
                "cosine": float(torch.nn.functional.cosine_similarity(mapped, own.vector, dim=0)),
                "length": float(mapped.norm()) / own.norm,
                "n": len(y),
            }
        )
    return rows


def _steered(crossing: Crossing, maps: Mapping[str, Mapping[tuple[str, int], RidgeMap]]) -> list[dict[str, Any]]:
    """One row a map: how the target answers under the mapped vectors, and their share of the own vectors' gain."""
    setup, task = crossing.target, crossing.target.task()
    known = {kind: _vectors(crossing, kind) for kind in setup.kinds}

    def steer(key: tuple[str, int] | None) -> Intervention:
        made = {}
        for kind, (v, own, with_it) in known.items():
            if key is None:
                made[kind] = own
            else:
                found = maps[kind][key]
                made[kind] = setup.pointing(
                    found.vector(v.vector), crossing.places[kind].layer, found.states(with_it).float()
                )
        return steered(task, crossing.places, made, {kind: own.norm for kind, (_, own, _) in known.items()})

    keys = list(next(iter(maps.values())))
    steers = {key: steer(key) for key in keys}
    own_steer = steer(None)
    setup.prefetch(task, [None, own_steer, *steers.values()])
    plain, own = (scored(setup.answers(task, s), setup.knows) for s in (None, own_steer))
    tables = {"unsteered": plain, "own": own}
    for name in dict.fromkeys(name for name, _ in keys):
        seeds = [key for key in keys if key[0] == name]
        tables[name] = averaged([scored(setup.answers(task, steers[key]), setup.knows) for key in seeds])
    return [
        {**crossing.names, "map": name, **shares(t), **differences(t, plain, "gain"), **share(t, plain, own)}
        for name, t in tables.items()
    ]


def share(table: "pd.DataFrame", plain: "pd.DataFrame", own: "pd.DataFrame") -> dict[str, float]:
    """(mapped - plain) / (own - plain) of the values; NaN unless the own vector's gain is clear."""
    if differences(own, plain, "gain")["value_gain_low"] <= 0:
        return dict.fromkeys(("share", "share_low", "share_high"), float("nan"))
    gain, whole = (torch.tensor((t["value"] - plain["value"]).to_numpy()) for t in (table, own))
    topics = sorted(set(plain["topic"]))
    counts = resamples(len(topics)).double()[:, [topics.index(topic) for topic in plain["topic"]]]
    low, high = interval((counts @ gain) / (counts @ whole))
    return {"share": float(gain.sum() / whole.sum()), "share_low": float(low), "share_high": float(high)}


def findings(tables: "Mapping[str, pd.DataFrame]") -> list[dict[str, Any]]:
    """What was found, as claims with their numbers."""
    made: list[dict[str, Any]] = []
    kinds = tables["architectures_kinds"]
    if not len(kinds):
        return made
    for (source, target), table in tables["architectures"].groupby(["source", "target"], sort=False):
        rows = table.set_index("map")
        mine = kinds[(kinds["source"] == source) & (kinds["target"] == target)]
        for name in (RIDGE, TOLD):
            if name not in rows.index:
                continue
            part = mine[mine["map"] == name]
            controls = {other: rows.loc[other, "value_gain"] for other in (SHUFFLED, RANDOM)}
            note = f"held-out R2 {part['r2'].mean():.2f}, cosine with the own vector {part['cosine'].mean():.2f}; "
            note += ", ".join(f"{other} {gain:+.1f} points" for other, gain in controls.items())
            note += f"; the own vector {rows.loc['own', 'value_gain']:+.1f}"
            claim = f"{source} -> {target}: vectors mapped by {name} gain"
            made.append(finding(NAME, claim, with_ends(rows.loc[name], "value_gain"), "points", note))
            claim = f"{source} -> {target}: share of the own vector's gain ({name})"
            made.append(finding(NAME, claim, with_ends(rows.loc[name], "share"), "share"))
    return made
