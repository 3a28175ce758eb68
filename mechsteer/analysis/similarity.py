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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.analysis.bootstrap import SAMPLES, interval, mean_interval, resamples
from mechsteer.analysis.states import last_states, pair_sites
from mechsteer.directions.contrast import Pair, pair_prompts
from mechsteer.errors import MechsteerError, listed
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

Matrix = Float[Tensor, "pairs pairs"]


@torch.no_grad()
def similarity(
    model: Any,
    pairs: Sequence[Pair],
    *,
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
        model: A loaded model.
        pairs: ``(with instruction, without instruction)``, at least two.
        instructions: A label for each pair; default: the text of the first prompt's span ``instruction``, where it has
            one.
        site: The kind of site; one with a vector a position.
        layers: Default: all.
        stack: ``"encoder"`` for the last token of an encoder-decoder's input; default: the position that predicts.
        diagonal: Include i = j, as the paper's figures do.
        steer: An intervention.
        batch_size: Prompts in one pass; does not change the result.
        n_boot: Resamples of the pairs for the intervals.
        seed: Of the resamples.
        progress: Show a bar.

    Returns:
        One row a layer and relation. Columns: layer, relation, cosine, low, high (95 % bootstrap interval over pairs),
        n (pairs of states that the mean is over). Two pairs with one and the same query, or without any of other
        instructions, are left out of the relations that need them to differ; a relation that is left with nothing
        has no rows.

    Raises:
        MechsteerError: for fewer than two pairs, labels of a wrong number, an unknown site or layer, activations that
            are not finite, or an intervention that does not fit.
    """
    import pandas as pd

    first, second = pair_prompts(model, pairs, at_least=2)
    labels = _labels(first, instructions)
    names = pair_sites(model, site, layers, stack)
    states = last_states(
        model, [*first, *second], list(names.values()), steer=steer, batch_size=batch_size, progress=progress
    )
    same_query = _equal([p.text for p in second])
    same_instruction = _equal(labels)
    counts = resamples(len(first), samples=n_boot, seed=seed)
    rows = []
    for layer, name in names.items():
        unit = torch.nn.functional.normalize(states[name].double().flatten(1), dim=1)
        with_it, without = unit[: len(first)], unit[len(first) :]
        own, low, high = mean_interval((with_it * without).sum(1), samples=n_boot, seed=seed)
        gram = with_it @ with_it.T
        found = {
            "same instruction, different query": _mean(gram, same_instruction & ~same_query, diagonal, counts),
            "same query, with and without": (float(own), float(low), float(high), len(first)),
            "different queries": _mean(without @ without.T, ~same_query, diagonal, counts),
            "different instructions": _mean(gram, ~same_instruction, False, counts),
        }
        rows += [(layer, relation, *numbers) for relation, numbers in found.items() if numbers[-1]]
    return pd.DataFrame(rows, columns=["layer", "relation", "cosine", "low", "high", "n"])


def _labels(prompts: Sequence[Prompt], instructions: Sequence[str] | None) -> list[str]:
    if instructions is None:
        return [" ".join(p.str_tokens[i] for i in p.positions("instruction")) if "instruction" in p.spans else ""
                for p in prompts]  # fmt: skip
    labels = listed("instructions", instructions)
    if len(labels) != len(prompts):
        raise MechsteerError(f"{len(prompts)} pairs need as many instruction labels, got {len(labels)}.")
    return labels


def _equal(values: Sequence[str]) -> Bool[Tensor, "pairs pairs"]:
    return torch.tensor([[a == b for b in values] for a in values])


def _mean(
    cosines: Matrix, wanted: Bool[Tensor, "pairs pairs"], diagonal: bool, counts: Float[Tensor, "samples pairs"]
) -> tuple[float, float, float, int]:
    """The mean over the wanted cells, its interval, and how many they are (i, j and j, i being one).

    A pair that is drawn twice is not compared with itself, except on the diagonal, once a draw.
    """
    cells = wanted.double().fill_diagonal_(0.0)
    on_it = (
        torch.ones(len(cells), dtype=torch.float64) if diagonal and cells.any() else torch.zeros(len(cells)).double()
    )
    n = int(cells.sum() / 2 + on_it.sum())
    if not n:
        return float("nan"), float("nan"), float("nan"), 0

    def mean(drawn: Float[Tensor, "samples pairs"]) -> Float[Tensor, "samples"]:
        total = ((drawn @ (cells * cosines)) * drawn).sum(1) + drawn @ (on_it * cosines.diagonal())
        return total / (((drawn @ cells) * drawn).sum(1) + drawn @ on_it)

    low, high = interval(mean(counts))
    return float(mean(torch.ones(1, len(cells), dtype=torch.float64))), float(low), float(high), n
