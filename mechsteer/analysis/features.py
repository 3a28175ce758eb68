"""Which features of a sparse autoencoder an instruction switches on: differences of mean activations. Ours.

For pairs of prompts with and without an instruction, each read at its last token (of T5's decoder at its start token):

    difference_i = mean f_i(with) - mean f_i(without),    effect_size_i = difference_i / s_i,

where s_i^2 is the mean of the two variances (Cohen's d). ``change`` is what the difference does to the residual stream,
|difference_i| ||w_i||, and orders the table: a feature with a short row needs a large activation for the same.
The sum of difference_i w_i over all features is the SAE's part of the difference in means
(:func:`mechsteer.difference_in_means`); a few rows of this table are a few terms of it:

    edits = {row.feature: ("add", row.difference) for row in table.itertuples()}
    steer = ms.features(sae, edits, scope="last_prompt")
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.states import last_states
from mechsteer.directions.contrast import Pair, pair_prompts
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.models import check_model
from mechsteer.models import site as site_name
from mechsteer.steering import Intervention
from mechsteer.steering.sae_conventions import as_trained, check_prompts
from mechsteer.steering.saes import activations_of, as_sae, check_sae, decoder_rows, site_of

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1024  # prompts encoded at once: wide SAEs


@torch.no_grad()
def instruction_features(
    model: Any,
    sae: Any,
    pairs: Sequence[Pair],
    *,
    top: int | None = 20,
    site: str | None = None,
    transfer: bool = False,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> "pd.DataFrame":
    """The features whose activation an instruction changes most.

    Args:
        model: A loaded model.
        sae: A SAELens SAE, loaded (:func:`mechsteer.load_sae`) or just trained.
        pairs: ``(with instruction, without instruction)``; at least two.
        top: How many features; None for all.
        site: The full name of the hook point; default: the SAE's own.
        transfer: Allow an SAE of another site or model of the same width, or of other texts.
        steer: An intervention, in both prompts of every pair.
        batch_size: Prompts in one pass; does not change the result.
        progress: Show a bar.

    Returns:
        One row a feature, the largest change first. Columns: feature, difference (in units of the feature's
        activation), effect_size (infinite for features that differ but do not vary), change (in units of the residual
        stream), cosine (of the feature's row with the difference in means), mean_with, mean_without, frequency_with,
        frequency_without (shares of the prompts in which it is active).

    Raises:
        MechsteerError: for fewer than two pairs, an SAE that does not fit, activations that are not finite.
    """
    import pandas as pd

    if top is not None:
        positive_int("top", top)
    check_model(model)
    made = as_sae(sae)
    at = site_name(model, site_of(made, site))
    check_sae(made, model, at, transfer=transfer)
    first, second = pair_prompts(model, pairs, at_least=2)
    check_prompts(made, model, [*first, *second], transfer=transfer)
    states = last_states(model, [*first, *second], [at], steer=steer, batch_size=batch_size, progress=progress)[at]
    states = as_trained(made, states, at)
    acts = torch.cat([activations_of(made, part[:, None])[:, 0].float().cpu() for part in states.split(CHUNK)])
    if not acts.isfinite().all():
        raise MechsteerError(f"The SAE of {at!r} makes NaN or infinite features of finite activations.")
    on, off = acts[: len(first)].double(), acts[len(first) :].double()
    difference = on.mean(0) - off.mean(0)
    spread = ((on.var(0) + off.var(0)) / 2).sqrt()
    rows = decoder_rows(made, tuple(range(made.cfg.d_sae))).double().cpu()
    norms = rows.norm(dim=-1)
    dense = (states[: len(first)] - states[len(first) :]).double().flatten(1).mean(0)
    lengths = (norms * dense.norm()).clamp(min=1e-30)
    table = pd.DataFrame(
        {
            "feature": range(made.cfg.d_sae),
            "difference": difference,
            "effect_size": torch.where(difference == 0, 0.0, difference / spread),
            "change": difference.abs() * norms,
            "cosine": (rows @ dense) / lengths,
            "mean_with": on.mean(0),
            "mean_without": off.mean(0),
            "frequency_with": (on != 0).double().mean(0),
            "frequency_without": (off != 0).double().mean(0),
        }
    )
    table = table.sort_values(["change", "feature"], ascending=[False, True], ignore_index=True)
    return table if top is None else table.head(top)
