"""Attention sinks: positions whose residual stream is far larger than that of all others.

See :mod:`mechsteer.steering.sinks` for what they are and what they do to steering.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.errors import finite, not_finite, positive_int
from mechsteer.models import advance, as_prompts, is_encoder_decoder, loaded_info, parse, site, stacks
from mechsteer.models.hooking import Kept
from mechsteer.prompts import Prompts
from mechsteer.sources import Recorded, as_recorded, check_made_by, refuse_steer
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches
from mechsteer.steering.sinks import SINK_RATIO, norm_ratios

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = 8
"""How many positions of an encoder-decoder's decoder are looked at: its start token, and what it writes greedily."""


@torch.no_grad()
def sinks(
    model: Any,
    prompts: Prompts | Any = None,
    *,
    above: float = SINK_RATIO,
    steer: Intervention | None = None,
    batch_size: int = 32,
) -> "pd.DataFrame":
    """Where the residual stream is far larger than elsewhere in the same sequence.

    Args:
        model: A loaded model; or captured activations: a store, what :func:`mechsteer.capture` returned, one group of
            either, or the library's cache. They need ``resid_post`` at all positions (of a decoder, those that it
            wrote: ``generate=8`` captures what is looked at of a model). The sites that they have are looked at.
        prompts: Texts or prompts, of at least two tokens; one or many. Of captured activations None.
        above: How many times the median norm of a prompt's positions, after the same block, a sink's norm has at least.
        steer: An intervention to look under.
        batch_size: Prompts computed together.

    Returns:
        One row a sink: columns layer (its stream after that block), position (from the sequence's first token), norm
        (L2) and ratio (to the median); where several prompts have it, their medians. Encoder-decoders have the column
        stack too; their decoder's positions are its start token and the seven tokens that it writes. No rows where
        there is no sink.

    Raises:
        MechsteerError: for no prompts, a number that is not finite, NaN in the stream, an intervention that does not
            fit, or positions that were not captured.

    Example:
        >>> ms.sinks(model, prompts)
    """
    import pandas as pd

    finite("above", above)
    positive_int("batch_size", batch_size)
    source = as_recorded(model)
    if source is None and (source := as_recorded(prompts)) is not None:
        check_made_by(model, [source])
    if source is not None:
        refuse_steer(source, steer)
        rows = _captured(source, above, batch_size)
        two_stacks = source.predicting() == "decoder"
    else:
        rows = _of_model(model, prompts, above, as_intervention(steer), batch_size)
        two_stacks = is_encoder_decoder(model)
    keys = ["stack"] * two_stacks + ["layer", "position"]
    table = pd.DataFrame(rows, columns=["stack", "layer", "position", "norm", "ratio"])
    return table.groupby(keys, sort=True)[["norm", "ratio"]].median().reset_index()


Sink = tuple[str, int, int, float, float]
"""Stack, layer, position, norm and ratio."""


def _of_model(model: Any, prompts: Prompts, above: float, steer: Intervention, batch_size: int) -> list[Sink]:
    """The sinks of prompts that are run."""
    made = as_prompts(model, prompts)
    sites = [site(model, "resid_post", layer, stack) for stack, n in stacks(model).items() for layer in range(n)]
    kept = Kept(sites, lambda x, site: x.float().norm(dim=-1).cpu())
    rows: list[Sink] = []

    def run(step: Step) -> None:
        written = _run(model, step)
        for name in sites:
            real = written if name.startswith("decoder") else step.batch.mask
            rows.extend(_found(name, kept.take(name), real, step.index or range(len(real)), above))

    run_batches(model, made, run, steer=steer, batch_size=batch_size, hooks=kept.hooks)
    return rows


def _captured(source: Recorded, above: float, size: int) -> list[Sink]:
    """The sinks of prompts that were captured, ``size`` of them in memory at a time."""
    rows: list[Sink] = []
    for name, stack in source.stacks.items():
        parsed = parse(name)
        if parsed is None or parsed[2] != "resid_post":
            continue
        places, members = source.places(stack), source.members
        for first in range(0, len(members), size):
            some = members[first : first + size]
            each = [source.rows(name, member, places) for member in some]
            lengths = [len(found) for found in each]
            norms = source.read(name, np.concatenate(each)).float().norm(dim=-1).split(lengths)
            real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            padded = torch.nn.utils.rnn.pad_sequence(list(norms), batch_first=True)
            rows.extend(_found(name, padded, real, range(first, first + len(some)), above))
    if not any((parsed := parse(name)) and parsed[2] == "resid_post" for name in source.stacks):
        source.layers("resid_post")  # says what to capture
    return rows


def _run(model: Any, step: Step) -> Bool[Tensor, "rows positions"]:
    """Run the prompts, and of an encoder-decoder's decoder a few steps: which of its positions are before an end."""
    state, tokens, mask = begin(model, step)
    logits = advance(model, state, tokens, mask)
    real = torch.ones((len(tokens), 1), dtype=torch.bool)
    ends = torch.tensor(loaded_info(model).eos_ids)
    for _ in range(WRITTEN - 1 if is_encoder_decoder(model) else 0):
        tokens = logits[:, -1:].argmax(-1).cpu()
        real = torch.cat([real, real[:, -1:] & ~torch.isin(tokens, ends)], dim=1)
        logits = advance(model, state, tokens, torch.ones_like(tokens, dtype=torch.bool))
    return real


def _found(
    name: str,
    norms: Float[Tensor, "rows positions"],
    real: Bool[Tensor, "rows positions"],
    places: Sequence[int] | range,
    above: float,
) -> list[Sink]:
    """The sinks of a batch at one site."""
    bad = (~norms.isfinite() & real).any(1)
    if bad.any():
        raise not_finite(name, places[int(bad.nonzero()[0])])
    stack, layer, _ = parse(name) or ("", -1, "")
    ratios, first = norm_ratios(norms, real), real.int().argmax(1)
    return [
        (stack, layer, column - int(first[row]), norms[row, column].item(), ratios[row, column].item())
        for row, column in (ratios >= above).nonzero().tolist()
    ]
