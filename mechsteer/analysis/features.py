"""Which features of a sparse autoencoder an instruction switches on: differences of mean activations. Ours.

For pairs of prompts with and without an instruction, each read at its last token (of T5's decoder at its start token):

    difference_i = mean f_i(with) - mean f_i(without),    effect_size_i = difference_i / s_i,

where s_i^2 is the mean of the two variances (Cohen's d). ``change`` is what the difference does to the residual stream,
|difference_i| ||w_i||, and orders the table: a feature with a short row needs a large activation for the same. An SAE
that normalises what it reads writes s(x) times its rows (:mod:`mechsteer.steering.saes`): so does ``change``, with the
mean of s(x) over the prompts. Of other SAEs, the sum of difference_i w_i over all features is the SAE's part of the
difference in means (:func:`mechsteer.difference_in_means`); a few rows of this table are a few terms of it:

    edits = {row.feature: ("add", row.difference) for row in table.itertuples()}
    steer = ms.features(sae, edits, scope="last_prompt")
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.moments import Moments
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.models import check_model
from mechsteer.models import site as site_name
from mechsteer.sources import GROUPS, Pair, Paired, Recorded, as_recorded, paired
from mechsteer.steering import Intervention
from mechsteer.steering.sae_conventions import as_trained, check_prompts, processing
from mechsteer.steering.saes import activations_of, as_sae, check_origin, check_sae, decoder_rows, output_scale, site_of

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1024  # prompts encoded at once: wide SAEs


@torch.no_grad()
def instruction_features(
    model: Any,
    sae: Any,
    pairs: Sequence[Pair] | Any = None,
    *,
    groups: Sequence[str] = GROUPS,
    top: int | None = 20,
    site: str | None = None,
    transfer: bool = False,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> "pd.DataFrame":
    """The features whose activation an instruction changes most.

    Args:
        model: A loaded model; or captured activations in its place. What the SAE's metadata say of the model's weights
            can be checked with the model alone: give it, and captured activations in the place of the pairs.
        sae: A SAELens SAE, loaded (:func:`mechsteer.load_sae`) or just trained.
        pairs: ``(with instruction, without instruction)``, at least two; or prompts by group; or captured activations:
            a store, what :func:`mechsteer.capture` returned, or the library's caches by group.
        groups: The names of the groups with and without.
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
        MechsteerError: for fewer than two pairs, an SAE that does not fit, activations that are not finite; for a
            group, site or position that was not captured.

    Example:
        >>> ms.instruction_features(model, ms.load_sae("organism:instruct-llama"), pairs, top=5)
    """
    import pandas as pd

    if top is not None:
        positive_int("top", top)
    live = as_recorded(model) is None and not isinstance(model, Mapping)
    if live:
        check_model(model)
    made = as_sae(sae)
    at = site_name(model, site_of(made, site)) if live else site_of(made, site)
    if live:
        check_sae(made, model, at, transfer=transfer)

    def recorded_site(source: Recorded) -> dict[int, str]:
        if not live and not transfer:
            _check_unseen(made, source, at)
        return {0: source.site(at)}

    found = paired(
        model,
        pairs,
        sites=lambda model: {0: at},
        recorded_sites=recorded_site,
        groups=groups,
        at_least=2,
        steer=steer,
        batch_size=batch_size,
        progress=progress,
    )
    if live and not transfer:
        for block in found.blocks():
            check_prompts(made, model, [p for side in (0, 1) for p in found.prompts(side, *block)], transfer=False)
    (on, active_on), (off, active_off), dense, scale = _features(made, found, at)
    difference = on.mean - off.mean
    spread = ((on.variance + off.variance) / 2).sqrt()
    rows = decoder_rows(made, tuple(range(made.cfg.d_sae))).double().cpu()
    norms = rows.norm(dim=-1)
    lengths = (norms * dense.norm()).clamp(min=1e-30)
    table = pd.DataFrame(
        {
            "feature": range(made.cfg.d_sae),
            "difference": difference,
            "effect_size": torch.where(difference == 0, 0.0, difference / spread),
            "change": scale * difference.abs() * norms,
            "cosine": (rows @ dense) / lengths,
            "mean_with": on.mean,
            "mean_without": off.mean,
            "frequency_with": active_on / on.count,
            "frequency_without": active_off / off.count,
        }
    )
    table = table.sort_values(["change", "feature"], ascending=[False, True], ignore_index=True)
    return table if top is None else table.head(top)


Counted = tuple[Moments, Float[Tensor, "features"]]
"""The moments of features' activations, and in how many prompts each is active."""


def _features(sae: Any, found: Paired, site: str) -> tuple[Counted, Counted, Float[Tensor, "width"], float]:
    """The features with and without the instruction, the difference in means of the states, and the mean of s(x)."""
    moments = [Moments.none(sae.cfg.d_sae, covariance=False) for _ in range(2)]
    active = torch.zeros(2, sae.cfg.d_sae, dtype=torch.float64)
    dense: Tensor | float = 0.0
    scales = 0.0
    for with_it, without in found.states(site):
        both = as_trained(sae, torch.cat([with_it, without]), site)
        acts = torch.cat([activations_of(sae, part[:, None])[:, 0].float().cpu() for part in both.split(CHUNK)])
        if not acts.isfinite().all():
            raise MechsteerError(f"The SAE of {site!r} makes NaN or infinite features of finite activations.")
        for side, some in enumerate(acts.split(len(with_it))):
            moments[side].add(some)
            active[side] += (some != 0).double().sum(0)
        first, second = both.split(len(with_it))
        dense = dense + (first - second).double().flatten(1).sum(0)
        scale = output_scale(sae, both.flatten(1))
        scales += len(both) if scale is None else float(scale.double().sum())
    mean = scales / (2 * len(found))
    return (moments[0], active[0]), (moments[1], active[1]), torch.as_tensor(dense) / len(found), mean


def _check_unseen(sae: Any, source: Recorded, site: str) -> None:
    """What can be checked of an SAE without the model.

    Raises:
        MechsteerError: for an SAE of another site or model, or one whose metadata need the model.
    """
    known = source.about.get("provenance", {})
    check_origin(sae, site, name=known.get("model_name", ""), fingerprint=source.about.get("fingerprint", "unknown"))
    processed = [name for name, value in processing(sae).items() if value]
    if processed:
        raise MechsteerError(
            f"This SAE was trained on a model with {processed[0]}=True, which the model alone can be compared with: "
            "ms.instruction_features(model, sae, store)."
        )
