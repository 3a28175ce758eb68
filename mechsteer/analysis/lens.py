"""The logit lens: what the model would say if it stopped after each block.

The residual stream after e blocks (exit e) is read out by the model's own final norm and unembedding (nostalgebraist,
2020). ``normalise=False`` leaves the final norm out at every exit but the last, which is how the released code of DoLa
for T5 (arXiv 2512.03803) reads its early exits; there the numbers are those of its Figure 5: the rank of named tokens
by layer. T5 v1.0 scales what goes into the unembedding by d_model^-0.5 and so does the lens, at every exit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.distributions import entropy, jsd, ranks
from mechsteer.analysis.streams import Exits, Prompts, each_prompts_exits
from mechsteer.errors import MechsteerError, listed, not_finite, positive_int, shown
from mechsteer.models import as_prompts, unembed, word_id
from mechsteer.prompts import token_names
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

Targets = Sequence[str | int] | Sequence[Sequence[str | int]]


@torch.no_grad()
def logit_lens(
    model: Any,
    prompts: Prompts,
    targets: Targets | None = None,
    *,
    normalise: bool = True,
    positions: str | Sequence[int] = "last",
    top_k: int = 5,
    continuation: str | Sequence[str] | None = None,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> "pd.DataFrame":
    """Rank and probability of named tokens after every block.

    Args:
        model: A loaded model.
        prompts: One or many.
        targets: What to follow: words (each by the first token of ``" " + word``) or token ids; one list for all
            prompts, or one list a prompt. None: the ``top_k`` most likely tokens of the model's own distribution.
        normalise: Apply the final norm at every exit; without it at the last alone.
        positions: ``"last"``, ``"all"`` or positions of the stack that predicts; see ``continuation``.
        top_k: How many tokens to follow where there are no targets.
        continuation: Text after the prompts, as if the model had said it, one for all or one each: ``"last"`` is then
            the position that predicts what comes after it, the decoding step to look at.
        steer: An intervention.
        batch_size: Prompts in one pass; does not change the result.
        progress: Show a bar.

    Returns:
        One row a prompt, position, exit and token. Columns: prompt (its place), position, exit (blocks passed: 0 the
        embeddings), layer (exit - 1, whose ``resid_post`` it is), token, token_id, rank (from 1, in the whole
        vocabulary), logit, probability, then of the whole distribution there: top1 (its most likely token), entropy and
        jsd (Jensen-Shannon divergence from the last exit's), in nats.

    Raises:
        MechsteerError: for targets without tokens or of a wrong number, positions that are not there, activations that
            are not finite, or an intervention that does not fit.
    """
    import pandas as pd

    positive_int("top_k", top_k)
    made = as_prompts(model, prompts)
    ids = None if targets is None else _token_ids(model, targets, len(made))
    frames: list[pd.DataFrame | None] = [None] * len(made)

    def take(found: Exits) -> None:
        frames[found.place] = _table(model, found, None if ids is None else ids[found.place], normalise, top_k)

    each_prompts_exits(
        model,
        made,
        take,
        positions=positions,
        continuation=continuation,
        steer=steer,
        batch_size=batch_size,
        progress="lens" if progress else "",
    )
    return pd.concat([frame for frame in frames if frame is not None], ignore_index=True)


def exit_logits(
    model: Any, states: Float[Tensor, "*positions d_model"], *, last: bool, normalise: bool, prompt: int
) -> Float[Tensor, "*positions d_vocab"]:
    """The read-out of one exit of a prompt, float32; the last one is always normalised.

    Raises:
        MechsteerError: if the logits are not finite, with the prompt's place.
    """
    logits = unembed(model, states.float(), normalise=normalise or last).float()
    if not logits.isfinite().all():
        raise not_finite("unembed.hook_out", prompt)
    return logits


def target_id(model: Any, target: str | int) -> int:
    """The token that a target stands for: itself, or the first one of ``" " + word``.

    Raises:
        MechsteerError: for a word without tokens, or an id outside the vocabulary.
    """
    if isinstance(target, str):
        return word_id(model, target)
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < model.cfg.d_vocab:
        raise MechsteerError(
            f"A target is a word or a token id from 0 to {model.cfg.d_vocab - 1}, got {shown(target)}."
        )
    return target


def _token_ids(model: Any, targets: Targets, prompts: int) -> list[list[int]]:
    rows: list[Any] = listed("targets", targets) if not isinstance(targets, str) else [targets]
    if not rows:
        raise MechsteerError("No targets were given; None follows the most likely tokens.")
    if all(isinstance(row, str | int) for row in rows):
        rows = [rows] * prompts
    if len(rows) != prompts or not all(isinstance(row, Sequence) and len(row) for row in rows):
        raise MechsteerError(
            f"targets must be one list of words or token ids, or one such list for each of the {prompts} prompts, got "
            f"{shown(targets)}."
        )
    return [list(dict.fromkeys(target_id(model, target) for target in row)) for row in rows]


def _table(model: Any, found: Exits, ids: list[int] | None, normalise: bool, top_k: int) -> "pd.DataFrame":
    """All rows of one prompt; one exit's logits in memory at a time, beside the last one's."""
    import pandas as pd

    exits, count, _ = found.states.shape
    own = exit_logits(model, found.states[-1], last=True, normalise=normalise, prompt=found.place)
    named = _named(own, ids, top_k)
    final = own.log_softmax(-1)
    tokens = [token_names(model.tokenizer, row) for row in named.tolist()]
    frames = []
    for exit in range(exits):
        last = exit == exits - 1
        states = found.states[exit]
        logits = own if last else exit_logits(model, states, last=False, normalise=normalise, prompt=found.place)
        logprobs = logits.log_softmax(-1)
        each = named.shape[1]
        columns = {
            "prompt": found.place,
            "position": [position for position in found.positions for _ in range(each)],
            "exit": exit,
            "layer": exit - 1,
            "token": [token for row in tokens for token in row],
            "token_id": named.flatten().tolist(),
            "rank": ranks(logits, named).flatten().tolist(),
            "logit": logits.gather(1, named).flatten().tolist(),
            "probability": logprobs.gather(1, named).exp().flatten().tolist(),
            "top1": _repeat(token_names(model.tokenizer, logits.argmax(-1).tolist()), each),
            "entropy": _repeat(entropy(logprobs).tolist(), each),
            "jsd": _repeat((torch.zeros(count) if last else jsd(logprobs, final)).tolist(), each),
        }
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True)
    order = {position: place for place, position in enumerate(found.positions)}
    return table.iloc[table["position"].map(order).argsort(kind="stable")]


def _named(own: Float[Tensor, "positions d_vocab"], ids: list[int] | None, top_k: int) -> Int[Tensor, "positions k"]:
    if ids is None:
        return own.topk(min(top_k, own.shape[-1]), dim=-1).indices
    return torch.tensor(ids, device=own.device).expand(len(own), -1)


def _repeat(values: Sequence[Any], times: int) -> list[Any]:
    return [value for value in values for _ in range(times)]
