"""Attention sinks: positions whose residual stream is far larger than that of all others.

See :mod:`mechsteer.steering.sinks` for what they are and what they do to steering.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.errors import finite, not_finite
from mechsteer.models import advance, as_prompts, is_encoder_decoder, model_info, parse, site, stacks
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, begin, run_batches
from mechsteer.steering.sinks import SINK_RATIO, norm_ratios

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = 8
"""How many positions of an encoder-decoder's decoder are looked at: its start token, and what it writes greedily."""


@torch.no_grad()
def sinks(
    model: Any, prompts: str | Prompt | Sequence[str | Prompt], *, above: float = SINK_RATIO, batch_size: int = 32
) -> "pd.DataFrame":
    """Where the residual stream is far larger than elsewhere in the same sequence.

    Args:
        model: A loaded model.
        prompts: Texts or prompts, of at least two tokens; one or many.
        above: How many times the median norm of a prompt's positions, after the same block, a sink's norm has at least.
        batch_size: Prompts computed together.

    Returns:
        One row a sink: columns layer (its stream after that block), position (from the sequence's first token), norm
        (L2) and ratio (to the median); where several prompts have it, their medians. Encoder-decoders have the column
        stack too; their decoder's positions are its start token and the seven tokens that it writes. No rows where
        there is no sink.

    Raises:
        MechsteerError: for no prompts, a number that is not finite, or NaN in the stream.
    """
    import pandas as pd

    finite("above", above)
    sites = [site(model, "resid_post", layer, stack) for stack, n in stacks(model).items() for layer in range(n)]
    norms: dict[str, list[Float[Tensor, "rows positions"]]] = {}
    rows: list[tuple[str, int, int, float, float]] = []

    def run(step: Step) -> None:
        norms.clear()
        written = _run(model, step)
        for name in sites:
            real = written if name.startswith("decoder") else step.batch.mask
            rows.extend(_found(name, torch.cat(norms[name], dim=1), real, step, above))

    def keep(x: Tensor, hook: Any) -> None:
        norms.setdefault(hook.name, []).append(x.float().norm(dim=-1).cpu())

    hooks = [(name, keep) for name in sites]
    run_batches(model, as_prompts(model, prompts), run, steer=Intervention(), batch_size=batch_size, hooks=hooks)
    keys = ["stack"] * is_encoder_decoder(model) + ["layer", "position"]
    table = pd.DataFrame(rows, columns=["stack", "layer", "position", "norm", "ratio"])
    return table.groupby(keys, sort=True)[["norm", "ratio"]].median().reset_index()


def _run(model: Any, step: Step) -> Bool[Tensor, "rows positions"]:
    """Run the prompts, and of an encoder-decoder's decoder a few steps: which of its positions are before an end."""
    state, tokens, mask = begin(model, step)
    logits = advance(model, state, tokens, mask)
    real = torch.ones((len(tokens), 1), dtype=torch.bool)
    ends = torch.tensor(model_info(model).eos_ids)
    for _ in range(WRITTEN - 1 if is_encoder_decoder(model) else 0):
        tokens = logits[:, -1:].argmax(-1).cpu()
        real = torch.cat([real, real[:, -1:] & ~torch.isin(tokens, ends)], dim=1)
        logits = advance(model, state, tokens, torch.ones_like(tokens, dtype=torch.bool))
    return real


def _found(
    name: str, norms: Float[Tensor, "rows positions"], real: Bool[Tensor, "rows positions"], step: Step, above: float
) -> list[tuple[str, int, int, float, float]]:
    """Stack, layer, position, norm and ratio of each sink of a batch at one site."""
    places = step.index or range(len(norms))
    bad = (~norms.isfinite() & real).any(1)
    if bad.any():
        raise not_finite(name, places[int(bad.nonzero()[0])])
    stack, layer, _ = parse(name) or ("", -1, "")
    ratios, first = norm_ratios(norms, real), real.int().argmax(1)
    return [
        (stack, layer, column - int(first[row]), norms[row, column].item(), ratios[row, column].item())
        for row, column in (ratios >= above).nonzero().tolist()
    ]
