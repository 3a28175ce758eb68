"""The logit lens: what the model would say if it stopped after each block.

The residual stream after e blocks (exit e) is read out by the model's own final norm and unembedding (nostalgebraist,
2020). ``normalise=False`` leaves the final norm out at every exit but the last, which is how the released code of DoLa
for T5 (arXiv 2512.03803) reads its early exits; there the numbers are those of its Figure 5: the rank of named tokens
by layer. T5 v1.0 scales what goes into the unembedding by d_model^-0.5 and so does the lens, at every exit.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.analysis.distributions import entropy, jsd, most_likely, ranks
from mechsteer.analysis.exits import Exits, captured, each_prompts_exits, written
from mechsteer.errors import MechsteerError, listed, not_finite, positive_int, shown, whole
from mechsteer.models import as_prompts, unembed, word_id, word_ids
from mechsteer.prompts import Prompt, Prompts
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

Targets = Sequence[str | int] | Sequence[Sequence[str | int]]


@torch.no_grad()
def logit_lens(
    model: Any,
    prompts: Prompts | Any,
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
        model: A loaded model. Of captured activations only its read-out is used.
        prompts: One or many; or captured activations: a store, what :func:`mechsteer.capture` returned, one group of
            either (``store.group("with")``), or the library's cache.
        targets: What to follow: words or token ids; one list for all prompts, or one list a prompt. A word is followed
            by the first of its tokens behind the prompt and the continuation (:mod:`mechsteer.models.following`).
            None: the ``top_k`` most likely tokens of the model's own distribution.
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
        embeddings), layer (exit - 1, whose ``resid_post`` it is), token, token_id, word (the target that begins with
        it; empty for token ids), word_tokens (how many tokens that word has: with more than 1, the token is only its
        beginning), rank (from 1, in the whole vocabulary), logit, probability, then of the whole distribution there:
        top1 (its most likely token), entropy and jsd (Jensen-Shannon divergence from the last exit's), in nats.

    Raises:
        MechsteerError: for targets without tokens or of a wrong number, positions that are not there, activations that
            are not finite, or an intervention that does not fit; for a site or position that was not captured.

    Warns:
        UserWarning: if words begin with the same token, which has one row for all of them.

    Example:
        >>> ms.logit_lens(model, prompt, [["the", "THE"]])[["exit", "token", "rank"]]
    """
    import pandas as pd

    positive_int("top_k", top_k)
    source = captured(model, prompts, steer=steer, continuation=continuation)
    if source is None:
        made = as_prompts(model, prompts)
    else:
        made = None if targets is None else source.prompts(source.members)
    followed = None if targets is None or made is None else _followed(model, targets, made, written(made, continuation))
    frames: dict[int, pd.DataFrame] = {}

    def take(found: Exits) -> None:
        frames[found.place] = _table(
            model, found, None if followed is None else followed[found.place], normalise, top_k
        )

    each_prompts_exits(
        model,
        source or made or [],
        take,
        positions=positions,
        continuation=continuation,
        steer=steer,
        batch_size=batch_size,
        progress="lens" if progress else "",
    )
    return pd.concat([frames[place] for place in sorted(frames)], ignore_index=True)


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


def target_id(model: Any, target: str | int, prompt: Prompt) -> int:
    """The token that a target stands for: itself, or the first one of a word behind the prompt.

    Raises:
        MechsteerError: for a word without tokens, or an id outside the vocabulary.
    """
    if isinstance(target, str):
        return word_id(model, target, prompt)
    number = whole(target)
    if number is None or not 0 <= number < model.cfg.d_vocab:
        raise MechsteerError(
            f"A target is a word or a token id from 0 to {model.cfg.d_vocab - 1}, got {shown(target)}."
        )
    return number


Followed = dict[int, list[tuple[str, int]]]
"""Token id -> the words that begin with it, and how many tokens each has; no words where the id was given."""


def _followed(model: Any, targets: Targets, prompts: Sequence[Prompt], before: Sequence[str]) -> list[Followed]:
    """The tokens to follow, prompt by prompt.

    Raises:
        MechsteerError: for targets of a wrong number, words without tokens, or ids outside the vocabulary.
    """
    count = len(prompts)
    rows: list[Any] = listed("targets", targets) if not isinstance(targets, str) else [targets]
    if not rows:
        raise MechsteerError("No targets were given; None follows the most likely tokens.")
    if all(isinstance(row, str) or whole(row) is not None for row in rows):
        rows = [rows] * count
    if len(rows) != count or not all(isinstance(row, Sequence) and len(row) for row in rows) or str in map(type, rows):
        raise MechsteerError(
            f"targets must be one list of words or token ids, or one such list for each of the {count} prompts, got "
            f"{shown(targets)}."
        )
    found: list[Followed] = [{} for _ in prompts]
    for row, made, text, followed in zip(rows, prompts, before, found, strict=True):
        for target in row:
            if isinstance(target, str):
                first, *rest = word_ids(model, target, made, written=text)
                word = (target.strip(), 1 + len(rest))
                words = followed.setdefault(first, [])
                words += [word] * (word not in words)
            else:
                followed.setdefault(target_id(model, target, made), [])
    shared = [[word for word, _ in words] for followed in found for words in followed.values() if len(words) > 1]
    if shared:
        warnings.warn(
            f"{' and '.join(map(repr, shared[0]))} begin with the same token ({len(shared)} such tokens in "
            f"{count} prompts); it is followed once for all of them. ms.score tells whole words apart.",
            stacklevel=4,
        )
    return found


def _table(model: Any, found: Exits, followed: Followed | None, normalise: bool, top_k: int) -> "pd.DataFrame":
    """All rows of one prompt; one exit's logits in memory at a time, beside the last one's."""
    import pandas as pd

    exits, count, _ = found.states.shape
    own = exit_logits(model, found.states[-1], last=True, normalise=normalise, prompt=found.place)
    named = _named(own, None if followed is None else list(followed), top_k)
    words = [(followed or {}).get(token, []) for token in named.flatten().tolist()]
    final = own.log_softmax(-1)
    tokens = [token_pieces(model.tokenizer, row) for row in named.tolist()]
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
            "word": [" / ".join(word for word, _ in some) for some in words],
            "word_tokens": [max((tokens for _, tokens in some), default=1) for some in words],
            "rank": ranks(logits, named).flatten().tolist(),
            "logit": logits.gather(1, named).flatten().tolist(),
            "probability": logprobs.gather(1, named).exp().flatten().tolist(),
            "top1": _repeat(token_pieces(model.tokenizer, logits.argmax(-1).tolist()), each),
            "entropy": _repeat(entropy(logprobs).tolist(), each),
            "jsd": _repeat((torch.zeros(count) if last else jsd(logprobs, final)).tolist(), each),
        }
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True)
    order = {position: place for place, position in enumerate(found.positions)}
    return table.iloc[table["position"].map(order).argsort(kind="stable")]


def _named(own: Float[Tensor, "positions d_vocab"], ids: list[int] | None, top_k: int) -> Int[Tensor, "positions k"]:
    if ids is None:
        return torch.stack([most_likely(row, top_k) for row in own])
    return torch.tensor(ids, device=own.device).expand(len(own), -1)


def _repeat(values: Sequence[Any], times: int) -> list[Any]:
    return [value for value in values for _ in range(times)]
