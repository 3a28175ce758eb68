"""States of a model that is run for them, under an intervention or none."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import MechsteerError, positive_int
from mechsteer.models import Room, State, alike, at_last, fires, first_tokens, hooked, pad, parse, residual, start
from mechsteer.models.hooking import Kept, check_finite
from mechsteer.models.sites import switched_on
from mechsteer.prompts import Batch, Prompt


@runtime_checkable
class Running(Protocol):
    """A run under an intervention."""

    def on(self, batch: Batch, index: Sequence[int]) -> AbstractContextManager[Any]:
        """Put it on the model for a batch; the block's value is what :func:`begin` announces passes to.

        Args:
            batch: The prompts, padded.
            index: Their places in the caller's list.
        """
        ...

    def check_fired(self) -> None:
        """Raise if it never acted."""
        ...


@runtime_checkable
class Steering(Protocol):
    """What an intervention is to those that only run under it: :class:`mechsteer.steering.Intervention` is one."""

    def running(self, model: Any, prompts: Sequence[Prompt]) -> Running:
        """Begin a run, after checking that it fits the model and the prompts."""
        ...


@dataclass
class Plain:
    """A batch under no intervention.

    Attributes:
        batch: The prompts, padded.
        index: Their places in the caller's list.
    """

    batch: Batch
    index: Sequence[int]

    def begin(self, end: int, new: int | None = None) -> None:
        """Nobody listens."""


class Unsteered:
    """A run under no intervention."""

    @contextmanager
    def on(self, batch: Batch, index: Sequence[int]) -> Iterator[Plain]:
        """Put nothing on the model."""
        yield Plain(batch, index)

    def check_fired(self) -> None:
        """Nothing had to act."""


def run_under(steer: Any, model: Any, prompts: Sequence[Prompt]) -> Running:
    """Begin a run under an intervention; None for none.

    Raises:
        MechsteerError: for what is no intervention, or one that does not fit.
    """
    if steer is None:
        return Unsteered()
    if not isinstance(steer, Steering):
        raise MechsteerError(f"steer must be an intervention, e.g. ms.add(direction, 8.0), got {type(steer).__name__}.")
    return steer.running(model, prompts)


def begin(model: Any, step: Any) -> tuple[State, Tensor, Tensor]:
    """The state of a batch, which announces its passes to the step, and the tokens and mask of the first.

    What follows is ``advance(model, state, tokens, mask)`` or ``residual(...)``, as often as is wanted.
    """
    state = start(model, step.batch.tokens, step.batch.mask)
    state.announce = step.begin
    return state, *first_tokens(model, step.batch)


def batches(
    model: Any, prompts: Sequence[Prompt], size: int, *, by_length: bool = True
) -> Iterator[tuple[Batch, list[int]]]:
    """Padded batches, of prompts of like length or in the order given, and the places of their prompts in the list."""
    for index in places_of_batches(prompts, size, by_length=by_length):
        yield pad(model, [prompts[i] for i in index]), index


def places_of_batches(prompts: Sequence[Prompt], size: int, *, by_length: bool = True) -> Iterator[list[int]]:
    """The same without the batches themselves; of like length is what ``alike`` of :mod:`mechsteer.models` says."""
    positive_int("batch_size", size)
    order = list(range(len(prompts)))
    if not by_length:
        yield from (order[first : first + size] for first in range(0, len(order), size))
        return
    index: list[int] = []
    tokens = 0
    for place in sorted(order, key=lambda i: len(prompts[i])):
        longest = len(prompts[place])
        if index and not (len(index) < size and alike(len(index) + 1, longest, tokens + longest)):
            yield index
            index, tokens = [], 0
        index.append(place)
        tokens += longest
    if index:
        yield index


@torch.no_grad()
def last_states(
    model: Any,
    prompts: Sequence[Prompt],
    sites: Sequence[str],
    *,
    steer: Steering | None = None,
    batch_size: int = 32,
    by_length: bool = True,
    progress: bool = False,
) -> dict[str, Float[Tensor, "prompts *width"]]:
    """The state of every prompt at its last position, of T5's decoder at its start token; float32, on the CPU.

    Args:
        model: A loaded model.
        prompts: The prompts.
        sites: Full names.
        steer: An intervention.
        batch_size: Prompts in one pass.
        by_length: Batch prompts of like length; otherwise in the order given.
        progress: Show a bar.

    Raises:
        MechsteerError: for sites without a row a position, activations that are not finite (with site and prompt), or
            an intervention that does not fit.
    """
    sites = list(dict.fromkeys(sites))
    for name in sites:
        if not fires(model, name):
            raise MechsteerError(f"{name!r} never fires with this model's present settings.{switched_on(name)}")
        parsed = parse(name)
        if parsed is None or parsed[2].endswith(("scores", "pattern", "cross_k", "cross_v", "rot_k")):
            raise MechsteerError(f"{name!r} does not hold one state a position.")
    run = run_under(steer, model, prompts)
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(prompts) for name in sites}

    def read(index: list[int]) -> None:
        batch = pad(model, [prompts[i] for i in index])
        kept = Kept(sites, lambda x, site: at_last(model, x, site, batch))
        with run.on(batch, index) as step, hooked(model, kept.hooks):
            residual(model, *begin(model, step))
        for name in sites:
            rows = kept.take(name).float().cpu()
            check_finite(rows, name, index)
            for row, place in zip(rows, index, strict=True):
                found[name][place] = row
        bar.update(len(index))

    room = Room(batch_size)
    with tqdm(total=len(prompts), desc="states", unit="prompt", disable=not progress) as bar:
        for places in places_of_batches(prompts, batch_size, by_length=by_length):
            room.run(places, read)
    run.check_fired()
    return {name: torch.stack(rows) for name, rows in found.items()}
