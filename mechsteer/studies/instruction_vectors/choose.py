"""Which layer (and coefficient) to steer at, chosen on validation prompts as the paper's code does.

A candidate whose outputs are bad (see :mod:`mechsteer.analysis.quality`) counts as accuracy 0. The best candidate has
the highest accuracy; of several the first wins, and no steering stands first, then layers from the lowest.

For a limit of words the paper's way of choosing is not known, and accuracy alone prefers coefficients that leave two
words of nonsense. There the best candidate has the highest mean of adherence times fidelity (ours), where fidelity is
known.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.stats import cluster_interval, holm, paired_interval
from mechsteer.steering import Intervention
from mechsteer.studies.core.choose import at_edge
from mechsteer.studies.instruction_vectors.bench import Bench
from mechsteer.tasks import Instructions

if TYPE_CHECKING:
    import pandas as pd

NONE = -1
"""The layer that stands for no steering, as in the authors' files."""


@dataclass(frozen=True)
class Choice:
    """A layer, and for added vectors the coefficient c in units of the vector's norm; layer -1 for no steering."""

    layer: int = NONE
    step: float = 0.0

    @property
    def steers(self) -> bool:
        """Whether anything is done."""
        return self.layer != NONE


Make = Callable[[Choice, Instructions], Intervention]
"""Makes the intervention of a choice for the prompts of a task."""

Rescore = Callable[["pd.DataFrame"], "pd.DataFrame"]
"""Gives sample rows another adherence and fidelity."""


def grid(layers: int) -> list[int]:
    """Every second layer from a fifth of the model on."""
    return list(range(layers // 5, layers, 2))


def candidates(layers: Sequence[int], steps: Sequence[float] = (0.0,)) -> list[Choice]:
    """No steering, then every layer with every step."""
    return [Choice(), *(Choice(layer, step) for layer in layers for step in steps)]


def strongest(options: Sequence[Choice], chosen: Choice) -> bool:
    """Whether the choice is at the end of its ladder of coefficients, beyond which nothing was tried (``edge``).

    Projections have no coefficient, so there is no edge.
    """
    return chosen.step > 0 and at_edge(sorted(option.step for option in options), chosen.step)


def best(table: "pd.DataFrame", *, tolerate: float = 0.0) -> Choice:
    """The rule.

    Args:
        table: One row a candidate: layer, step, accuracy and bad (the share of bad outputs), both from 0 to 1.
        tolerate: The largest share of bad outputs that passes. The paper's is 0, and for base models the share
            without steering.
    """
    ordered = table.sort_values(["layer", "step"], kind="stable")  # no steering has layer -1
    row = ordered.iloc[int(filtered(ordered, tolerate).to_numpy().argmax())]
    return Choice(int(row["layer"]), float(row["step"]))


def filtered(table: "pd.DataFrame", tolerate: float) -> "pd.Series":
    """The accuracies, 0 where there are too many bad outputs; without steering there never are."""
    passed = (table["bad"] <= tolerate) | (table["layer"] == NONE)
    return table["accuracy"].where(passed, 0.0)


def choose(
    bench: Bench,
    task: Instructions,
    make: Make,
    options: Sequence[Choice],
    *,
    rescore: Rescore | None = None,
    with_fidelity: bool = False,
    tolerate_unsteered: bool = False,
) -> "tuple[Choice, list[dict[str, Any]]]":
    """Measure every candidate on validation prompts.

    Args:
        bench: The model.
        task: The prompts.
        make: Makes the interventions.
        options: The candidates.
        rescore: Gives sample rows their scores; default: they have them.
        with_fidelity: Compare adherence times fidelity, where fidelity is known.
        tolerate_unsteered: Let candidates pass that have no more bad outputs than there are without steering.

    Returns:
        The choice, and one row a candidate: layer, step, :func:`percentages`, compared, chosen and edge.
        ``compared`` is what the choice compares, after the filter and from 0 to 1; ``edge`` is :func:`strongest`.
    """
    import pandas as pd

    steers = [make(option, task) if option.steers else None for option in options]
    bench.prefetch(task, steers)
    tables = [bench.measure(task, steer) for steer in steers]
    tables = [rescore(table) if rescore else table for table in tables]
    rows = pd.DataFrame(
        [
            {
                "layer": option.layer,
                "step": option.step,
                "accuracy": _value(table, with_fidelity),
                "bad": float(table["bad"].mean()),
            }
            for option, table in zip(options, tables, strict=True)
        ]
    )
    tolerate = float(rows.loc[rows["layer"] == NONE, "bad"].max()) if tolerate_unsteered else 0.0
    chosen = best(rows, tolerate=tolerate)
    return chosen, [
        {
            "layer": option.layer,
            "step": option.step,
            **percentages(table),
            "compared": value,
            "chosen": option == chosen,
            "edge": option == chosen and strongest(options, chosen),
        }
        for option, table, value in zip(options, tables, filtered(rows, tolerate), strict=True)
    ]


def _value(table: "pd.DataFrame", with_fidelity: bool) -> float:
    both = (table["adherence"] * table["fidelity"]).mean()
    return float(table["adherence"].mean() if not with_fidelity or math.isnan(both) else both)


def percentages(table: "pd.DataFrame", suffix: str = "") -> dict[str, Any]:
    """Adherence and fidelity of sample rows in percent, with 95 % intervals by topic; bad outputs, and n."""
    found: dict[str, Any] = {}
    for name in ("adherence", "fidelity"):
        found |= percent_of(table, table[name].astype(float).tolist(), f"{name}{suffix}_percent")
    return found | {f"bad{suffix}_percent": 100 * float(table["bad"].mean()), "n": len(table)}


def percent_of(table: "pd.DataFrame", values: Sequence[float], name: str) -> dict[str, float]:
    """The mean of scores of sample rows in percent, and the ends of its 95 % interval by topic."""
    clusters = table["topic"] if "topic" in table else table.index
    return interval_columns([name], cluster_interval(values, clusters.tolist())[:3], factor=100)


def difference_of(table: "pd.DataFrame", before: Any, after: Any, name: str) -> dict[str, float]:
    """After minus before of the scores of sample rows in percentage points, with its 95 % interval by topic."""
    clusters = table["topic"] if "topic" in table else table.index
    changes = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    mean, low, high, _ = paired_interval(changes, clusters.tolist())
    return {f"{name}_pp": 100 * mean, f"{name}_low_pp": 100 * low, f"{name}_high_pp": 100 * high}


def adjusted(table: "pd.DataFrame") -> list[float]:
    """Holm's adjustment of McNemar's p over the rows of a table in which something is steered."""
    return holm(table["p_value"].where(table["layer"] != NONE).tolist())
