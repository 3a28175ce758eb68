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
keys and values. The raw pass comes first, and only the rows that need trials have them; the pass that makes them reads
the next position ahead (:mod:`mechsteer.decoding.ahead`). Where that cannot be, since many tokens are plausible or
hooks are on the model, while a batch is small and most steps need trials, the raw pass is one of the copies: what was
needed lately decides. A step costs about one pass in every case, and the tokens are the same.

On a CPU each row of a pass costs time. There the strongest trials come first, which are mostly enough, and the others
if all of these are rejected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.decoding.ahead import Ahead, Group
from mechsteer.decoding.finite import check_finite
from mechsteer.decoding.gate import beta_of, plausible, settled
from mechsteer.decoding.strategies import Choice, Pass
from mechsteer.decoding.trial_copies import Copies, Trials
from mechsteer.models import (
    State,
    adopt,
    advance_together,
    before_last,
    hooked,
    model_device,
    repeat_rows,
    select_rows,
)
from mechsteer.prompts import Prompt

_Rows = Float[Tensor, "rows d_vocab"]
_Looked = tuple[_Rows, _Rows, Int[Tensor, "rows trials"], Bool[Tensor, "rows"]]
"""Unsteered logits, p of them after the checkpoint's processors, the most likely tokens of the trials, and which rows
need none."""

TOGETHER = {"cpu": 8}
"""Up to how many rows the raw pass and the trials are one pass, by type of device."""
_TOGETHER_ELSEWHERE = 64
NEEDED = {"cpu": 0.4}
"""From which share of steps with trials that are not read ahead on they are one pass, by device; elsewhere always."""
FIRST = {"cpu": (2, 3)}
"""How many trials a row that is alone has at first, and one of several, by type of device; elsewhere all.

On a CPU four rows, two trials and two tokens read ahead, cost hardly more than one. Of several rows one is more often
rejected, and then costs a pass.
"""
_LATELY = 0.1  # the weight of the last step in that share


@dataclass
class GatedChooser:
    """One run of gated decoding.

    Attributes:
        trials: What is tried.
        beta: The gate's threshold, one or one for each prompt; None for no gate: the first trial's token is taken.
        released: The released code's comparisons.
        needed: Which share of the rows needed trials lately, and were not read ahead.
    """

    trials: Trials
    beta: float | Sequence[float] | None
    released: bool = False
    needed: float = 0.3

    def __post_init__(self) -> None:
        self._ahead = Ahead(self.beta)
        self._all_made: set[int] = set()  # the places of prompts that all trials were made for, and checked

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """What can be said before the first pass of a run, and need not wait until a prompt's batch comes.

        Raises:
            MechsteerError: if there are fewer thresholds than prompts, or a prompt lacks a span that is acted on.
        """
        if self.beta is not None:
            beta_of(self.beta, range(len(prompts)), torch.device("cpu"))
        self.trials.check_prompts(prompts)

    @torch.no_grad()
    def choose(self, current: Pass) -> Choice:
        """Choose one token a row."""
        first = current.state.length == 0
        count = self.trials.count()
        device = model_device(current.model).type
        small = len(current.places) * (1 + count) <= TOGETHER.get(device, _TOGETHER_ELSEWHERE)
        if small and not first and self.needed >= NEEDED.get(device, 0.0):
            looked = self._together(current, count)
        else:
            looked = self._raw_first(current)
        _, p, _, skipped = looked
        needed = ~skipped if skipped.all() else ~skipped & ~self._ahead.readable(current, p)
        self.needed += _LATELY * (float(needed.float().mean()) - self.needed)
        return self._chosen(current, *looked)

    @torch.no_grad()
    def first_logits(self, current: Pass) -> Float[Tensor, "rows d_vocab"]:
        """The logits whose most likely token is each row's first: the accepted trial's, or the unsteered ones."""
        logits = self._raw(current)
        count, rows = self.trials.count(), len(logits)
        found, _ = self._run(current, before_last(current.state), Copies(tuple(range(rows)), 0, count))
        steered = found.unflatten(0, (-1, count))
        p = logits.softmax(-1)
        choice = self._chosen(current, logits, p, steered.argmax(-1), self._settled(current, p))
        accepted = torch.tensor([line["accepted"] for line in choice.trace], device=logits.device)
        taken = steered[torch.arange(rows, device=logits.device), (accepted - 1).clamp(min=0)]
        return torch.where(accepted[:, None] > 0, taken, logits)

    def _raw(self, current: Pass) -> Float[Tensor, "rows d_vocab"]:
        """The unsteered pass; what is left of its tokens for trials is the last."""
        first = current.state.length == 0
        logits = current.logits() if first else self._ahead.logits(current)
        current.tokens, current.mask = current.tokens[:, -1:], current.mask[:, -1:]
        if first:
            self.trials.begin(current, before_last(current.state))
        return logits

    def _together(self, current: Pass, count: int) -> _Looked:
        copies = Copies(tuple(range(len(current.places))), 1, count)
        logits, repeated = self._run(current, current.state, copies)
        # The first copy is the unsteered one; its keys alone are kept, so that no trial leaves a trace in later tokens.
        adopted = adopt(current.state, repeated)
        current.state.cache, current.state.length = adopted.cache, adopted.length
        current.state.seen = adopted.seen
        scores = current.processed(logits, rows=copies.each).unflatten(0, (-1, copies.times))
        p = scores[:, 0].softmax(-1)
        return logits[:: copies.times], p, scores[:, 1:].argmax(-1), self._settled(current, p)

    def _raw_first(self, current: Pass) -> _Looked:
        logits = self._raw(current)
        p = current.processed(logits).softmax(-1)
        steered = p.argmax(-1, keepdim=True).repeat(1, self.trials.count())
        skipped = self._settled(current, p)
        waiting = ~skipped if current.running is None else ~skipped & current.running.to(p.device)
        rows = waiting.nonzero()[:, 0]
        if len(rows):
            steered[rows] = self._tried(current, p, tuple(rows.tolist()))
        return logits, p, steered, skipped

    def _tried(self, current: Pass, p: Float[Tensor, "rows d_vocab"], rows: tuple[int, ...]) -> Int[Tensor, "_ trials"]:
        """The most likely tokens of these rows' trials; of trials that an accepted one makes needless, the same."""
        kept = current.state
        if len(rows) < len(p):
            kept = select_rows(kept, torch.tensor(rows, device=p.device))
        before, count, known = before_last(kept), self.trials.count(), self._all_made
        first = count
        if known.issuperset(current.places[row] for row in rows):
            first = min(count, FIRST.get(p.device.type, (count, count))[len(rows) > 1])

        steered = self._steered(current, before, Copies(rows, 0, first), self._ahead.group(current, p, rows, kept))
        if first < count:
            places = [current.places[row] for row in rows]
            rejected = (~self._passed(places, p[list(rows)], steered).any(-1)).nonzero()[:, 0]
            steered = torch.cat([steered, steered[:, -1:].repeat(1, count - first)], dim=-1)
            if len(rejected):
                rest = Copies(tuple(rows[row] for row in rejected.tolist()), 0, count - first, first)
                steered[rejected, first:] = self._steered(current, select_rows(before, rejected), rest)
        known.update(current.places[row] for row in rows)
        return steered

    def _steered(
        self, current: Pass, before: State, copies: Copies, ahead: Group | None = None
    ) -> Int[Tensor, "_ trials"]:
        """The most likely token of each trial."""
        found, _ = self._run(current, before, copies, ahead)
        return current.processed(found, rows=copies.each).unflatten(0, (-1, copies.trials)).argmax(-1)

    def _passed(
        self, places: Sequence[int], p: Float[Tensor, "rows d_vocab"], steered: Int[Tensor, "rows trials"]
    ) -> Bool[Tensor, "rows trials"]:
        if self.beta is None:
            return torch.ones_like(steered, dtype=torch.bool)
        return plausible(p, steered, beta_of(self.beta, places, p.device), released=self.released)

    def _settled(self, current: Pass, p: Float[Tensor, "rows d_vocab"]) -> Bool[Tensor, "rows"]:
        if self.beta is None:
            return torch.zeros(len(p), dtype=torch.bool, device=p.device)
        return settled(p, beta_of(self.beta, current.places, p.device), released=self.released)

    def _run(
        self, current: Pass, state: State, copies: Copies, ahead: Group | None = None
    ) -> tuple[Float[Tensor, "copies d_vocab"], State]:
        """One pass of all copies, with what is read ahead. ``state`` holds their rows, and stays as it is."""
        step, model = current.step, current.model
        alive = list(range(len(step.batch)) if step.alive is None else step.alive)
        each = [alive[row] for row in copies.rows for _ in range(copies.times)]
        own = [copy < copies.raw for _ in copies.rows for copy in range(copies.times)]
        meant = replace(copies, rows=tuple(alive[row] for row in copies.rows))
        # Hooks that scale keys go before the interventions on the model, which act on the scores that come of them;
        # hooks of other trials after them, so that "unsteered" means: under what generate was given.
        before, after = self.trials.hooks(step, meant, state.length + 1)
        repeated = repeat_rows(state, copies.times)
        tokens = current.tokens[list(copies.rows)].repeat_interleave(copies.times, 0)
        states, read = [repeated], [tokens]
        if ahead is not None:
            states, read = [repeated, ahead.state], [tokens, ahead.tokens]
        with step.copied(each, own), hooked(model, before, first=True), hooked(model, after):
            logits, *others = (found.float() for found in advance_together(model, states, read))
        if ahead is not None:
            self._ahead.keep(current, ahead, *others)
        if copies.numbers.stop - copies.tried == self.trials.count():
            self.trials.check()
        _check_copies(current, logits, copies)
        return logits, repeated

    def _chosen(
        self,
        current: Pass,
        logits: _Rows,
        p: _Rows,
        steered: Int[Tensor, "rows trials"],
        skipped: Bool[Tensor, "rows"],
    ) -> Choice:
        raw = p.argmax(-1)
        passed = self._passed(current.places, p, steered) & ~skipped[:, None]
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
        trial = f" (trial {copy - copies.raw + copies.tried + 1} of its strategy)" if copy >= copies.raw else ""
        check_finite(current.model, own, places, edits=edits, new=new, counted=running, trial=trial)
