"""Reading ahead: the next position of rows whose token is not decided yet, for each token that it may turn out to be.

The gate lets few tokens pass, and which ones is known from the unsteered distribution, before any trial has run: those
with p[j] >= beta p[i*], mostly two. So the pass that makes a row's trials also runs these tokens as if they had been
chosen, and the rows whose token is decided along with them. Whatever the trials say, the next unsteered pass has been
made then, and a token costs one pass, with or without trials.

What was read is kept by row and token, and not by the place in a batch, so that batches may be rearranged in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.decoding.gate import beta_of
from mechsteer.decoding.strategies import Pass
from mechsteer.models import (
    State,
    advance,
    extend,
    hooks_on,
    is_encoder_decoder,
    last_position,
    ordered_rows,
    repeat_rows,
    select_rows,
)

MOST = 4
"""The most tokens that a row is read ahead for; one that has more waits for its trials."""
_KEPT = 2  # for how many calls: a batch from the queue may be begun before the next token of these rows


@dataclass(frozen=True)
class Group:
    """Rows that are read ahead in one pass.

    Attributes:
        rows: Their numbers in the batch; copies of a row side by side.
        state: Their state.
        tokens: One for each.
    """

    rows: list[int]
    state: State
    tokens: Int[Tensor, "copies 1"]


@dataclass(frozen=True)
class _Read:
    """What the model makes of one more token of a row.

    Attributes:
        written: How many tokens the row had before.
        call: When it was read.
        logits: The model's logits after it.
        new: Its keys and values.
    """

    written: int
    call: int
    logits: Float[Tensor, "d_vocab"]
    new: Float[Tensor, "layers 2 kv_heads d_head"]


@dataclass
class Ahead:
    """What was read ahead during one run.

    Attributes:
        beta: The gate's threshold, one or one for each prompt; None where any token may be taken, and nothing is read.
        read: By the place of a prompt and the token after what was written there.
        calls: How many tokens were asked for.
    """

    beta: float | Sequence[float] | None
    read: dict[tuple[int, int], _Read] = field(default_factory=dict)
    calls: int = 0

    def logits(self, current: Pass) -> Float[Tensor, "rows d_vocab"]:
        """What ``current.logits()`` gives; only what was not read ahead is run."""
        self.calls += 1
        self.read = {key: one for key, one in self.read.items() if one.call >= self.calls - _KEPT}
        keys = list(zip(current.places, current.tokens[:, -1].tolist(), strict=True))
        found = [self._found(*key, len(written)) for key, written in zip(keys, current.written, strict=True)]
        missing = [row for row in _running(current) if found[row] is None]
        if not any(found) or hooks_on(current.model):
            return current.logits()
        if missing:
            self._run(current, missing)
            found = [self._found(*key, len(written)) for key, written in zip(keys, current.written, strict=True)]
        anything = next(one for one in found if one is not None)  # in rows that have ended
        rows = [one or anything for one in found]
        extend(current.state, torch.stack([one.new for one in rows], dim=2))
        return current.checked(torch.stack([one.logits for one in rows]))

    def _found(self, place: int, token: int, written: int) -> _Read | None:
        one = self.read.get((place, token))
        return one if one is not None and one.written == written - 1 else None

    def _run(self, current: Pass, rows: list[int]) -> None:
        state = select_rows(current.state, torch.tensor(rows, device=current.state.cache[0].keys.device))
        logits = advance(current.model, state, current.tokens[rows], current.mask[rows])[:, -1].float()
        self._keep(current, rows, current.tokens[rows], logits, state, before=1)

    def readable(self, current: Pass, p: Float[Tensor, "rows d_vocab"]) -> Bool[Tensor, "rows"]:
        """Which rows can be read ahead: of few tokens, where there is room and no hook would see it."""
        model, beta = current.model, self.beta
        room = is_encoder_decoder(model) or current.state.length < model.cfg.n_ctx
        if beta is None or not room or hooks_on(model):
            return torch.zeros(len(p), dtype=torch.bool, device=p.device)
        return self._plausible(current, p) <= MOST

    def _plausible(self, current: Pass, p: Float[Tensor, "rows d_vocab"]) -> Int[Tensor, "rows"]:
        beta = 0.0 if self.beta is None else beta_of(self.beta, current.places, p.device)
        return (p >= beta * p.max(-1, keepdim=True).values).sum(-1)

    def group(
        self, current: Pass, p: Float[Tensor, "rows d_vocab"], tried: Sequence[int], state: State
    ) -> Group | None:
        """What to read in the pass that makes the trials.

        Args:
            current: The pass, after its unsteered part.
            p: The unsteered distribution.
            tried: The rows that have trials.
            state: The state of these.
        """
        able, plausible = self.readable(current, p).tolist(), self._plausible(current, p).tolist()
        counts = {row: plausible[row] for row in tried if able[row]}
        if not counts:
            return None
        sure = [row for row in _running(current) if row not in tried]
        shared = len(counts) == len(tried) and not sure  # then nothing of the cache is copied
        most = max(counts.values())
        counts = dict.fromkeys(counts, most) if shared else counts | dict.fromkeys(sure, 1)
        rows = [row for row, count in counts.items() for _ in range(count)]
        likely = p.topk(most, dim=-1).indices
        tokens = torch.cat([likely[row, :count] for row, count in counts.items()])[:, None]
        if shared:
            return Group(rows, repeat_rows(state, most), tokens)
        return Group(rows, ordered_rows(current.state, torch.tensor(rows, device=p.device)), tokens)

    def keep(self, current: Pass, group: Group, logits: Float[Tensor, "copies d_vocab"]) -> None:
        """Keep what the pass made of it."""
        self._keep(current, group.rows, group.tokens, logits, group.state)

    def _keep(
        self, current: Pass, rows: Sequence[int], tokens: Tensor, logits: Tensor, state: State, *, before: int = 0
    ) -> None:
        news = last_position(state).unbind(2)
        for row, token, found, new in zip(rows, tokens[:, 0].tolist(), logits, news, strict=True):
            written = len(current.written[row]) - before
            self.read[current.places[row], token] = _Read(written, self.calls, found, new)


def _running(current: Pass) -> list[int]:
    return list(range(len(current.places))) if current.running is None else current.running.nonzero()[:, 0].tolist()
