"""``score``: the log-probability of given continuations, under any intervention."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.decoding.finite import check_finite
from mechsteer.errors import MechsteerError, listed
from mechsteer.models import advance, as_prompts, continuation_ids, fork, is_encoder_decoder
from mechsteer.prompts import Prompt, Prompts
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches


@torch.no_grad()
def score(
    model: Any,
    prompts: Prompts,
    continuations: str | Sequence[str] | Sequence[Sequence[str]],
    *,
    steer: Intervention | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "prompts"] | Float[Tensor, "prompts choices"]:
    """Natural log-probability of continuations given their prompts, summed over tokens.

    Prompt and continuation are tokenised together (see :mod:`mechsteer.models.following`), so that the tokens are those
    that follow; a leading space matters wherever it matters to the tokenizer. Of an encoder-decoder the continuation is
    the decoder's text, tokenised on its own. The prompts are computed once for all of their choices.

    Args:
        model: A loaded model.
        prompts: Texts or prompts, one or many.
        continuations: One text for all prompts, one text a prompt, or the same number of choices for each prompt.
        steer: An intervention; continuation tokens count as generated.
        batch_size: Prompts computed together.

    Raises:
        MechsteerError: if there is not one continuation (or list of choices) a prompt, or one has no tokens, or would
            change those at its prompt's end, or the intervention does not fit or never fired, or logits are NaN or
            infinite: with prompt, token, dtype and the edits that acted.

    Example:
        >>> ms.score(model, prompt, "THE WRITER")
        >>> ms.score(model, prompts, [["yes", "no"], ["yes", "no"]]).argmax(1)
    """
    made = as_prompts(model, prompts)
    given = [continuations] * len(made) if isinstance(continuations, str) else listed("continuations", continuations)
    if len(given) != len(made):
        raise MechsteerError(
            f"{len(made)} prompts but {len(given)} continuations were given; choices are lists, one for each prompt."
        )
    single = all(isinstance(c, str) for c in given)
    texts = [[c] if isinstance(c, str) else listed("The choices of a prompt", c) for c in given]
    choices = [[continuation_ids(model, text, p) for text in row] for row, p in zip(texts, made, strict=True)]
    out, _ = score_ids(model, made, choices, steer=steer, batch_size=batch_size)
    return out[:, 0] if single else out


@torch.no_grad()
def score_ids(
    model: Any,
    prompts: Sequence[Prompt],
    choices: Sequence[Sequence[Sequence[int]]],
    *,
    steer: Intervention | None = None,
    batch_size: int = 64,
) -> tuple[Float[Tensor, "prompts choices"], Bool[Tensor, "prompts choices"]]:
    """The same for continuations given as token ids, and whether greedy decoding would produce each of them.

    Raises:
        MechsteerError: if prompts have different numbers of choices, or none.
    """
    counts = {len(c) for c in choices}
    if len(counts) != 1 or 0 in counts:
        raise MechsteerError(f"Every prompt needs the same number of choices, at least one; got {sorted(counts)}.")
    (count,) = counts
    longest = max(map(len, prompts)) + max(len(ids) for row in choices for ids in row) - 1  # the last one is not read
    if not is_encoder_decoder(model) and longest > model.cfg.n_ctx:
        batch_size = 1  # together, a long prompt and another's long continuation would not fit the context
    out, greedy = torch.zeros(len(prompts), count), torch.zeros(len(prompts), count, dtype=torch.bool)

    def run(step: Step) -> None:
        index = list(step.index or range(len(step.batch)))
        out[index], greedy[index] = _score_batch(model, step, [choices[i] for i in index])

    run_batches(model, prompts, run, steer=as_intervention(steer), batch_size=batch_size)
    return out, greedy


def _score_batch(
    model: Any, step: Step, choices: Sequence[Sequence[Sequence[int]]]
) -> tuple[Float[Tensor, "batch choices"], Bool[Tensor, "batch choices"]]:
    """Run the prompts once, then each choice from a fork of their state."""
    index = list(step.index or range(len(step.batch)))
    state, tokens, mask = begin(model, step)
    first = advance(model, state, tokens, mask)
    columns, greedy = [], []
    for choice in range(len(choices[0])):
        target, real = _pad([row[choice] for row in choices])
        logits = first
        if target.shape[1] > 1:
            more = advance(model, fork(state), target[:, :-1], real[:, :-1], logits_at="all")
            logits = torch.cat([first, more], dim=1)
        check_finite(model, logits.float(), index, edits=step.edits, new=0, counted=real)
        logprobs = logits.float().log_softmax(-1).cpu()
        columns.append(logprobs.gather(2, target[..., None])[..., 0].masked_fill(~real, 0.0).sum(1))
        greedy.append(((logprobs.argmax(-1) == target) | ~real).all(1))
    return torch.stack(columns, dim=1), torch.stack(greedy, dim=1)


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch longest"], Bool[Tensor, "batch longest"]]:
    """Token ids padded on the right, and a mask that is True at real ones."""
    target = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    real = torch.zeros_like(target, dtype=torch.bool)
    for row, ids in enumerate(rows):
        target[row, : len(ids)] = torch.tensor(list(ids))
        real[row, : len(ids)] = True
    return target, real
