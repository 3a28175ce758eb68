"""What a state without an instruction says of the one with it: predictions by maps of growing freedom, held out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.bootstrap import interval, resamples
from mechsteer.directions import AffineMap, fit_affine

if TYPE_CHECKING:
    import pandas as pd

States = Float[Tensor, "prompts width"]
Predict = Callable[[States], States]

RANKS = (1, 2, 4, 8, 16)
CLUSTERS = (2, 4, 8)
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 4
SHIFT, PROJECTION, CONSTANT = "shift", "projection", "one state"


def affine_of(
    with_it: States, without: States, groups: Sequence[str], *, site: str, rank: int, **about: Any
) -> tuple[AffineMap, float]:
    """The affine map of a rank, and its ridge weight, which predicts folds of left-out groups best.

    Args:
        with_it: States with the instruction.
        without: States without.
        groups: Of each row, what may not be on both sides of a fold: its topic.
        site: Where the states are.
        rank: The rank.
        **about: For :func:`mechsteer.directions.fit_affine`.
    """
    names = sorted(set(groups))
    fold = torch.tensor([names.index(group) % FOLDS for group in groups])
    errors = dict.fromkeys(RIDGES, 0.0)
    for out in range(min(FOLDS, len(names))):
        kept, left = fold != out, fold == out
        for ridge in RIDGES:
            made = fit_affine(with_it[kept], without[kept], site=site, rank=rank, ridge=ridge)
            miss = with_it[left] - without[left] - made.change(without[left])
            errors[ridge] += float(miss.double().square().sum())
    ridge = min(RIDGES, key=errors.__getitem__)
    return fit_affine(with_it, without, site=site, rank=rank, ridge=ridge, **about), ridge


def clusters(states: States, count: int) -> tuple[Float[Tensor, "clusters width"], Int[Tensor, "prompts"]]:
    """Centres of k-means, and each state's nearest."""
    from scipy.cluster.vq import kmeans2

    centres, labels = kmeans2(states.double().numpy(), count, minit="++", rng=np.random.default_rng(0))
    return torch.from_numpy(centres).float(), torch.from_numpy(labels).long()


def nearest(states: States, centres: Float[Tensor, "clusters width"]) -> Int[Tensor, "prompts"]:
    """The nearest centre of each state."""
    return torch.cdist(states, centres).argmin(1)


def cluster_shifts(change: States, labels: Int[Tensor, "prompts"], count: int) -> Float[Tensor, "clusters width"]:
    """The mean change of each cluster; of an empty one, that of all."""
    mean = change.mean(0)
    return torch.stack([change[labels == k].mean(0) if bool((labels == k).any()) else mean for k in range(count)])


def predictors(with_it: States, without: States, groups: Sequence[str], *, site: str) -> dict[str, Predict]:
    """Each way to predict, by name, fitted to these states; nulls with their pairs or clusters exchanged."""
    change = with_it - without
    shift, unit = change.mean(0), change.mean(0) / change.mean(0).norm()
    target = (with_it @ unit).mean()
    found: dict[str, Predict] = {
        CONSTANT: lambda x: with_it.mean(0).expand_as(x),
        SHIFT: lambda x: x + shift,
        PROJECTION: lambda x: x + (target - x @ unit)[:, None] * unit,
    }
    order = torch.randperm(len(change), generator=torch.Generator().manual_seed(0))
    for rank in RANKS:
        made, _ = affine_of(with_it, without, groups, site=site, rank=rank)
        found[f"affine {rank}"] = lambda x, made=made: x + made.change(x)
    made, _ = affine_of(without + change[order], without, groups, site=site, rank=4)
    found["affine 4, shuffled"] = lambda x, made=made: x + made.change(x)
    for count in CLUSTERS:
        centres, labels = clusters(without, min(count, len(without)))
        shifts = cluster_shifts(change, labels, len(centres))
        found[f"clusters {count}"] = lambda x, c=centres, s=shifts: x + s[nearest(x, c)]
        if count == 4:
            mixed = cluster_shifts(change[order], labels, len(centres))
            found["clusters 4, shuffled"] = lambda x, c=centres, s=mixed: x + s[nearest(x, c)]
    return found


def errors_of(found: Mapping[str, Predict], with_it: States, without: States, groups: Sequence[str]) -> "pd.DataFrame":
    """The squared errors of each way by topic: way, topic, n, error, before (|x+ - x|^2) and shifted (the shift's)."""
    import pandas as pd

    def missed(predicted: States) -> list[float]:
        return (with_it - predicted).double().square().sum(1).tolist()

    before, shifted = missed(without), missed(found[SHIFT](without))
    same = {"topic": list(groups), "n": 1, "before": before, "shifted": shifted}
    rows = [pd.DataFrame({"way": name, "error": missed(predict(without)), **same}) for name, predict in found.items()]
    return pd.concat(rows).groupby(["way", "topic"], sort=False, as_index=False).sum()


def explained(errors: "pd.DataFrame") -> "pd.DataFrame":
    """One row a way and kind, and the mean of kinds: how much is predicted, with intervals, topics being resampled.

    ``explained`` is 1 - |x+ - prediction|^2 / |x+ - x|^2; ``beyond_shift`` the same against the shift's prediction.

    Args:
        errors: What :func:`errors_of` makes, with the column ``kind``.
    """
    import pandas as pd

    topics = sorted(set(errors["topic"]))
    counts = resamples(len(topics)).double().numpy()
    rows = []
    for way, of_way in errors.groupby("way", sort=False):
        drawn: dict[str, list[Any]] = {"explained": [], "beyond_shift": []}
        for kind, part in of_way.groupby("kind", sort=False):
            by_topic = part.set_index("topic")[["n", "error", "before", "shifted"]].reindex(topics, fill_value=0.0)
            row: dict[str, Any] = {"way": way, "kind": kind, "n": int(by_topic["n"].sum())}
            for measure, against in (("explained", "before"), ("beyond_shift", "shifted")):
                one, whole = by_topic["error"].to_numpy(), by_topic[against].to_numpy()
                drawn[measure].append(np.append(1 - (counts @ one) / (counts @ whole), 1 - one.sum() / whole.sum()))
                row |= _ends(measure, drawn[measure][-1])
            rows.append(row)
        row = {"way": way, "kind": "all", "n": int(of_way["n"].sum())}
        for measure, values in drawn.items():
            row |= _ends(measure, np.mean(values, axis=0))
        rows.append(row)
    return pd.DataFrame(rows)


def _ends(name: str, values: Any) -> dict[str, float]:
    """An estimate, which stands last, and the interval of its resamples."""
    low, high = interval(torch.from_numpy(values[:-1]))
    return {name: float(values[-1]), f"{name}_low": float(low), f"{name}_high": float(high)}
