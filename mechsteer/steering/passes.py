"""Where a pass stands that our own loops do not run: hooks in the library's own forward and its cached ``generate``.

A hook function sees an activation and not where its positions stand in the sequence. The library runs a prompt whole
and then one token at a time against its cache, or, without a cache, the whole sequence again for each token. So a pass
of at least the prompt's length starts at the sequence's beginning, and a shorter one goes on after the pass before it.
The first layer's attention scores then say how many keys there are, which settles what a short pass left open.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.steering.scope import Step

_FIRST_SCORES = "blocks.0.attn.hook_attn_scores"
_RESID_PRE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")
_EMBEDDINGS = {"hook_embed": -2.0, "hook_pos_embed": -1.0}


def _depth(name: str) -> float | None:
    """How deep a pass is when it is at the hook point of that name; None for all but the few that are followed."""
    block = _RESID_PRE.fullmatch(name)
    return float(block[1]) if block else _EMBEDDINGS.get(name)


def followed(name: str) -> bool:
    """Whether :class:`Follower` has something to see at a hook point: a name filter."""
    return name == _FIRST_SCORES or _depth(name) is not None


@dataclass(eq=False)
class Follower:
    """A hook function that keeps a step up to date in a decoder-only model.

    It changes nothing, and must be called before the edits at the hook points of :func:`followed`.

    Attributes:
        step: What it keeps up to date.
        depth: How deep the pass is; one that is not deeper than before is a new one.
    """

    step: Step
    depth: float = math.inf

    def __call__(self, x: Tensor, hook: Any) -> None:
        """Notice a new pass, or check what was made of it."""
        if hook.name == _FIRST_SCORES:
            self._check(x)
            return
        depth = _depth(hook.name)
        if depth is not None and depth <= self.depth:
            self._begin(x.shape[0], x.shape[1])
        self.depth = self.depth if depth is None else depth

    def _begin(self, rows: int, new: int) -> None:
        step, batch = self.step, self.step.batch
        if len(batch) not in (1, rows):
            raise MechsteerError(
                f"The hooks were made for {len(batch)} prompts, but {rows} rows are run. Make them with the prompts "
                "that are run, in order."
            )
        before = step.end
        if before is None or new >= max(batch.length, 2):  # after a prompt of one token, one more goes on
            step.begin(new, new)
            return
        if any(first + len(p) < batch.length for first, p in zip(batch.starts, batch.prompts, strict=True)):
            raise MechsteerError(
                "A pass goes on after prompts that are padded on the right, where its positions cannot be placed; pad "
                "on the left."
            )
        step.begin(before + new, new)

    def _check(self, scores: Tensor) -> None:
        """Compare with the number of keys, and see that padding is masked."""
        new, keys = scores.shape[-2:]
        if keys != self.step.end and not self.step.moved(keys, new):
            raise MechsteerError(
                f"A pass of {new} positions over {keys} keys was taken for one that ends at position {self.step.end}, "
                "and an edit before the first layer's attention has acted on that. Use new .hooks(prompt) for each "
                "run, or mechsteer.generate."
            )
        for row, first in enumerate(self.step.batch.starts):
            seen = scores[row, :, -1, :first]
            if seen.numel() and bool((seen > torch.finfo(seen.dtype).min).any()):
                raise MechsteerError(
                    f"Prompt {row} attends to its padding: the run has no mask for it (the library makes one from the "
                    "pad token's id alone). Give attention_mask=, or use mechsteer.generate."
                )
