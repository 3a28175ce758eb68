"""The residual stream of prompts at some positions, after every block: what the lens and its relatives read.

An *exit* is a number of blocks passed: exit 0 is the embeddings, exit N the stream after the last of N blocks. It is
the layer number of the DoLa papers and the index in Hugging Face's ``hidden_states``; in names of sites, exit e is
``resid_post`` of layer e - 1.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, not_finite, positive_int, shown
from mechsteer.models import as_prompts, continuation_ids, is_encoder_decoder, predicting_stack, residual, site
from mechsteer.prompts import Prompt, Prompts
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches


@dataclass(frozen=True)
class Exits:
    """One prompt's streams.

    Attributes:
        place: The prompt's place in the caller's list.
        positions: Positions of the predicting stack, from the first real token; of T5's decoder from its start token.
        states: ``[exits, positions, d_model]``, on the model's device.
    """

    place: int
    positions: list[int]
    states: Float[Tensor, "exits positions d_model"]


def exit_sites(model: Any) -> list[str]:
    """The site of each exit."""
    _, layers = predicting_stack(model)
    return [site(model, "resid_pre", 0), *(site(model, "resid_post", layer) for layer in range(layers))]


def written(prompts: Sequence[Prompt], continuation: str | Sequence[str] | None) -> list[str]:
    """The text that follows each prompt; one for all, or one each.

    Raises:
        MechsteerError: if there are not as many texts as prompts.
    """
    if continuation is None or isinstance(continuation, str):
        return [continuation or ""] * len(prompts)
    texts = listed("continuation", continuation)
    if len(texts) != len(prompts):
        raise MechsteerError(f"{len(prompts)} prompts but {len(texts)} continuations were given.")
    return texts


def continuations(model: Any, prompts: Sequence[Prompt], continuation: str | Sequence[str] | None) -> list[list[int]]:
    """The token ids that follow each prompt; one text for all, or one each.

    Raises:
        MechsteerError: if there are not as many texts as prompts, or one has no tokens behind its prompt.
    """
    if continuation is None:
        return [[] for _ in prompts]
    texts = written(prompts, continuation)
    return [continuation_ids(model, text, p) for text, p in zip(texts, prompts, strict=True)]


def each_prompts_exits(
    model: Any,
    prompts: Prompts,
    take: Callable[[Exits], None],
    *,
    positions: str | Sequence[int] = "last",
    continuation: str | Sequence[str] | None = None,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: str = "",
) -> list[Prompt]:
    """Run prompts and hand over the streams of each, one batch in memory at a time.

    Args:
        model: A loaded model.
        prompts: One or many.
        take: Called once a prompt, not in their order.
        positions: ``"last"`` (the one that predicts what comes next), ``"all"``, or positions; negative ones count from
            the end.
        continuation: Text after the prompts, given to the model as if it had said it: one for all, or one each.
        steer: An intervention; what it made is read.
        batch_size: Prompts in one pass.
        progress: What to call the work in a progress bar; empty for none.

    Raises:
        MechsteerError: for positions that are not there, activations that are not finite (with site and prompt), or an
            intervention that does not fit.
    """
    positive_int("batch_size", batch_size)
    made = as_prompts(model, prompts)
    after = continuations(model, made, continuation)
    starts = [1 if is_encoder_decoder(model) else len(p) for p in made]
    wanted = [_positions(positions, start + len(ids)) for start, ids in zip(starts, after, strict=True)]
    names = exit_sites(model)
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    first = 0  # of the current pass, the first position that some prompt of the batch wants

    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name].append(x[:, first:])

    def run(step: Step) -> None:
        nonlocal first
        index = list(step.index or range(len(step.batch)))
        state, tokens, mask = begin(model, step)
        length, longest = tokens.shape[1], max(len(after[place]) for place in index)
        offsets = [0 if is_encoder_decoder(model) else start for start in step.batch.starts]
        earliest = min(offset + wanted[place][0] for offset, place in zip(offsets, index, strict=True))
        first = min(earliest, length)
        residual(model, state, tokens, mask)
        if longest:
            first = max(earliest - length, 0)
            residual(model, state, *padded([after[place] for place in index], longest))
        streams = torch.stack([torch.cat(kept[name], dim=1) for name in names])
        for parts in kept.values():
            parts.clear()
        for row, (place, offset) in enumerate(zip(index, offsets, strict=True)):
            states = streams[:, row, [offset + position - earliest for position in wanted[place]]].float()
            _check_finite(states, names, place)
            take(Exits(place, wanted[place], states))

    # The context bounds the padded batch; alone, every prompt and its continuation fit if they fit at all.
    longest = max(map(len, made)) + max(map(len, after))
    if not is_encoder_decoder(model) and longest > model.cfg.n_ctx:
        batch_size = 1
    run_batches(
        model,
        made,
        run,
        steer=as_intervention(steer),
        batch_size=batch_size,
        hooks=[(name, keep) for name in names],
        progress=progress,
    )
    return made


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[Int[Tensor, "rows new"], Bool[Tensor, "rows new"]]:
    """Token ids padded on the right, and a mask that is True at real ones."""
    tokens = torch.zeros((len(rows), length), dtype=torch.long)
    real = torch.zeros_like(tokens, dtype=torch.bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(list(ids), dtype=torch.long)
        real[row, : len(ids)] = True
    return tokens, real


def _positions(positions: str | Sequence[int], length: int) -> list[int]:
    if isinstance(positions, str):
        if positions not in ("last", "all"):
            raise MechsteerError(f"positions must be 'last', 'all' or a list of integers, got {shown(positions)}.")
        return [length - 1] if positions == "last" else list(range(length))
    found = []
    for position in listed("positions", positions):
        try:
            index = operator.index(position)  # NumPy's and PyTorch's integers too
        except TypeError:
            raise MechsteerError(
                f"positions must be 'last', 'all' or a list of integers, got {shown(positions)}."
            ) from None
        index = index + length if index < 0 else index
        if not 0 <= index < length:
            raise MechsteerError(f"Position {position} is not there: this prompt has positions 0 to {length - 1}.")
        found.append(index)
    if not found:
        raise MechsteerError("No positions were given.")
    return sorted(set(found))


def _check_finite(states: Float[Tensor, "exits positions d_model"], names: Sequence[str], place: int) -> None:
    bad = ~states.isfinite().flatten(1).all(1)
    if bad.any():
        raise not_finite(names[int(bad.nonzero()[0])], place)
