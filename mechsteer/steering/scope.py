"""Scopes: at which positions of which rows an intervention acts, the same in prefill and in cached steps.

Positions count from the first real token of the prompt, padding never counts, and tokens generated after it continue
the count. In the decoder of an encoder-decoder they count from the decoder's start token, which is its whole prompt.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mechsteer.errors import MechsteerError, shown, unknown, wholes
from mechsteer.prompts import Batch

NAMED = ("all", "content", "prompt", "generated", "last_prompt")
"""Scopes by name; ``"span:NAME"`` and a list of positions are the others."""

MAYBE_NOWHERE = ("generated", "content")
"""Scopes that may meet no position of a run, of one new token say, without that being an error."""

Selection = Bool[Tensor, "rows positions"] | bool
"""Which positions are meant: all (True), none (False), or a mask."""


@dataclass(frozen=True)
class Scope:
    """Where to act.

    Attributes:
        where: ``"all"``; ``"content"``, all but the sequence's first position, whatever token that is (where an
            attention sink is, if the model has one); ``"prompt"``, ``"generated"``, ``"last_prompt"``,
            ``"span:NAME"``, or positions; a negative position counts back from the end of the prompt (-1 is its last
            token). Every prompt has the span ``"content"``: its tokens but the first.
        rows: Prompts (by their place in the list given) to act on; None for all.
    """

    where: str | tuple[int, ...] = "all"
    rows: tuple[int, ...] | None = None

    def __str__(self) -> str:
        where = self.where if isinstance(self.where, str) else str(list(self.where))
        return where if self.rows is None else f"{where} of rows {list(self.rows)}"


def make_scope(where: str | Sequence[int], rows: Sequence[int] | None = None) -> Scope:
    """Check and freeze a scope.

    Raises:
        MechsteerError: for an unknown name, no positions, or positions and rows that are not integers.
    """
    frozen_rows = None if rows is None else _integers("rows", rows)
    if not isinstance(where, str):
        return Scope(_integers("scope", where), frozen_rows)
    if where not in NAMED and not (where.startswith("span:") and where != "span:"):
        raise unknown("scope", where, [*NAMED, "span:instruction"])
    return Scope(where, frozen_rows)


def check_rows(scope: Scope, count: int, what: str) -> None:
    """Raise if a scope means rows that there are none of.

    Args:
        scope: The scope.
        count: How many prompts there are.
        what: Whose scope it is, for the message.

    Raises:
        MechsteerError: with the rows.
    """
    outside = [row for row in scope.rows or () if not 0 <= row < count]
    if outside:
        there = f"are {count} prompts, rows 0 to {count - 1}" if count > 1 else "is one prompt, row 0"
        raise MechsteerError(
            f"{what} never fired: its scope {str(scope)!r} met no position in {outside}: there {there}."
        )


def check_stacks(scope: Scope, stacks: Collection[str], what: str) -> None:
    """Raise if a scope means generated tokens where there can be none.

    Args:
        scope: The scope.
        stacks: The stacks whose positions the activations have.
        what: Whose scope it is, for the message.

    Raises:
        MechsteerError: if it is the encoder alone.
    """
    if scope.where == "generated" and set(stacks) == {"encoder"}:
        raise MechsteerError(
            f"{what} would never act: its scope is 'generated', but the encoder reads the prompt alone."
        )


def _integers(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    found = wholes(values)
    if not found:
        raise MechsteerError(f"{name} must name integers, e.g. [0, 3], got {shown(values)}.")
    return tuple(found)


@dataclass
class Step:
    """What one forward pass holds. The state of a run (:func:`mechsteer.steering.begin`) announces every pass to it.

    Attributes:
        batch: The prompts, padded as the model sees them.
        decoder_prefix: Encoder-decoders: the number of decoder tokens that are not generated. 0 for decoder-only
            models.
        index: For each row of the batch, its place in the list of prompts that the caller gave.
        alive: The rows of the batch that are still being computed, in the order of the tensors' rows.
        end: How many positions the predicting stack will have seen after this pass; None: as many as a tensor has.
        new: How many of them are this pass's own; None before the first one.
        own: Which of the tensors' rows are the run's own, and not trials whose results may be dropped; None for all.
        edits: The bound edits that are on the model, for messages.
        decoder_starts: Encoder-decoders: for each row of the batch, the index of its first decoder position; None: 0.
    """

    batch: Batch
    decoder_prefix: int = 0
    index: Sequence[int] | None = None
    alive: Sequence[int] | None = None
    end: int | None = None
    new: int | None = None
    own: Sequence[bool] | None = None
    edits: Sequence[Any] = ()
    decoder_starts: Sequence[int] | None = None
    _masks: dict[tuple[Scope, str, int], Selection] = field(default_factory=dict, repr=False)

    def begin(self, end: int, new: int | None = None) -> None:
        """Announce the next forward pass, of the rows that there are."""
        self.end, self.new = end, new
        self._masks.clear()

    @contextmanager
    def copied(self, rows: Sequence[int], own: Sequence[bool]) -> Iterator[None]:
        """For the passes in the block the tensors have other rows.

        Args:
            rows: For each of them, the row of the batch that it is a copy of.
            own: For each of them, whether it is the run's own, and not a trial.
        """
        before = self.alive, self.own
        self.alive, self.own = rows, own
        self._masks.clear()
        try:
            yield
        finally:
            self.alive, self.own = before
            self._masks.clear()

    def show(self, batch: Batch, index: Sequence[int], decoder_starts: Sequence[int] | None = None) -> None:
        """Put other rows in the place of the present ones, before their first pass."""
        self.batch, self.index, self.decoder_starts, self.alive, self.own = batch, index, decoder_starts, None, None
        self.begin(batch.length)

    def moved(self, end: int, new: int) -> bool:
        """Correct where the present pass ends.

        Returns:
            False, with nothing corrected, if that comes too late: if what was selected would have been something else.
        """
        asked, before = dict(self._masks), self.end
        self.begin(end, new)
        if all(_same(self.select(*key), found) for key, found in asked.items()):
            return True
        self.end = before
        return False

    def select(self, scope: Scope, stack: str, count: int) -> Selection:
        """Which of the last ``count`` positions of this pass the scope means.

        Args:
            scope: Where to act.
            stack: ``"encoder"``, ``"decoder"`` or ``"blocks"``: whose positions the tensor has.
            count: The size of the tensor's position dimension.

        Raises:
            MechsteerError: for a span that a prompt does not have, or a span asked of decoder positions.
        """
        key = (scope, stack, count)
        if key not in self._masks:
            self._masks[key] = self._select(scope, stack, count)
        return self._masks[key]

    def _select(self, scope: Scope, stack: str, count: int) -> Selection:
        end = count if stack == "encoder" or self.end is None else self.end
        rows = self.rows()
        mask = torch.zeros((len(rows), count), dtype=torch.bool)
        for out, row in enumerate(rows):
            if not self._means(scope, row):
                continue
            first, length = self._frame(row, stack)
            stop = min(end, first + length) if stack == "encoder" else end
            offset = end - count
            chosen = self._indices(scope, row, stack, first, length, range(max(first, offset), stop))
            if isinstance(chosen, range):
                mask[out, chosen.start - offset : max(chosen.start, chosen.stop) - offset] = True
            else:
                mask[out, [index - offset for index in chosen]] = True
            if stack == "blocks":  # a decoder-only batch may be padded on the right
                after = max(first + length, offset)
                real = self.batch.mask[row, after:end]
                mask[out, after - offset : after - offset + len(real)] &= real
        if mask.all():
            return True
        return mask if mask.any() else False

    def rows(self) -> Sequence[int]:
        """Which row of the batch each of the tensors' rows is."""
        return range(len(self.batch)) if self.alive is None else self.alive

    def ranges(self, scope: Scope, row: int) -> int:
        """Into how many ranges of tokens a scope's span falls in a row of the batch; 0 if the row is not meant."""
        span = str(scope.where).removeprefix("span:")
        return len(self.batch.prompts[row].spans.get(span, [()])) if self._means(scope, row) else 0

    def _means(self, scope: Scope, row: int) -> bool:
        return scope.rows is None or (row if self.index is None else self.index[row]) in scope.rows

    def _frame(self, row: int, stack: str) -> tuple[int, int]:
        """The index of a row's position 0, and the length of its prompt."""
        if stack == "decoder":
            return 0 if self.decoder_starts is None else self.decoder_starts[row], self.decoder_prefix
        return self.batch.starts[row], len(self.batch.prompts[row])

    def _indices(self, scope: Scope, row: int, stack: str, first: int, length: int, seen: range) -> Sequence[int]:
        boundary = first + length
        if scope.where == "all":
            return seen
        if scope.where == "content":
            return range(max(seen.start, first + 1), seen.stop)
        if scope.where == "prompt":
            return range(seen.start, min(seen.stop, boundary))
        if scope.where == "generated":
            return range(max(seen.start, boundary), seen.stop)
        if scope.where == "last_prompt":
            wanted = [length - 1]
        elif isinstance(scope.where, str):
            if stack == "decoder":
                raise MechsteerError(f"{scope.where!r} lies in the encoder's input; decoder positions have no spans.")
            span, prompt = scope.where.removeprefix("span:"), self.batch.prompts[row]
            wanted = prompt.positions(span)
            if not wanted and span in prompt.spans:
                raise MechsteerError(f"The span {span!r} of {prompt!r} is empty.")
        else:
            wanted = [p + length if p < 0 else p for p in scope.where]
        return [first + p for p in wanted if first + p in seen]


def _same(a: Selection, b: Selection) -> bool:
    return a is b if isinstance(a, bool) or isinstance(b, bool) else torch.equal(a, b)
