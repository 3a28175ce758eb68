"""What predicts success before anything is generated: Influence, rollout, raw attention, or the length alone.

As in GUIDE (arXiv 2409.19001), of unsteered prompts: Influence and rollout of the span at the last layer, mean over the
last tokens; raw attention, the mean of the last layer's weights over heads and the span's keys at the last token; and 1
over the number of tokens. The paper compares them over all lengths, where the length itself does well; so this also
compares prompts of one length only, and of one length and kind (``within``).

AUC: of a success and a failure, how often the success has the larger value (ties count half), over the pairs of one
group. Pearson: r of value and success, means of groups taken out. Both with 95 % bootstrap intervals over prompts, as
has the difference of AUC from Influence's, from the same resamples.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.analysis import attention, influence, rollout
from mechsteer.analysis.bootstrap import interval, resamples
from mechsteer.analysis.match_influence import last_tokens
from mechsteer.models import stacks
from mechsteer.prompts import Prompt

if TYPE_CHECKING:
    import pandas as pd

PREDICTORS = ("influence", "rollout", "attention", "1 / length")
WITHIN = {"all": [], "length": ["length"], "length and kind": ["length", "kind"]}
SUCCESS = 0.5


def predictors(model: Any, prompts: Sequence[Prompt], span: str, *, last: int) -> "pd.DataFrame":
    """The values of every predictor, one row a prompt: prompt, tokens and a column for each of ``PREDICTORS``."""
    import pandas as pd

    layer = stacks(model)["blocks"] - 1
    flows = {
        "influence": last_tokens(influence(model, prompts, span), "influence", last=last),
        "rollout": last_tokens(rollout(model, prompts, span), "rollout", last=last),
    }
    raw = [_raw(model, prompt, span, layer) for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]
    table = pd.DataFrame({"prompt": range(len(prompts)), "tokens": lengths, **flows, "attention": raw})
    return table.assign(**{"1 / length": 1 / table["tokens"]})


def _raw(model: Any, prompt: Prompt, span: str, layer: int) -> float:
    weights, _, _ = attention(model, prompt, layer)
    return float(weights[:, -1, prompt.positions(span)].mean())


def predict(table: "pd.DataFrame", *, samples: int = 1000) -> "pd.DataFrame":
    """How well each predictor tells success (a score above 0.5) from failure.

    Args:
        table: One row a prompt: task, length, kind, score and a column for each predictor.
        samples: Bootstrap samples.

    Returns:
        One row a task, predictor and ``within``: auc, auc_low, auc_high, pearson_r, pearson_r_low, pearson_r_high, n,
        successes and pairs (of a success and a failure of one group), auc_minus_influence with its ends. Values are
        missing where there are no pairs.
    """
    import pandas as pd

    rows = []
    for task, part in table.groupby("task", sort=False):
        success = torch.tensor((part["score"] > SUCCESS).to_numpy())
        counts = resamples(len(part), samples=samples).double()
        for within, columns in WITHIN.items():
            if "kind" in columns and part["kind"].nunique() == 1:
                continue
            group = torch.tensor(part.groupby(columns).ngroup().to_numpy() if columns else [0] * len(part))
            first = None  # Influence
            for name in PREDICTORS:
                values = torch.tensor(part[name].to_numpy(dtype=float))
                row = {"task": task, "predictor": name, "within": within, **_row(values, success, group, counts)}
                areas = auc(values, success, group, torch.cat([torch.ones(1, len(part)).double(), counts]))
                first = areas if first is None else first
                rows.append(row | _beside(areas - first))
    return pd.DataFrame(rows)


def _beside(differences: Float[Tensor, "samples"]) -> dict[str, float]:
    """A difference of areas and the ends of its interval; the first is that of the prompts themselves."""
    low, high = interval(differences[1:])
    name = "auc_minus_influence"
    return {name: float(differences[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def _row(
    values: Float[Tensor, "n"], success: Bool[Tensor, "n"], group: Tensor, counts: Float[Tensor, "samples n"]
) -> dict[str, float]:
    once = torch.ones(1, len(values), dtype=torch.float64)
    areas, r = auc(values, success, group, counts), pearson(values, success, group, counts)
    auc_low, auc_high = interval(areas)
    r_low, r_high = interval(r)
    pairs = (group[success][:, None] == group[~success][None]).sum()
    return {
        "auc": float(auc(values, success, group, once)),
        "auc_low": float(auc_low),
        "auc_high": float(auc_high),
        "pearson_r": float(pearson(values, success, group, once)),
        "pearson_r_low": float(r_low),
        "pearson_r_high": float(r_high),
        "n": len(values),
        "successes": int(success.sum()),
        "pairs": int(pairs),
    }


def auc(
    values: Float[Tensor, "n"], success: Bool[Tensor, "n"], group: Tensor, counts: Float[Tensor, "samples n"]
) -> Float[Tensor, "samples"]:
    """Of pairs of a success and a failure in one group, the part where the success has the larger value; ties half.

    Args:
        values: The predictor.
        success: Who succeeded.
        group: The group of each.
        counts: How often each counts, in every sample.
    """
    won, lost = values[success][:, None], values[~success][None]
    same = (group[success][:, None] == group[~success][None]).double()
    larger = ((won > lost).double() + 0.5 * (won == lost).double()) * same
    above = ((counts[:, success] @ larger) * counts[:, ~success]).sum(1)
    return above / ((counts[:, success] @ same) * counts[:, ~success]).sum(1)  # NaN where there are no pairs


def pearson(
    values: Float[Tensor, "n"], success: Bool[Tensor, "n"], group: Tensor, counts: Float[Tensor, "samples n"]
) -> Float[Tensor, "samples"]:
    """Correlation of value and success, with the groups' means taken out (those of each sample)."""
    x, y = values.double(), success.double()
    x = (x - x.mean()) / x.std().clamp(min=1e-300)
    member = torch.nn.functional.one_hot(group.long()).double()
    size = (counts @ member).clamp(min=1e-12)

    def product(a: Tensor, b: Tensor) -> Tensor:
        total = (counts * (a * b)) @ member
        return (total - ((counts * a) @ member) * ((counts * b) @ member) / size).sum(1)

    spread = product(x, x).clamp(min=0) * product(y, y).clamp(min=0)
    return torch.where(spread > 1e-12, product(x, y) / spread.clamp(min=1e-300).sqrt(), torch.nan)
