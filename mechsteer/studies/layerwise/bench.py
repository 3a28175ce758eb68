"""What the study :mod:`mechsteer.studies.layerwise` measures with: learned vectors and answers, each computed once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.analysis.bootstrap import interval, interval_columns, resamples
from mechsteer.directions import Direction
from mechsteer.directions.sparse import path_table, sparse_path
from mechsteer.identity import cell_key
from mechsteer.stats import cluster_interval
from mechsteer.steering import Intervention, heads
from mechsteer.studies.core import bench as bench_of_studies
from mechsteer.studies.core.cells import cell
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import Opinion, Rules, rules

if TYPE_CHECKING:
    import pandas as pd

Weights = Sequence[tuple[float, float]]
DENSE: Weights = ((0.0, 0.0),)


@dataclass(frozen=True)
class Learned:
    """A learned vector.

    Attributes:
        direction: The vector; None where it is zero.
        heads: How many heads it is on.
        entries: How many entries are not zero.
        l1: The weight of |D|_1.
        group_l2: The weight of the heads' norms.
        validation_loss: Mean loss of the held-out part of the training words, nats.
    """

    direction: Direction | None
    heads: int
    entries: int
    l1: float
    group_l2: float
    validation_loss: float

    @property
    def steer(self) -> Intervention | None:
        """What adds it."""
        return None if self.direction is None else heads(self.direction)


@dataclass(frozen=True)
class Weighting:
    """Weights as parts of the largest that matters.

    Attributes:
        l1_share: The part of the weight that is l1's.
        points: How many weights, evenly in their logarithm.
        smallest: The last as a part of the first.
    """

    l1_share: float
    points: int = 6
    smallest: float = 0.1

    @property
    def parts(self) -> list[float]:
        """Each weight as a part of the largest."""
        return [self.smallest ** (i / max(self.points - 1, 1)) for i in range(self.points)]


@dataclass
class Bench:
    """A model to measure, and where what was measured lies.

    Attributes:
        model: The model.
        folder: The study's folder.
        batch_size: Prompts computed together.
        bar: A progress bar.
        n_train: Training words of a rule.
        n_test: The most test words of a rule; None for all.
        seeds: One run for each.
        max_steps: The most steps of a fit.
        patience: For its early stopping.
        validation: The part of the training words that early stopping is judged by.
        executor: Computes answers in workers; vectors are learned in this process.
    """

    model: Any
    folder: Path
    batch_size: int
    bar: Any
    n_train: int
    n_test: int | None
    seeds: tuple[int, ...]
    max_steps: int = 30
    patience: int = 6
    validation: float = 0.25
    executor: Executor | None = None

    @property
    def cells(self) -> bench_of_studies.Bench:
        """The bench of all studies, which keeps cells."""
        return bench_of_studies.Bench(self.model, self.folder, self.batch_size, self.bar, self.executor)

    def prefetch(self, task: Any, steers: Iterable[Any]) -> None:
        """Compute in workers what will be measured."""
        self.cells.prefetch(bench_of_studies.Wanted(task, steer) for steer in steers)

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return self.model.cfg.n_heads

    def training(self, rule: str, seed: int, n: int | None = None) -> Rules:
        """Training words of a rule, drawn by the seed; all of them where there are fewer."""
        every = rules(rule, split="train")
        wanted = min(self.n_train if n is None else n, len(every.samples))
        return rules(rule, split="train", n=wanted, seed=seed)

    def testing(self, rule: str) -> Rules:
        """The test words of a rule, the same for all seeds."""
        task = rules(rule)
        return replace(task, samples=task.samples[: self.n_test])

    def learn(
        self, task: Rules | Opinion, layer: int, seed: int, weights: "Weights | Weighting" = DENSE
    ) -> list[Learned]:
        """The vectors of a task at a layer, one for each pair of weights."""
        path = isinstance(weights, Weighting)
        chosen: dict[str, Any] = (
            {"l1_share": weights.l1_share, "points": weights.points, "smallest": weights.smallest}
            if isinstance(weights, Weighting)
            else {"weights": [tuple(pair) for pair in weights]}
        )
        options = {
            "layer": layer,
            "seed": seed,
            "validation": self.validation,
            "patience": self.patience,
            "max_steps": self.max_steps,
            **chosen,
        }
        key = cell_key(self.model, task, options={"learn": "sparse", "path": path, **options})
        table = cell(self.folder, key, lambda: self._fits(task, options))
        self.bar.update()
        return [_learned(row) for row in table.to_dict("records")]

    def _fits(self, task: Rules | Opinion, options: dict[str, Any]) -> "pd.DataFrame":
        fits = sparse_path(self.model, task.examples(self.model), batch_size=self.batch_size, **options)
        table = path_table(fits)
        table["delta"] = [fit.delta.flatten().tolist() for fit in fits]
        table["site"] = [fit.sites[0] for fit in fits]
        table["meta"] = [json.dumps(fit.meta) for fit in fits]
        return table

    def measure(self, task: Rules | Opinion, steer: Intervention | None = None) -> "pd.DataFrame":
        """Sample rows of a task under an intervention."""
        return self.cells.evaluate(task, steer)

    def right(self, task: Rules, steer: Intervention | None = None) -> Bool[Tensor, "words"]:
        """Which of the task's answers are exactly right."""
        return torch.tensor(self.measure(task, steer)["correct"].astype(bool).tolist())


def _learned(row: Mapping[Any, Any]) -> Learned:
    vector = torch.tensor(list(row["delta"]), dtype=torch.float32)
    found = Direction(vector, row["site"], "sparse", meta=json.loads(row["meta"])) if vector.any() else None
    return Learned(
        found, int(row["groups"]), int(row["entries"]), row["l1"], row["group_l2"], float(row["validation_loss"])
    )


def with_shots(task: Rules, training: Rules, shots: int) -> Rules:
    """The task with the first training words before each question, never the question itself."""
    samples = []
    for sample in task.samples:
        shown = [(one.question, one.answers[0]) for one in training.samples if one.question != sample.question]
        samples.append(replace(sample, shots=tuple(shown[:shots])))
    return replace(task, name=f"{task.name} with {shots} of {training.name}", samples=tuple(samples))


def exact_match(right: Sequence[Float[Tensor, "_ _"]], name: str = "exact_match") -> dict[str, Any]:
    """Exact match in percent, over rules where there are several: ``<name>_percent``, ``_low``, ``_high``.

    The interval is that of :func:`crossed`, and at least as wide as the one whose clusters are the words, which has
    width where all answers are right, or none: of several rules, their reaches r_i give sqrt(sum r_i^2) / rules.
    """
    mean, low, high = crossed([100 * values for values in right])
    reaches = [_reach(values) for values in right]
    below, above = (sum(reach**2 for reach in side) ** 0.5 / len(right) for side in zip(*reaches, strict=True))
    ends = max(0.0, min(low, mean - below)), min(100.0, max(high, mean + above))
    return interval_columns([f"{name}_percent"], (mean, *ends))


def _reach(values: Float[Tensor, "seeds words"]) -> tuple[float, float]:
    """How far, in percent, the interval of the share that is right reaches below and above, with words as clusters."""
    words = [word for _ in range(values.shape[0]) for word in range(values.shape[1])]
    found = cluster_interval(values.flatten().tolist(), words)
    return 100 * (found.mean - found.low), 100 * (found.high - found.mean)


def crossed(measured: Sequence[Float[Tensor, "_ _"]]) -> tuple[float, float, float]:
    """The mean of the means of some tables ``[seeds, words]``, and its 95 % interval.

    Seeds and words are drawn anew, independently and with replacement, in each of 1000 resamples.
    """
    estimates = []
    for place, values in enumerate(measured):
        seeds, words = values.shape
        by_seed = resamples(seeds, seed=2 * place).double() / seeds
        by_word = resamples(words, seed=2 * place + 1).double() / words
        estimates.append(torch.einsum("bs,sw,bw->b", by_seed, values.double(), by_word))
    low, high = interval(torch.stack(estimates).mean(0))
    mean = torch.stack([values.double().mean() for values in measured]).mean()
    return float(mean), float(low), float(high)
