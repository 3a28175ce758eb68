"""Cosine similarity of last-token states by layer: what an instruction does to them, and what the query does.

Paper: "Improving Instruction-Following in Language Models through Activation Steering" (arXiv 2410.12877), the cosine
figure: for pairs of a query with an instruction (state x+_i) and without it (x_i), at the last token of the prompt,

    same instruction, different query     mean over i, j of cos(x+_i, x+_j)
    same query, with and without          mean over i    of cos(x+_i, x_i)
    different queries                     mean over i, j of cos(x_i, x_j)

The authors' means run over the whole matrix, i = j included, which adds (1 - c) / n to a mean of c over n queries;
``diagonal=True`` does so, and False leaves i = j out. Ours: the fourth curve, ``different instructions``, the mean of
cos(x+_i, x+_j) where i and j have different ones, and the intervals.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.bootstrap import SAMPLES, interval, resamples
from mechsteer.errors import MechsteerError, listed
from mechsteer.sources import GROUPS, Pair, Paired, pairs_at_layers
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

Block = tuple[int, int]
"""Pairs from one to before another."""


@torch.no_grad()
def similarity(
    model: Any,
    pairs: Sequence[Pair] | Any = None,
    *,
    groups: Sequence[str] = GROUPS,
    instructions: Sequence[str] | None = None,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    stack: str | None = None,
    diagonal: bool = True,
    steer: Intervention | None = None,
    batch_size: int = 32,
    n_boot: int = SAMPLES,
    seed: int = 0,
    progress: bool = False,
) -> "pd.DataFrame":
    """Mean cosine of last-token states by layer and relation.

    Args:
        model: A loaded model; or captured activations: a store, what :func:`mechsteer.capture` returned, or the
            library's caches by group. Of these the last tokens' states are read, some pairs at a time.
        pairs: ``(with instruction, without instruction)``, at least two; or prompts by group. Of captured activations
            None for all of the two groups.
        groups: The names of the groups with and without.
        instructions: A label for each pair; default: the text of the first prompt's span ``instruction``, where it has
            one. Pairs without a label count as of one instruction.
        site: The kind of site; one with a vector a position.
        layers: Default: all; negative ones count from the end.
        stack: ``"encoder"`` for the last token of an encoder-decoder's input; default: the position that predicts.
        diagonal: Include i = j, as the paper's figures do.
        steer: An intervention.
        batch_size: Prompts in one pass; does not change the result.
        n_boot: Resamples of the pairs for the intervals.
        seed: Of the resamples.
        progress: Show a bar.

    Returns:
        One row a layer and relation. Columns: layer, relation, cosine, low, high (95 % bootstrap interval over pairs;
        NaN where n is 1), n (pairs of states that the mean is over). Two pairs with one and the same query, or without
        any of other instructions, are left out of the relations that need them to differ; a relation that is left with
        nothing has no rows.

    Raises:
        MechsteerError: for fewer than two pairs, labels of a wrong number, an unknown site or layer, activations that
            are not finite, or an intervention that does not fit; for a group, layer or position that was not captured.

    Example:
        >>> ms.similarity(model, pairs, n_boot=20)
    """
    import pandas as pd

    found = pairs_at_layers(
        model,
        pairs,
        kind=site,
        layers=layers,
        stack=stack,
        groups=groups,
        at_least=2,
        steer=steer,
        batch_size=batch_size,
        progress=progress,
    )
    relations = _relations(found, _labels([p.instruction for p in found.first], instructions), diagonal)
    counts = resamples(len(found), samples=n_boot, seed=seed)
    rows = []
    for layer, name in found.by_layer():
        for relation in relations:
            if relation.n:
                numbers = _own(found, name, counts) if relation.side is None else _mean(found, name, relation, counts)
                rows.append((layer, relation.name, *numbers, relation.n))
    return pd.DataFrame(rows, columns=["layer", "relation", "cosine", "low", "high", "n"])


@dataclass(frozen=True, eq=False)
class Relation:
    """Which states are compared.

    Attributes:
        name: Its name.
        side: Among those with (0) or without (1); None: of each pair the two.
        instruction: Pairs must have the same instruction (True), different ones (False), or any (None).
        different_queries: They must have different queries.
        diagonal: Each state is compared with itself as well.
        labels: The instruction of each pair, as a number.
        queries: The query of each pair, as a number.
        n: How many comparisons there are, i with j and j with i being one.
    """

    name: str
    side: int | None
    instruction: bool | None
    different_queries: bool
    diagonal: bool
    labels: Int[Tensor, "pairs"]
    queries: Int[Tensor, "pairs"]
    n: int = 0

    def cells(self, rows: Block, columns: Block) -> Float[Tensor, "rows columns"]:
        """1 where a pair is compared with another one."""
        (i, j), (k, m) = rows, columns
        same = self.labels[i:j, None] == self.labels[None, k:m]
        wanted = torch.ones_like(same) if self.instruction is None else same == self.instruction
        if self.different_queries:
            wanted &= self.queries[i:j, None] != self.queries[None, k:m]
        return wanted.double().fill_diagonal_(0.0) if rows == columns else wanted.double()


def _relations(found: Paired, labels: Sequence[str], diagonal: bool) -> list[Relation]:
    numbers = _numbered(labels), _numbered([p.text for p in found.second])
    made = [
        Relation("same instruction, different query", 0, True, True, diagonal, *numbers),
        Relation("same query, with and without", None, None, False, False, *numbers, len(found)),
        Relation("different queries", 1, None, True, diagonal, *numbers),
        Relation("different instructions", 0, False, False, False, *numbers),
    ]
    return [one if one.side is None else _counted(one, found.blocks()) for one in made]


def _counted(relation: Relation, blocks: Sequence[Block]) -> Relation:
    """The relation with its number of comparisons, the diagonal left out where there are no others."""
    others = sum(int(relation.cells(rows, columns).sum()) for rows in blocks for columns in blocks)
    itself = blocks[-1][1] if relation.diagonal and others else 0
    return replace(relation, diagonal=itself > 0, n=others // 2 + itself)


def _labels(own: list[str], instructions: Sequence[str] | None) -> list[str]:
    if instructions is None:
        return own
    labels = listed("instructions", instructions)
    if len(labels) != len(own):
        raise MechsteerError(f"{len(own)} pairs need as many instruction labels, got {len(labels)}.")
    return labels


def _numbered(values: Sequence[str]) -> Int[Tensor, "pairs"]:
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([places[value] for value in values])


def _unit(x: Float[Tensor, "pairs *width"]) -> Float[Tensor, "pairs size"]:
    return torch.nn.functional.normalize(x.double().flatten(1), dim=1)


def _own(found: Paired, site: str, counts: Int[Tensor, "samples pairs"]) -> tuple[float, float, float]:
    """The mean cosine of the two states of a pair, and its interval."""
    total, drawn = torch.zeros(()).double(), torch.zeros(len(counts)).double()
    for (first, end), (with_it, without) in zip(found.blocks(), found.states(site), strict=True):
        own = (_unit(with_it) * _unit(without)).sum(1)
        total += own.sum()
        drawn += torch.einsum("bn,n->b", counts[:, first:end].double(), own)
    low, high = interval(drawn / len(found))
    return float(total / len(found)), float(low), float(high)


def _mean(
    found: Paired, site: str, relation: Relation, counts: Int[Tensor, "samples pairs"]
) -> tuple[float, float, float]:
    """The mean over a relation's comparisons, and its interval.

    A pair that is drawn twice is not compared with itself, except on the diagonal, once a draw.
    """
    once = torch.ones(1, len(found), dtype=counts.dtype)
    sums = [torch.zeros(2, len(drawn)).double() for drawn in (once, counts)]
    for rows, columns, cosines in _cosines(found, site, relation):
        cells = relation.cells(rows, columns)
        for total, drawn in zip(sums, (once, counts), strict=True):
            left, right = drawn[:, slice(*rows)].double(), drawn[:, slice(*columns)].double()
            total += torch.stack([((left @ x) * right).sum(1) for x in (cells * cosines, cells)])
            if relation.diagonal and rows == columns:
                itself = torch.ones(len(cells), dtype=torch.float64)
                total += torch.stack([left @ cosines.diagonal(), left @ itself])
    point, resampled = (total[0] / total[1] for total in sums)
    if relation.n < 2:  # the same comparison in every resample: that is no certainty
        return float(point), math.nan, math.nan
    low, high = interval(resampled)
    return float(point), float(low), float(high)


def _cosines(
    found: Paired, site: str, relation: Relation
) -> Iterator[tuple[Block, Block, Float[Tensor, "rows columns"]]]:
    """All cosines of one side, a block of them at a time."""
    side = relation.side or 0
    for rows in found.blocks():
        left = _unit(found.read(site, side, *rows))
        for columns in found.blocks():
            right = left if columns == rows else _unit(found.read(site, side, *columns))
            yield rows, columns, left @ right.T
