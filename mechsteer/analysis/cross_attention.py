"""Cross-attention shift: what each sublayer of a T5 decoder does to the stream that predicts, and to the decision.

"DoLa Adaptations for T5" (arXiv 2512.03803) says that preferences shift rapidly and that cross-attention drives it, in
words only. These numbers are ours. In each block a sublayer (self-attention, cross-attention, MLP) adds an update u to
the stream s at a decoder position, s' = s + u:

    relative_update   ||u|| / ||s||
    cosine            cos(s, s')
    path_share        ||u|| / sum of ||u|| over all sublayers of all blocks: its part of the way the stream goes
    jsd               Jensen-Shannon divergence between the logit lens's distributions at s and at s', in nats
    logit_difference  what it adds to the lens's logit of the target minus that of the trap

The updates of all sublayers add up to the last stream minus the embedding, and the logit differences to the model's
own, minus the embedding's. For cross-attention, as means over heads:

    attention_mass     the attention on the span's tokens of the encoder's input
    attention_entropy  the entropy of the attention over all of them, in nats

What remains when cross-attention is frozen, layer by layer: :mod:`mechsteer.analysis.frozen_cross_attention`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.distributions import entropy, jsd
from mechsteer.analysis.exits import continuations, padded
from mechsteer.analysis.lens import exit_logits
from mechsteer.analysis.targets import TargetPairs, target_pairs
from mechsteer.errors import MechsteerError
from mechsteer.models import as_prompts, is_encoder_decoder, model_info, residual, site, stacks
from mechsteer.models.hooking import Kept, check_finite
from mechsteer.prompts import Prompt, Prompts
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

if TYPE_CHECKING:
    import pandas as pd

SUBLAYERS = {"self_attn": "resid_mid", "cross_attn": "resid_mid_cross", "mlp": "resid_post"}
"""Sublayer -> the kind of site of the stream after it."""


@torch.no_grad()
def cross_attention_shift(
    model: Any,
    prompts: Prompts,
    targets: TargetPairs | None = None,
    *,
    span: str | None = None,
    continuation: str | Sequence[str] | None = None,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> "pd.DataFrame":
    """What the sublayers of the decoder do at the position that predicts the first token, or at each of a continuation.

    Args:
        model: A loaded encoder-decoder.
        prompts: One or many.
        targets: For each prompt, the word that obeys and the one that memory suggests, as a pair or as a trap example
            of a task; each counts by the first of its tokens at the beginning of the answer. Without them there is no
            ``logit_difference``.
        span: Where to measure the attention mass; default: ``"instruction"`` in the prompts that have it.
        continuation: Text that the decoder has written, one for all or one each: then every position of it is measured
            as well, the last of which predicts what comes after it.
        steer: An intervention.
        batch_size: Prompts in one pass; does not change the result.
        progress: Show a bar.

    Returns:
        One row a prompt, position, layer and sublayer (``self_attn``, ``cross_attn``, ``mlp``). Columns: prompt,
        position (of the decoder, 0 its start token), layer, sublayer, update_norm, stream_norm (before it),
        relative_update, cosine, path_share, jsd, logit_difference, attention_mass, attention_entropy. What was not
        asked for, or is no cross-attention's, is NaN.

    Raises:
        MechsteerError: for a decoder-only model, a wrong number of targets, targets that all start with the same token
            as their traps, a span that a prompt lacks, activations that are not finite (with site and prompt), or an
            intervention that does not fit.

    Warns:
        UserWarning: if some targets start with the same token as their traps, with their number.

    Example:
        >>> ms.cross_attention_shift(t5, [trap.prompt for trap in traps], traps)
    """
    import pandas as pd

    check_encoder_decoder(model, "cross_attention_shift")
    made = as_prompts(model, prompts)
    undecided = "their logit_difference is 0 whatever the model does"
    pairs = None if targets is None else target_pairs(model, targets, made, undecided=undecided)
    for p in made:
        if span is not None and not p.positions(span):
            raise MechsteerError(f"The span {span!r} of {p!r} is empty.")
    layers = range(stacks(model)["decoder"])
    streams = [site(model, "resid_pre", 0)]
    streams += [site(model, kind, layer) for layer in layers for kind in SUBLAYERS.values()]
    patterns = [site(model, "cross_pattern", layer) for layer in layers]
    after = continuations(model, made, continuation)
    kept = Kept([*streams, *patterns], lambda x, site: x.transpose(1, 2) if site in patterns else x)
    frames: list[list[pd.DataFrame]] = [[] for _ in made]

    def run(step: Step) -> None:
        index = list(step.index or range(len(step.batch)))
        state, tokens, mask = begin(model, step)
        residual(model, state, tokens, mask)
        if longest := max(len(after[place]) for place in index):
            residual(model, state, *padded([after[place] for place in index], longest))
        seen = {name: kept.take(name) for name in (*streams, *patterns)}
        for row, place in enumerate(index):
            for position in range(1 + len(after[place])):
                frames[place].append(measured(seen, row, place, position))

    def measured(seen: dict[str, Tensor], row: int, place: int, position: int) -> "pd.DataFrame":
        states = _finite(seen, streams, row, position, place)
        table = _shifts(model, states, None if pairs is None else pairs[place], place)
        attention = _finite(seen, patterns, row, position, place)[:, :, : len(made[place])]
        mass = _mass(attention, made[place], span)
        table["attention_mass"] = _on_cross_attention(mass)
        table["attention_entropy"] = _on_cross_attention(entropy(attention.log()).mean(1))
        return pd.DataFrame({"prompt": place, "position": position, **_labels(len(layers)), **table})

    run_batches(
        model,
        made,
        run,
        steer=as_intervention(steer),
        batch_size=batch_size,
        hooks=kept.hooks,
        progress="shifts" if progress else "",
    )
    return pd.concat([frame for of_prompt in frames for frame in of_prompt], ignore_index=True)


def check_encoder_decoder(model: Any, name: str) -> None:
    """Refuse models without cross-attention.

    Raises:
        MechsteerError: for a decoder-only model.
    """
    if not is_encoder_decoder(model):
        raise MechsteerError(
            f"{name} needs an encoder-decoder; this {model_info(model).family} model has no cross-attention. "
            "logit_lens, volatility and influence measure decoder-only models."
        )


def _shifts(
    model: Any, states: Float[Tensor, "streams d_model"], pair: tuple[int, int] | None, place: int
) -> dict[str, list[float]]:
    """The columns of one prompt, sublayer by sublayer."""
    exact = states.double()
    before, after = exact[:-1], exact[1:]
    updates = (after - before).norm(dim=-1)
    norms = before.norm(dim=-1)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    logits = exit_logits(model, states, last=True, normalise=True, prompt=place)
    logprobs = logits.log_softmax(-1)
    difference = torch.full((len(updates),), torch.nan)
    if pair is not None:
        lens = logits[:, pair[0]] - logits[:, pair[1]]
        difference = lens[1:] - lens[:-1]
    columns = {
        "update_norm": updates,
        "stream_norm": norms,
        "relative_update": updates / norms,
        "cosine": cosine,
        "path_share": updates / updates.sum(),
        "jsd": jsd(logprobs[:-1], logprobs[1:]),
        "logit_difference": difference,
    }
    return {name: values.tolist() for name, values in columns.items()}


def _labels(layers: int) -> dict[str, list[Any]]:
    names = list(SUBLAYERS)
    return {"layer": [layer for layer in range(layers) for _ in names], "sublayer": names * layers}


def _mass(attention: Float[Tensor, "layers heads keys"], prompt: Prompt, span: str | None) -> Float[Tensor, "layers"]:
    """The mean over heads of the attention on a span; NaN where there is none."""
    name = "instruction" if span is None else span
    inside = prompt.positions(name) if name in prompt.spans else []
    return attention[:, :, inside].sum(-1).mean(1) if inside else torch.full((len(attention),), torch.nan)


def _on_cross_attention(values: Float[Tensor, "layers"]) -> list[float]:
    """A column with a value in the rows of cross-attention and NaN in the others."""
    return [value if name == "cross_attn" else float("nan") for value in values.tolist() for name in SUBLAYERS]


def _finite(
    seen: dict[str, Tensor], names: Sequence[str], row: int, position: int, place: int
) -> Float[Tensor, "names *shape"]:
    """What was seen of one prompt at some sites and a position, float32."""
    found = torch.stack([seen[name][row, position] for name in names]).float()
    for name, values in zip(names, found, strict=True):
        check_finite(values[None], name, [place])
    return found
