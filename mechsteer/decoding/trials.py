"""Gated decoding: every token is chosen among an unsteered pass and steered trials, and only unsteered keys are kept.

One loop for DIRECTER and for any other schedule of interventions under its gate. For one new token of each row:

1. An unsteered pass ("raw": nothing but the intervention that ``generate`` was given) makes p; its keys and values are
   the ones that are kept.
2. Where the gate says that no steered token could be accepted, p's most likely token is taken.
3. Otherwise the trials, from the strongest on: the most likely token of the first that is plausible is taken; if none
   is, p's.

What a checkpoint's ``generation_config.json`` does to scores is part of the model here: the processors come before
p, and before a trial's most likely token, alike. What they forbid is not plausible, and a trial that changes nothing
is plain greedy decoding.

Trials differ from the raw pass in hooks alone, so all of them are copies of the row in one batch, sharing its cached
keys and values. While a batch is small and most steps need trials, the raw pass is one of the copies, and a step costs
one pass; else it comes first, and only the rows that need trials have them. On a CPU a pass of six rows costs about
1.5 of one row's, so that a model that is sure of most tokens is better served by the second way: what was needed lately
decides. The tokens are the same either way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.decoding.finite import check_finite
from mechsteer.decoding.gate import plausible, settled
from mechsteer.decoding.strategies import Choice, Pass
from mechsteer.models import State, adopt, advance, fork, hooked, model_device, repeat_rows, residual, select_rows
from mechsteer.steering import Step

Hooks = Sequence[tuple[str, Callable[..., Any]]]
_Looked = tuple[Float[Tensor, "rows d_vocab"], Float[Tensor, "rows d_vocab"], Int[Tensor, "rows trials"]]
"""Unsteered logits, the same after the checkpoint's processors, and the most likely tokens of the trials."""

TOGETHER = {"cpu": 8}
"""Up to how many rows the raw pass and the trials are one pass, by type of device."""
_TOGETHER_ELSEWHERE = 64
NEEDED = {"cpu": 0.4}
"""From which share of steps with trials on they are one pass, by type of device; elsewhere always."""
_LATELY = 0.1  # the weight of the last step in that share


@dataclass(frozen=True)
class Copies:
    """How the rows of a pass are repeated.

    Attributes:
        rows: Rows of the batch, each of which stands ``raw + trials`` times, copies side by side.
        raw: 1 if the first copy of each is unsteered, else 0.
        trials: How many steered copies follow it.
    """

    rows: tuple[int, ...]
    raw: int
    trials: int

    @property
    def times(self) -> int:
        """How often each row stands."""
        return self.raw + self.trials

    @property
    def each(self) -> list[int]:
        """For each copy, whose it is."""
        return [row for row in self.rows for _ in range(self.times)]


@runtime_checkable
class Trials(Protocol):
    """What is tried, the strongest first."""

    def count(self) -> int:
        """How many trials a token has at most."""
        ...

    def begin(self, current: Pass, before: State) -> None:
        """A batch begins: ``before`` is its state at the last prompt token, which ``current`` is about to run."""
        ...

    def hooks(self, step: Step, copies: Copies, end: int) -> tuple[Hooks, Hooks]:
        """What steers the copies in a pass that ends at a position: hooks before those on the model, and after."""
        ...

    def check(self) -> None:
        """A pass with all trials was made.

        Raises:
            MechsteerError: if one of them did nothing.
        """
        ...

    def describe(self, accepted: int) -> dict[str, Any]:
        """More columns of the trace for an accepted trial, by its number; 0 for none."""
        ...


@dataclass
class GatedChooser:
    """One run of gated decoding.

    Attributes:
        trials: What is tried.
        beta: The gate's threshold; None for no gate: the first trial's token is taken.
        released: The released code's comparisons.
        needed: Which share of the rows needed trials lately.
    """

    trials: Trials
    beta: float | None
    released: bool = False
    needed: float = 0.5

    @torch.no_grad()
    def choose(self, current: Pass) -> Choice:
        """Choose one token a row."""
        first = current.state.length == 0
        if first:
            self._read_prompt(current)
        count = self.trials.count()
        device = model_device(current.model).type
        small = len(current.places) * (1 + count) <= TOGETHER.get(device, _TOGETHER_ELSEWHERE)
        if small and not first and self.needed >= NEEDED.get(device, 0.0):
            logits, scores, steered = self._together(current, count)
        else:
            logits, scores, steered = self._raw_first(current, count, first)
        choice = self._chosen(logits, scores, steered)
        needed = sum(not line["skipped"] for line in choice.trace) / len(choice.trace)
        self.needed += _LATELY * (needed - self.needed)
        return choice

    @torch.no_grad()
    def first_logits(self, current: Pass) -> Float[Tensor, "rows d_vocab"]:
        """The logits whose most likely token is each row's first: the accepted trial's, or the unsteered ones."""
        self._read_prompt(current)
        before = fork(current.state)
        logits = current.logits()
        before.cross = current.state.cross
        self.trials.begin(current, before)
        count, rows = self.trials.count(), len(logits)
        found, _ = self._run(current, before, Copies(tuple(range(rows)), 0, count))
        steered = found.unflatten(0, (-1, count))
        choice = self._chosen(logits, logits, steered.argmax(-1))
        accepted = torch.tensor([line["accepted"] for line in choice.trace], device=logits.device)
        taken = steered[torch.arange(rows, device=logits.device), (accepted - 1).clamp(min=0)]
        return torch.where(accepted[:, None] > 0, taken, logits)

    def _read_prompt(self, current: Pass) -> None:
        """Run all tokens of the first pass but the last, unsteered."""
        if current.tokens.shape[1] > 1:
            residual(current.model, current.state, current.tokens[:, :-1], current.mask[:, :-1])
            current.tokens, current.mask = current.tokens[:, -1:], current.mask[:, -1:]

    def _together(self, current: Pass, count: int) -> _Looked:
        copies = Copies(tuple(range(len(current.places))), 1, count)
        logits, repeated = self._run(current, current.state, copies)
        adopted = adopt(current.state, repeated)
        current.state.cache, current.state.length = adopted.cache, adopted.length
        current.state.seen = adopted.seen
        scores = current.processed(logits, rows=copies.each).unflatten(0, (-1, copies.times))
        return logits[:: copies.times], scores[:, 0], scores[:, 1:].argmax(-1)

    def _raw_first(self, current: Pass, count: int, first: bool) -> _Looked:
        before = fork(current.state)
        logits = current.logits()
        before.cross = current.state.cross
        if first:
            self.trials.begin(current, before)
        scores = current.processed(logits)
        steered = scores.argmax(-1, keepdim=True).repeat(1, count)
        rows = (~self._settled(scores.softmax(-1))).nonzero()[:, 0].cpu()
        if len(rows):
            kept = before if len(rows) == len(logits) else select_rows(before, rows.to(logits.device))
            copies = Copies(tuple(rows.tolist()), 0, count)
            found, _ = self._run(current, kept, copies)
            found = current.processed(found, rows=copies.each)
            steered[rows.to(logits.device)] = found.unflatten(0, (-1, count)).argmax(-1)
        return logits, scores, steered

    def _settled(self, p: Float[Tensor, "rows d_vocab"]) -> Bool[Tensor, "rows"]:
        if self.beta is None:
            return torch.zeros(len(p), dtype=torch.bool, device=p.device)
        return settled(p, self.beta, released=self.released)

    def _run(self, current: Pass, state: State, copies: Copies) -> tuple[Float[Tensor, "copies d_vocab"], State]:
        """One pass of all copies. ``state`` holds their rows, and stays as it is."""
        step, model = current.step, current.model
        alive = list(range(len(step.batch)) if step.alive is None else step.alive)
        each = [alive[row] for row in copies.rows for _ in range(copies.times)]
        own = [copy < copies.raw for _ in copies.rows for copy in range(copies.times)]
        meant = replace(copies, rows=tuple(alive[row] for row in copies.rows))
        before, after = self.trials.hooks(step, meant, state.length + 1)
        repeated = repeat_rows(state, copies.times)
        tokens, mask = (x[list(copies.rows)].repeat_interleave(copies.times, 0) for x in (current.tokens, current.mask))
        with step.copied(each, own), hooked(model, before, first=True), hooked(model, after):
            logits = advance(model, repeated, tokens, mask)[:, -1].float()
        self.trials.check()
        _check_copies(current, logits, copies)
        return logits, repeated

    def _chosen(
        self,
        logits: Float[Tensor, "rows d_vocab"],
        scores: Float[Tensor, "rows d_vocab"],
        steered: Int[Tensor, "rows trials"],
    ) -> Choice:
        p = scores.softmax(-1)
        raw = p.argmax(-1)
        skipped = self._settled(p)
        if self.beta is None:
            passed = torch.ones_like(steered, dtype=torch.bool)
        else:
            passed = plausible(p, steered, self.beta, released=self.released)
        passed &= ~skipped[:, None]
        number = torch.where(passed.any(-1), passed.int().argmax(-1) + 1, 0)
        tokens = torch.where(number > 0, steered.gather(1, (number - 1).clamp(min=0)[:, None])[:, 0], raw)
        needed = torch.where(skipped, 0, torch.where(number > 0, number, steered.shape[1]))
        columns = (x.tolist() for x in (tokens, raw, number, needed, skipped, _at(p, raw), _at(p, tokens)))
        names = ("token", "raw_token", "accepted", "trials", "skipped", "p_raw", "p_token")
        trace: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        for line in trace:
            line |= self.trials.describe(line["accepted"])
        return Choice(tokens, logits, trace)


def _at(p: Float[Tensor, "rows d_vocab"], tokens: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    return p.gather(1, tokens[:, None])[:, 0]


def _check_copies(current: Pass, logits: Float[Tensor, "copies d_vocab"], copies: Copies) -> None:
    """Each copy apart, so that the message names the trial."""
    rows = list(copies.rows)
    places, edits, new = [current.places[row] for row in rows], current.step.edits, max(map(len, current.written))
    running = None if current.running is None else current.running[rows]
    for copy, own in enumerate(logits.unflatten(0, (-1, copies.times)).unbind(1)):
        trial = f" (trial {copy - copies.raw + 1} of its strategy)" if copy >= copies.raw else ""
        check_finite(current.model, own, places, edits=edits, new=new, counted=running, trial=trial)
