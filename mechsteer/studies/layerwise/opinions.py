"""Opinions of groups in the study :mod:`mechsteer.studies.layerwise`: vectors learned by the KL loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.steering import Intervention
from mechsteer.studies.layerwise.bench import Bench, Weighting, crossed
from mechsteer.tasks import Opinion, opinion

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("kl", "tv", "mass")


def opinions(bench: Bench, layer: int, points: int) -> "pd.DataFrame":
    """KL, total variation and mass on held-out questions, for each group: unsteered, dense and on a quarter of heads.

    "learned for other groups" is the mean over the vectors of the other groups: what is not about this group.
    """
    import pandas as pd

    groups = list(dict.fromkeys(sample.group for sample in opinion().samples))
    dense: dict[str, list[Intervention | None]] = {}
    rows: list[dict[str, Any]] = []
    for group in groups:
        training = opinion(group=group, split="train")
        dense[group] = [bench.learn(training, layer, seed)[0].steer for seed in bench.seeds]
    for group in groups:
        training, test = opinion(group=group, split="train"), opinion(group=group, n=bench.n_test)
        paths = [bench.learn(training, layer, seed, Weighting(0.5, points)) for seed in bench.seeds]
        most = max(1, bench.n_heads // 4)
        sparse = [min((x for x in p if x.heads <= most), key=lambda x: x.validation_loss) for p in paths]
        others = [steer for other in groups if other != group for steer in dense[other]]
        ways: dict[str, Sequence[Intervention | None]] = {
            "unsteered": [None],
            "learned": dense[group],
            "learned, a quarter of the heads": [one.steer for one in sparse],
            "learned for other groups": others,
        }
        for way, steers in ways.items():
            numbers = {"seeds": len(steers), "n": len(test.samples)}
            rows.append({"group": group, "method": way, **_measured(bench, test, steers), **numbers})
    return pd.DataFrame(rows)


def _measured(bench: Bench, task: Opinion, steers: Sequence[Intervention | None]) -> dict[str, float]:
    tables = [bench.measure(task, steer) for steer in steers]
    row: dict[str, float] = {}
    for name in MEASURES:
        values = torch.tensor([table[name].tolist() for table in tables])
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), crossed([values]), strict=True))
    return row
