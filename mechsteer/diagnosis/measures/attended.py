"""Is the span attended to at the answer? Attention mass by layer, beside control spans of the same length.

The mass of a span is the sum of the attention weights on its keys, mean over heads and over the answer's first
positions: the one that predicts the first token, and those of the answer's own first tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mechsteer.analysis.influence import influence
from mechsteer.diagnosis.measures.windows import FIRST_TOKEN, SPANS
from mechsteer.errors import not_finite
from mechsteer.models import is_encoder_decoder, predicting_stack, residual, site, stacks
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, begin, run_batches

if TYPE_CHECKING:
    import pandas as pd


def influence_at_answer(model: Any, prompts: Sequence[Prompt]) -> "pd.DataFrame":
    """:func:`mechsteer.influence` of the instruction and of one control where the first answer token is predicted.

    Returns:
        One row a prompt, layer and span: columns place, layer, span, influence.
    """
    import pandas as pd

    frames = []
    for place, made in enumerate(prompts):
        table = influence(model, made, list(SPANS[:2]))
        table = table[table["stack"] == predicting_stack(model)[0]]
        last = table[table["position"] == table["position"].max()]
        frames.append(last[["layer", "span", "influence"]].assign(place=place))
    return pd.concat(frames, ignore_index=True)[["place", "layer", "span", "influence"]]


@torch.no_grad()
def attention_mass(
    model: Any,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    spans: Sequence[str] = (*SPANS, FIRST_TOKEN),
) -> "pd.DataFrame":
    """The attention on spans at the answer.

    Args:
        model: A loaded model.
        prompts: Prompts that have the spans.
        answers: The first tokens of each prompt's answer.
        spans: The spans.

    Returns:
        One row a prompt, layer and span: columns place, layer, span, mass (0 to 1). Of an encoder-decoder it is the
        decoder's attention to what the encoder read.

    Raises:
        MechsteerError: for weights that are not finite, with the site.
    """
    import pandas as pd

    two = is_encoder_decoder(model)
    kind, stack = ("cross_pattern", "decoder") if two else ("pattern", "blocks")
    sites = {site(model, kind, layer): layer for layer in range(stacks(model)[stack])}
    kept: dict[str, list[Tensor]] = {}
    rows: list[tuple[int, int, str, float]] = []

    def keep(x: Tensor, hook: Any) -> None:
        before = kept.setdefault(hook.name, [])
        weights = x[0] if before or two else x[0, :, -1:]
        before.append(weights.float().mean(0).cpu())

    def run(step: Step) -> None:
        kept.clear()
        place = step.index[0] if step.index else 0
        state, tokens, mask = begin(model, step)
        residual(model, state, tokens, mask)
        if after := list(answers[place][:-1]):
            residual(model, state, torch.tensor([after]), torch.ones((1, len(after)), dtype=torch.bool))
        for name, layer in sites.items():
            for span in spans:
                keys = prompts[place].positions(span)
                mass = float(torch.cat([part[:, keys].sum(-1) for part in kept[name]]).mean())
                if mass != mass:
                    raise not_finite(name, place)
                rows.append((place, layer, span, mass))

    run_batches(model, prompts, run, steer=Intervention(), batch_size=1, hooks=[(name, keep) for name in sites])
    return pd.DataFrame(rows, columns=["place", "layer", "span", "mass"])
