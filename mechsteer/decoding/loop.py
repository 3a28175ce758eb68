"""The one loop that writes tokens: a batch of rows, in which places that become free are filled from a queue.

A row that has ended is computed on until a quarter of the batch has, or until the batch would outgrow what its running
rows may need. Then the ended rows are dropped and prompts from the queue are read, as a batch of their own, and put
beside those that go on: all rows end at one position, and shorter ones are padded in front. What each row computes does
not depend on any of this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechsteer.decoding.processors import Processors
from mechsteer.decoding.repetition import read_so_far
from mechsteer.decoding.stops import completed, naming_specials
from mechsteer.decoding.strategies import Chooser, Pass
from mechsteer.models import State, alike, is_encoder_decoder, loaded_info, model_device, pad, rearrange
from mechsteer.prompts import Batch, Prompt
from mechsteer.steering import Step, begin

MAX_BATCH_TOKENS = 32_768
"""The default budget: 1.5 GB of keys and values for a model of 135 M parameters, 4 GB for a grouped one of 8 G."""

_REARRANGE_BELOW = 0.75  # when fewer than this share of the computed rows is still running


@dataclass
class Written:
    """What was written after one prompt so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    def forget(self) -> None:
        """Begin again; the lists stay the same objects."""
        for one in (self.tokens, self.logprobs, self.trace):
            one.clear()


@dataclass
class Queue:
    """Prompts that wait, the shortest first.

    Attributes:
        prompts: All prompts of the run.
        batch_size: The most rows at once.
        max_batch_tokens: The most positions at once: rows times what the longest of them may come to.
        new: How many new tokens a row may come to.
        places: Which of the prompts; None for all.
    """

    prompts: Sequence[Prompt]
    batch_size: int
    max_batch_tokens: int
    new: int
    places: Sequence[int] | None = None

    def __post_init__(self) -> None:
        places = range(len(self.prompts)) if self.places is None else self.places
        self.waiting = sorted(places, key=lambda place: -len(self.prompts[place]))

    def take(self, running: Sequence[int]) -> list[int]:
        """The places of the next prompts that there is room for beside those that are running; one if none is.

        A prompt that is much longer waits until they have ended.
        """
        taken: list[int] = []
        lengths = [len(self.prompts[place]) for place in running]
        longest, tokens = max(lengths, default=0), sum(lengths)
        while self.waiting and len(running) + len(taken) < self.batch_size:
            length = len(self.prompts[self.waiting[-1]])
            longest, tokens = max(longest, length), tokens + length
            rows = len(running) + len(taken) + 1
            large = rows * (longest + self.new) > self.max_batch_tokens
            if rows > 1 and (large or not alike(rows, longest, tokens)):
                break
            taken.append(self.waiting.pop())
        return taken


@dataclass
class Flight:
    """The rows that are in the tensors.

    Attributes:
        state: What they have computed.
        places: Of each, the place of its prompt in the list.
        prompts: Their prompts.
        tokens: What is fed next.
        mask: Which of that is real.
        running: Which have not ended.
    """

    state: State
    places: list[int]
    prompts: list[Prompt]
    tokens: Int[Tensor, "rows new"]
    mask: Bool[Tensor, "rows new"]
    running: Bool[Tensor, "rows"]


@dataclass
class Writer:
    """One run of the loop.

    Attributes:
        model: The model.
        chooser: Chooses the tokens.
        max_new_tokens: The most new tokens of a row.
        rows: What is written after each prompt, by its place.
        stop: Texts that end a row.
        applied: The checkpoint's processors.
        ended: Called with the number of rows that have just ended.
    """

    model: Any
    chooser: Chooser
    max_new_tokens: int
    rows: Sequence[Written] | Mapping[int, Written]
    stop: Sequence[str] = ()
    applied: Processors | None = None
    ended: Callable[[int], object] = lambda count: None

    def __post_init__(self) -> None:
        self._eos = torch.tensor(loaded_info(self.model).eos_ids, dtype=torch.long)
        self._special = naming_specials(self.model.tokenizer, self.stop)

    def write(self, step: Step, queue: Queue | None = None) -> None:
        """Write after the step's prompts, and then after those of the queue, until all rows have ended.

        Args:
            step: What every pass is announced to. It has the first batch, and later the others.
            queue: What comes after it.
        """
        for _ in self.passes(step, queue):
            pass

    def passes(self, step: Step, queue: Queue | None = None) -> Iterator[Flight]:
        """The same, stopping after every new token; until it goes on, others may use the model."""
        flight: Flight | None = self._begin(step)
        yield flight
        while flight is not None:
            if self._in_order(flight):
                self._next(flight, step)
                yield flight
            else:
                flight = self._rearranged(flight, step, queue)

    def _begin(self, step: Step) -> Flight:
        """The first token after each of the step's prompts."""
        places = list(step.index or range(len(step.batch)))
        state, tokens, mask = begin(self.model, step)
        running = torch.ones(len(places), dtype=torch.bool)
        flight = Flight(state, places, list(step.batch.prompts), tokens, mask, running)
        self._next(flight, step)
        return flight

    def _next(self, flight: Flight, step: Step) -> None:
        """One more token for each row."""
        places = flight.places
        written = [self.rows[place].tokens for place in places]
        current = Pass(self.model, flight.state, flight.tokens, flight.mask, step, places, written)
        current.running, current.processors = flight.running, self.applied
        choice = self.chooser.choose(current)
        logprobs = choice.logits.log_softmax(-1).gather(1, choice.tokens[:, None])[:, 0].tolist()
        ids = choice.tokens.cpu()
        for row in flight.running.nonzero()[:, 0].tolist():
            to = self.rows[places[row]]
            if choice.trace:
                to.trace.append({"prompt": places[row], "step": len(to.tokens), **choice.trace[row]})
            to.tokens.append(int(ids[row]))
            to.logprobs.append(logprobs[row])
        before = flight.running
        flight.running = before & ~torch.isin(ids, self._eos) & ~self._stopped(step, written)
        flight.tokens, flight.mask = ids[:, None], torch.ones((len(places), 1), dtype=torch.bool)
        ended = (before & ~flight.running).nonzero()[:, 0].tolist()
        for row in ended:
            self.rows[places[row]].done = True
        self.ended(len(ended))

    def _stopped(self, step: Step, written: Sequence[Sequence[int]]) -> Bool[Tensor, "rows"]:
        """Which rows are as long as they may be, or have just completed a text that ends them."""
        stopped = [len(ids) >= self.max_new_tokens for ids in written]
        if self.stop:
            tokenizer, special = self.model.tokenizer, self._special
            ended = (completed(tokenizer, ids, self.stop, special) for ids in written)
            stopped = [one or end for one, end in zip(stopped, ended, strict=True)]
        if self.applied is not None and "stop_strings" in self.applied.settings:
            read = read_so_far(self.model, step, written)
            stopped = [one or self.applied.stopped(ids) for one, ids in zip(stopped, read, strict=True)]
        return torch.tensor(stopped)

    def _in_order(self, flight: Flight) -> bool:
        """Whether the batch can go on as it is."""
        running = flight.running.nonzero()[:, 0].tolist()
        if len(running) <= _REARRANGE_BELOW * len(flight.places):
            return False
        longest = 0 if is_encoder_decoder(self.model) else max(len(flight.prompts[row]) for row in running)
        return flight.state.length < longest + self.max_new_tokens

    def _rearranged(self, flight: Flight, step: Step, queue: Queue | None) -> Flight | None:
        """The rows that go on, with new ones beside them; None if there are neither."""
        kept = flight.running.nonzero()[:, 0]
        places = [flight.places[row] for row in kept.tolist()]
        taken = [] if queue is None else queue.take(places)
        fresh = None
        if queue is not None and taken:
            step.show(pad(self.model, [queue.prompts[place] for place in taken]), taken)
            fresh = self._begin(step)
        if not places:
            return fresh
        prompts = [flight.prompts[row] for row in kept.tolist()]
        tokens, running = flight.tokens[kept], flight.running[kept]
        if fresh is not None:
            places, prompts = places + fresh.places, prompts + fresh.prompts
            tokens, running = torch.cat([tokens, fresh.tokens]), torch.cat([running, fresh.running])
        length = self._show(step, places, prompts)
        other = None if fresh is None else fresh.state
        state = rearrange(flight.state, kept.to(model_device(self.model)), length, other)
        return Flight(state, places, prompts, tokens, torch.ones_like(tokens, dtype=torch.bool), running)

    def _show(self, step: Step, places: list[int], prompts: list[Prompt]) -> int:
        """Tell the step which rows there are now, and how many positions the longest has."""
        written = [self.rows[place].tokens[:-1] for place in places]  # the last one has not been fed
        if is_encoder_decoder(self.model):
            length = 1 + max(map(len, written))
            step.show(pad(self.model, prompts), places, [length - 1 - len(ids) for ids in written])
            return length
        read = [prompt.tokens.tolist() + ids for prompt, ids in zip(prompts, written, strict=True)]
        length = max(map(len, read))
        tokens = torch.full((len(read), length), self.model.tokenizer.pad_token_id or 0)
        for row, ids in enumerate(read):
            tokens[row, length - len(ids) :] = torch.tensor(ids)
        starts = tuple(length - len(ids) for ids in read)
        mask = torch.arange(length)[None] >= torch.tensor(starts)[:, None]
        step.show(Batch(tuple(prompts), tokens, mask, starts), places)
        return length
