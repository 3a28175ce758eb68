"""The residual stream of prompts at some positions, after every block: what the lens and its relatives read.

An *exit* is a number of blocks passed: exit 0 is the embeddings, exit N the stream after the last of N blocks. It is
the layer number of the DoLa papers and the index in Hugging Face's ``hidden_states``; in names of sites, exit e is
``resid_post`` of layer e - 1. Captured activations are read instead of running the model where they are given; exit 0,
the embeddings, need not have been captured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, positive_int, shown, whole
from mechsteer.models import (
    continuation_ids,
    is_encoder_decoder,
    model_device,
    pad,
    predicting_stack,
    residual,
    site,
    start,
)
from mechsteer.models.hooking import Kept, check_finite
from mechsteer.prompts import Prompt
from mechsteer.sources import Recorded, as_recorded, check_made_by, refuse_steer
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches


@dataclass(frozen=True)
class Exits:
    """One prompt's stream at every exit.

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
    prompts: Sequence[Prompt] | Recorded,
    take: Callable[[Exits], None],
    *,
    positions: str | Sequence[int] = "last",
    continuation: str | Sequence[str] | None = None,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: str = "",
) -> None:
    """Run prompts and hand over the stream of each at every exit, one batch in memory at a time.

    Args:
        model: A loaded model.
        prompts: The prompts; or captured activations, see :func:`captured`.
        take: Called once a prompt, not in their order.
        positions: ``"last"`` (the one that predicts what comes next), ``"all"``, or positions; negative ones count from
            the end.
        continuation: Text after the prompts, given to the model as if it had said it: one for all, or one each.
        steer: An intervention; what it made is read.
        batch_size: Prompts in one pass.
        progress: What to call the work in a progress bar; empty for none.

    Raises:
        MechsteerError: for positions that are not there, activations that are not finite (with site and prompt), or an
            intervention that does not fit; for a site or position that was not captured.
    """
    positive_int("batch_size", batch_size)
    names = exit_sites(model)
    if isinstance(prompts, Recorded):
        _each_captured(model, prompts, take, names, positions, batch_size)
        return
    after = continuations(model, prompts, continuation)
    starts = [1 if is_encoder_decoder(model) else len(p) for p in prompts]
    wanted = [_positions(positions, start + len(ids)) for start, ids in zip(starts, after, strict=True)]
    first = 0  # of the current pass, the first position that some prompt of the batch wants
    kept = Kept(names, lambda x, site: x[:, first:])

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
        found = torch.stack([kept.take(name) for name in names])
        for row, (place, offset) in enumerate(zip(index, offsets, strict=True)):
            states = found[:, row, [offset + position - earliest for position in wanted[place]]].float()
            _take(Exits(place, wanted[place], states), names, take)

    # The context bounds the padded batch; alone, every prompt and its continuation fit if they fit at all.
    longest = max(map(len, prompts)) + max(map(len, after))
    if not is_encoder_decoder(model) and longest > model.cfg.n_ctx:
        batch_size = 1
    under = as_intervention(steer)
    run_batches(model, prompts, run, steer=under, batch_size=batch_size, hooks=kept.hooks, progress=progress)


def captured(
    model: Any, prompts: Any, *, steer: Intervention | None, continuation: str | Sequence[str] | None = None
) -> Recorded | None:
    """Captured activations that were given in the place of prompts; None for prompts.

    Raises:
        MechsteerError: for activations of another model, or with an intervention or a continuation, which are for
            prompts that are run.
    """
    source = as_recorded(prompts)
    if source is None and as_recorded(model) is not None:
        raise MechsteerError(
            "States are read out by the model's own norm and unembedding: give it first, and what was captured in the "
            "place of the prompts, e.g. ms.logit_lens(model, store)."
        )
    if source is not None:
        check_made_by(model, [source])
        refuse_steer(source, steer)
        if continuation is not None:
            raise MechsteerError(f"{source.name} is captured already; a continuation is for prompts that are run.")
    return source


def _each_captured(
    model: Any,
    source: Recorded,
    take: Callable[[Exits], None],
    names: Sequence[str],
    positions: str | Sequence[int],
    size: int,
) -> None:
    """The same from captured activations, ``size`` prompts in memory at a time."""
    stack, _ = predicting_stack(model)
    embedded = names[0] not in source.stacks and source.about.get("intervention") == "none"
    sites = [source.site(name) for name in (names[1:] if embedded else names)]
    places, members = source.places(stack), source.members
    for first in range(0, len(members), size):
        some = members[first : first + size]
        wanted = [_positions(positions, 1 if stack == "decoder" else member.length) for member in some]
        pairs = [(member, position) for member, chosen in zip(some, wanted, strict=True) for position in chosen]
        rows = np.array([source.row(sites[0], member, position, places) for member, position in pairs])
        states = [source.read(name, rows) for name in sites]
        if embedded:
            states.insert(0, _embeddings(model, source.prompts(some), wanted))
        each = torch.stack([x.float() for x in states]).to(model_device(model)).split([len(w) for w in wanted], dim=1)
        for place, (chosen, found) in enumerate(zip(wanted, each, strict=True), start=first):
            _take(Exits(place, chosen, found), names, take)


def _embeddings(
    model: Any, prompts: Sequence[Prompt], wanted: Sequence[Sequence[int]]
) -> Float[Tensor, "positions d_model"]:
    """The stream before the first block, which no other token decides."""
    if is_encoder_decoder(model):
        token = torch.tensor([[model.cfg.decoder_start_token_id]], device=model_device(model))
        return model.embed(token)[0].expand(len(prompts), -1).cpu()
    batch = pad(model, prompts)
    stream = residual(model, start(model, batch.tokens, batch.mask), batch.tokens, batch.mask, layers=0)
    rows = zip(stream, batch.starts, wanted, strict=True)
    return torch.cat([x[[first + position for position in chosen]] for x, first, chosen in rows]).cpu()


def _take(found: Exits, names: Sequence[str], take: Callable[[Exits], None]) -> None:
    for name, states in zip(names, found.states, strict=True):
        check_finite(states[None], name, [found.place])
    take(found)


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
        index = whole(position)
        if index is None:
            raise MechsteerError(f"positions must be 'last', 'all' or a list of integers, got {shown(positions)}.")
        index = index + length if index < 0 else index
        if not 0 <= index < length:
            raise MechsteerError(f"Position {position} is not there: this prompt has positions 0 to {length - 1}.")
        found.append(index)
    if not found:
        raise MechsteerError("No positions were given.")
    return sorted(set(found))
