"""Vectors that must not work, if what is mined is obedience: mined in the same way from other contrasts.

``exchanged``: from the mining traps, with target and trap exchanged in a random half of them, so that what all of their
gradients share cancels; what is left is the size and place of such gradients without their meaning. (With a fair coin
for each trap one side is a little more frequent, and the vector, scaled to the same norm, is the mined one again or its
opposite.) ``copying``: from made-up sentences, where nothing is
memorised: the instructed word against the word of another sentence; what is left is how to copy, without a memory to
resist. All have the norm of the mined vector.

``by_trap_word``: some trap words of the evaluation are trap words of mining traps too (of other proverbs). A vector
could have learned to suppress these words, so both parts of the evaluation are reported by themselves.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.directions import Direction, gradient_direction
from mechsteer.errors import MechsteerError
from mechsteer.stats import cluster_interval, paired_interval
from mechsteer.steering import add
from mechsteer.studies.core.bench import Bench, Wanted
from mechsteer.tasks import MemoTrap, copying
from mechsteer.tasks.memotrap import Trap

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("correct", "success", "strict", "memorised")
SEEDS = tuple(range(8))
"""Of the halves that are exchanged."""


@dataclass(frozen=True)
class Contrast:
    """What :func:`mechsteer.gradient_direction` needs of an example."""

    prompt: str
    target: str
    trap: str


def exchanged(traps: Sequence[Trap], seed: int) -> list[Trap]:
    """The traps, with target and trap exchanged in half of them (of an odd number, one less)."""
    half = set(random.Random(seed).sample(range(len(traps)), len(traps) // 2))
    return [_exchanged(t) if place in half else t for place, t in enumerate(traps)]


def _exchanged(trap: Trap) -> Trap:
    """The same with target and trap in each other's place; further classes, which a file may have, are left out."""
    other = next(place for place in range(len(trap.classes)) if place != trap.answer_index)
    kept = sorted((trap.answer_index, other))
    return replace(trap, classes=tuple(trap.classes[place] for place in kept), answer_index=kept.index(other))


def copied() -> list[Contrast]:
    """Made-up sentences: the instructed word against that of the next one with another word."""
    samples = copying().samples
    return [
        Contrast(one.prompt, one.answer, next(o.answer for o in (*samples[k:], *samples) if o.answer != one.answer))
        for k, one in enumerate(samples)
    ]


def null_vectors(bench: Bench, traps: MemoTrap, layer: int, compat: str) -> list[tuple[str, int | None, Direction]]:
    """Name, seed and direction of each. The copying contrast is left out where its words begin with the same tokens."""
    made: list[tuple[str, int | None, Direction]] = []
    for seed in SEEDS:
        made.append(
            ("exchanged", seed, _mined(bench, f"exchanged-{seed}", exchanged(traps.samples, seed), layer, compat))
        )
    try:
        made.append(("copying", None, _mined(bench, "copying", copied(), layer, compat)))
    except MechsteerError:
        pass
    return made


def _mined(bench: Bench, name: str, examples: Sequence[Any], layer: int, compat: str) -> Direction:
    def make(layers: Sequence[int]) -> dict[int, Direction]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Target and trap start with the same token")
            return {n: gradient_direction(bench.model, examples, layer=n, compat=compat) for n in layers}

    about = {"gradient of": examples, "compat": compat}
    return bench.directions(f"{name}-layer-{layer:02d}", [layer], about, make)[layer]


def nulls(
    bench: Bench,
    task: MemoTrap,
    vectors: Sequence[tuple[str, int | None, Direction]],
    mined: Direction,
    scale: float,
) -> "pd.DataFrame":
    """One row a null vector: control, seed, percentages on the evaluation traps, and its cosine to the mined one."""
    import pandas as pd

    wanted = [Wanted(task, add(direction, scale)) for *_, direction in vectors]
    bench.prefetch(wanted)
    rows = [
        {"control": name, "seed": seed, **percentages(bench.rows(one)), "cosine": _cosine(direction, mined)}
        for (name, seed, direction), one in zip(vectors, wanted, strict=True)
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"}).assign(scale=scale)


def _cosine(one: Direction, other: Direction) -> float:
    return float(torch.nn.functional.cosine_similarity(one.vector.float(), other.vector.float(), dim=0))


def by_trap_word(task: MemoTrap, tables: "Mapping[str, Sequence[pd.DataFrame]]") -> "pd.DataFrame":
    """The percentages by whether the trap word is that of a mining trap too.

    Args:
        task: The traps.
        tables: By name, the sample rows of a run; of several seeds, all of them.

    Returns:
        One row a name and part: row, trap_word, the means over seeds, and for a single one their intervals; n.
    """
    import pandas as pd

    mined = {trap.trap.lower() for trap in task.mining}
    shared = pd.Series([trap.trap.lower() in mined for trap in task.samples])
    rows = []
    for name, seeds in tables.items():
        for label, part in (("of no mining trap", ~shared), ("also of a mining trap", shared)):
            if part.any() and seeds:
                found = pd.DataFrame([percentages(table.reset_index(drop=True)[part]) for table in seeds])
                kept = found if len(seeds) == 1 else found[[f"{score}_percent" for score in SCORES] + ["n"]]
                rows.append({"row": name, "trap_word": label, "seeds": len(seeds), **kept.mean().to_dict()})
    return pd.DataFrame(rows).astype({"n": int})


def percentages(samples: "pd.DataFrame") -> dict[str, float]:
    """The mean of each score of a MemoTrap sample table in percent with its interval by proverb, and n."""
    found: dict[str, float] = {}
    for name in SCORES:
        ends = cluster_interval(samples[name].tolist(), proverbs(samples))[:3]
        found |= interval_columns([f"{name}_percent"], ends, factor=100)
    return found | {"n": len(samples)}


def improvement(before: "pd.DataFrame", after: "pd.DataFrame", score: str, name: str) -> dict[str, float]:
    """The change of a score on the same traps, in percentage points, with its interval by proverb."""
    change = (after[score].astype(float) - before[score].astype(float)).tolist()
    return interval_columns([name], paired_interval(change, proverbs(before))[:3], factor=100)


def proverbs(samples: "pd.DataFrame") -> list[str]:
    """What traps are clustered by: the beginnings of their proverbs."""
    return [prompt.partition(":")[2].strip() for prompt in samples["prompt"]]
