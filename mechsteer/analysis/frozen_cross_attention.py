"""What remains of the decision when the decoder's cross-attention is frozen, layer by layer. Ours.

Frozen means mean-ablated: at the position that predicts the first token, what cross-attention adds to the stream is
replaced by its mean over all the prompts, so that the layer says the same whatever the encoder has read. ``one``
freezes one layer, ``from`` that layer and all above it, ``up_to`` that layer and all below it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.analysis.bootstrap import SAMPLES, interval_columns, mean_interval
from mechsteer.analysis.cross_attention import check_encoder_decoder
from mechsteer.analysis.distributions import jsd
from mechsteer.analysis.targets import TargetPairs, target_pairs
from mechsteer.errors import MechsteerError, listed, positive_int, unknown
from mechsteer.models import advance, as_prompts, site, stacks
from mechsteer.models.hooking import check_finite
from mechsteer.prompts import Prompt, Prompts
from mechsteer.sources import last_states
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

if TYPE_CHECKING:
    import pandas as pd

WHICH: dict[str, Callable[[int, int], bool]] = {
    "one": lambda other, layer: other == layer,
    "from": lambda other, layer: other >= layer,
    "up_to": lambda other, layer: other <= layer,
}


@torch.no_grad()
def frozen_cross_attention(
    model: Any,
    prompts: Prompts,
    targets: TargetPairs,
    *,
    which: str | Sequence[str] = "one",
    steer: Intervention | None = None,
    batch_size: int = 32,
    n_boot: int = SAMPLES,
    seed: int = 0,
    progress: bool = False,
) -> "pd.DataFrame":
    """Decide between target and trap with cross-attention frozen at some layers.

    Args:
        model: A loaded encoder-decoder.
        prompts: At least two; the mean is over them.
        targets: For each prompt, the word that obeys and the one that memory suggests; see
            :func:`mechsteer.analysis.cross_attention.cross_attention_shift`.
        which: ``"one"``, ``"from"``, ``"up_to"``, or several of them.
        steer: An intervention, also on the runs that the mean is taken from.
        batch_size: Prompts in one pass; does not change the result.
        n_boot: Resamples of the prompts for the intervals.
        seed: Of the resamples.
        progress: Show a bar.

    Returns:
        One row for the whole model (frozen ``"none"``, layer -1) and one for each of ``which`` and layer. Columns:
        frozen, layer, accuracy (the target's logit is above the trap's), logit_difference (mean of target minus trap),
        jsd (mean divergence of the next-token distribution from the whole model's, in nats), each of the three with
        the ends of its 95 % bootstrap interval (``_low``, ``_high``; NaN of a single prompt), and n (prompts measured).

    Raises:
        MechsteerError: for a decoder-only model, fewer than two prompts, a wrong number of targets, targets that all
            start with the same token as their traps, activations that are not finite (with site and prompt), or an
            intervention that does not fit.

    Warns:
        UserWarning: if some targets start with the same token as their traps, with their number; these prompts count in
            the mean that cross-attention is frozen at, but are not measured.

    Example:
        >>> ms.frozen_cross_attention(t5, [trap.prompt for trap in traps], traps, which="up_to", n_boot=20)
    """
    import pandas as pd

    check_encoder_decoder(model, "frozen_cross_attention")
    made = as_prompts(model, prompts)
    if len(made) < 2:
        raise MechsteerError("The mean of one prompt is that prompt itself: give at least two.")
    positive_int("n_boot", n_boot)
    pairs = torch.tensor(target_pairs(model, targets, made, undecided="these prompts are not measured"))
    decided = pairs[:, 0] != pairs[:, 1]
    kinds = [which] if isinstance(which, str) else listed("which", which)
    if not kinds:
        raise MechsteerError(f"which names no layers to freeze. Valid: {', '.join(WHICH)}.")
    for kind in kinds:
        if kind not in list(WHICH):
            raise unknown("choice of layers to freeze", kind, WHICH)
    layers = range(stacks(model)["decoder"])
    sites = [site(model, "cross_attn_out", layer) for layer in layers]
    states = last_states(model, made, sites, steer=steer, batch_size=batch_size)
    means = {name: states[name].double().mean(0).float() for name in sites}

    def logits(frozen: Sequence[str]) -> Float[Tensor, "prompts d_vocab"]:
        return _first_logits(model, made, [(name, _freeze(means[name])) for name in frozen], steer, batch_size)

    whole, pairs = logits([])[decided], pairs[decided]
    rows = [{"frozen": "none", "layer": -1, **_measured(whole, whole, pairs, n_boot, seed)}]
    settings = [(kind, layer) for kind in kinds for layer in layers]
    for kind, layer in tqdm(settings, desc="freezing", unit="setting", disable=not progress):
        frozen = [name for other, name in zip(layers, sites, strict=True) if WHICH[kind](other, layer)]
        rows.append({"frozen": kind, "layer": layer, **_measured(logits(frozen)[decided], whole, pairs, n_boot, seed)})
    return pd.DataFrame(rows)


def _freeze(mean: Float[Tensor, "d_model"]) -> Callable[[Tensor, Any], Tensor]:
    def replace(x: Tensor, hook: Any) -> Tensor:
        return mean.to(x).expand_as(x)

    return replace


def _first_logits(
    model: Any,
    prompts: Sequence[Prompt],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
    steer: Intervention | None,
    batch_size: int,
) -> Float[Tensor, "prompts d_vocab"]:
    found = torch.zeros(len(prompts), model.cfg.d_vocab)

    def run(step: Step) -> None:
        index = list(step.index or range(len(step.batch)))
        found[index] = advance(model, *begin(model, step))[:, -1].float().cpu()
        check_finite(found[index], "unembed.hook_out", index)

    run_batches(model, prompts, run, steer=as_intervention(steer), batch_size=batch_size, hooks=hooks)
    return found


def _measured(
    logits: Float[Tensor, "prompts d_vocab"],
    whole: Float[Tensor, "prompts d_vocab"],
    pairs: Tensor,
    n_boot: int,
    seed: int,
) -> dict[str, float]:
    """The three quantities with their intervals, and n."""
    difference = (logits.gather(1, pairs[:, :1]) - logits.gather(1, pairs[:, 1:]))[:, 0]
    divergence = jsd(logits.log_softmax(-1), whole.log_softmax(-1))
    values = torch.stack([(difference > 0).float(), difference, divergence], dim=1)
    found = mean_interval(values, samples=n_boot, seed=seed)
    return {**interval_columns(("accuracy", "logit_difference", "jsd"), found), "n": len(values)}
