r"""DIRECTER: key scaling that the unsteered model must find plausible.

Paper: <https://arxiv.org/abs/2603.06745> (equations 1-6). The keys of an instruction's tokens are multiplied by
alpha = 100 in all layers; a steered token that is implausible without steering (:mod:`mechsteer.decoding.gate`,
beta = 0.5) is rejected, and the half of the layers that is least sensitive (:mod:`mechsteer.analysis.sensitivity`) is
let go: L, L // 2, L // 4, ..., 1 layers, then the unsteered token. Layers are ranked once, at the last prompt token.
Keys and values of generated tokens are those of unsteered passes.

Where the released code (<https://github.com/mjk0618/directer>) differs, ``compat="released"`` does as it does: the
ranking takes the mean over the wrong axis and leaves terms out, the span ends one token late, the trial with one layer
is missing, and a token must be more likely than the threshold, not at least as likely. It steers the first token also
where the gate says that nothing could change, which changes nothing.

Scaling a key multiplies its attention scores, before a soft cap (Gemma 2). Here this is done to the scores, so that all
trials of a token are rows of one pass over one cache (:mod:`mechsteer.decoding.trials`); the released code copies the
cache for each trial, and runs them, and the ranking's passes, one by one. The last prompt token's key comes into that
cache with the first new token: ``compat="released"`` does not scale it in the ranking and the first token's trials.

Ours: in an encoder-decoder the keys are those of cross-attention, whose cache is the only one that holds the
instruction; the encoder has run before there is a token to reject, and is left alone. And where the last prompt token
is in the span, its key is scaled with the others from the ranking on, except under ``compat="released"``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.analysis.key_scaling import check_key_scaling, key_scaling_distances, scaled_sites
from mechsteer.analysis.sensitivity import cached_columns, layer_scores, ranking, span_columns, span_positions
from mechsteer.decoding.gate import checked_betas
from mechsteer.decoding.strategies import Pass, own_numbers
from mechsteer.decoding.trial_copies import Copies, Hooks
from mechsteer.decoding.trials import GatedChooser
from mechsteer.errors import MechsteerError, one_of, positive_int, shown
from mechsteer.models import State, predicting_stack
from mechsteer.prompts import Batch, Prompt
from mechsteer.steering import Step

ORDERS = ("sensitivity", "reversed", "random")


@dataclass(frozen=True)
class Directer:
    """Greedy decoding with the keys of a span scaled in as many layers as stays plausible.

    Every row is gated, and its layers ranked, on its own. Sampling is not defined by the paper, and there is none.
    ``Generation.logprobs`` are those of the unsteered model; ``Generation.trace`` has, for each new token, ``token``,
    ``raw_token`` (the unsteered one), ``accepted`` (the trial taken, from 1; 0 for none), ``layers`` (in how many
    layers it steered), ``trials`` (how many were looked at), ``skipped`` (nothing could change), ``p_raw`` and
    ``p_token`` (unsteered probabilities of the two).

    Attributes:
        alpha: What keys are multiplied by; above 0.
        beta: A token must be at least this share of the most likely one's probability, in (0, 1]; one number, or one
            for each prompt of the list.
        span: The prompt's span or spans whose keys are scaled.
        compat: ``"paper"`` or ``"released"``.
        order: Which layers are let go last: the most sensitive (the paper's), ``"reversed"`` the least, or
            ``"random"`` ones, drawn for each prompt from ``seed`` and its place; the paper's ablations.
        seed: Of the random order.
        strength: Steer in this many layers and reject nothing: the paper's fixed strengths. None: reject.

    Example:
        >>> ms.generate(model, prompt, strategy=ms.Directer(beta=0.1)).trace
    """

    alpha: float = 100.0
    beta: float | Sequence[float] = 0.5
    span: str | Sequence[str] = "instruction"
    compat: str = "paper"
    order: str = "sensitivity"
    seed: int = 0
    strength: int | None = None

    def __post_init__(self) -> None:
        own_numbers(self, "alpha", *(() if isinstance(self.beta, list | tuple) else ("beta",)), integers=("seed",))
        check_key_scaling(self.alpha, "cosine")
        checked_betas(self.beta)
        one_of("compat", self.compat, ("paper", "released"))
        one_of("order", self.order, ORDERS)
        if not self.span or not isinstance(self.span, str | Sequence):
            raise MechsteerError(f"Directer needs a span, e.g. 'instruction', got {shown(self.span)}.")
        if self.strength is not None:
            object.__setattr__(self, "strength", positive_int("strength", self.strength))

    def chooser(self, model: Any) -> GatedChooser:
        """Begin a run.

        Raises:
            MechsteerError: if ``strength`` is more layers than there are.
        """
        layers = predicting_stack(model)[1]
        if self.strength is not None and self.strength > layers:
            raise MechsteerError(f"strength={self.strength} is more than the {layers} layers that can be steered.")
        released = self.compat == "released"
        beta = self.beta if self.strength is None else None
        return GatedChooser(ScaledKeys(self, model, self.schedule(layers)), beta, released)

    def schedule(self, layers: int) -> tuple[int, ...]:
        """In how many layers each trial steers, for a model with so many."""
        if self.strength is not None:
            return (self.strength,)
        least = 2 if self.compat == "released" and layers > 1 else 1
        halves = [layers >> trial for trial in range(layers.bit_length())]
        return tuple(count for count in halves if count >= least)


@dataclass
class ScaledKeys:
    """Trials that scale keys, for one run.

    Attributes:
        settings: The strategy.
        model: The model.
        sizes: In how many layers each trial steers.
        ranked: For each prompt of the batch, its layers, the one to keep longest first.
        batch: The batch that the hooks were made for.
        made: The hooks of its passes, after the first token.
    """

    settings: Directer
    model: Any
    sizes: tuple[int, ...]
    ranked: dict[int, list[int]] = field(default_factory=dict)
    batch: Batch | None = None
    made: dict[Copies, Hooks] = field(default_factory=dict)

    def count(self) -> int:
        """One for each number of layers."""
        return len(self.sizes)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Each needs the span."""
        for p in prompts:
            span_positions(p, self.settings.span)

    def begin(self, current: Pass, before: State) -> None:
        """Rank the layers."""
        self.ranked |= dict(zip(current.places, self._ranked(current, before), strict=True))

    def _columns(self, batch: Batch, *, first: bool) -> Bool[Tensor, "rows keys"]:
        """The span's keys; in the released form, up to the first token, without the last prompt token's."""
        released = self.settings.compat == "released"
        columns = span_columns(batch, self.settings.span, beyond=int(released))
        return cached_columns(self.model, columns) if released and first else columns

    def _ranked(self, current: Pass, before: State) -> list[list[int]]:
        settings, layers = self.settings, predicting_stack(self.model)[1]
        if self.sizes == (layers,):
            return [list(range(layers)) for _ in current.places]  # there is nothing to let go
        if settings.order == "random":
            return [_shuffled(layers, settings.seed, place) for place in current.places]
        columns, step = self._columns(current.step.batch, first=True), current.step
        distances = key_scaling_distances(
            self.model, before, current.tokens, current.mask, columns, alpha=settings.alpha, step=step
        )
        aggregate = "released" if settings.compat == "released" else "receiving"
        found = ranking(layer_scores(distances, aggregate)[..., 0])
        return (found.flip(-1) if settings.order == "reversed" else found).tolist()

    def hooks(self, step: Step, copies: Copies, end: int) -> tuple[Hooks, Hooks]:
        """Scale the scores of each copy in its layers, before other edits of them."""
        if end == step.batch.length:
            return self._hooks(step, copies, first=True), ()
        if step.batch is not self.batch:
            self.batch, self.made = step.batch, {}
        if copies not in self.made:
            self.made[copies] = self._hooks(step, copies, first=False)
        return self.made[copies], ()

    def _hooks(self, step: Step, copies: Copies, *, first: bool) -> Hooks:
        columns = self._columns(step.batch, first=first)[list(copies.rows)]
        ranked = [self.ranked[row if step.index is None else step.index[row]] for row in copies.rows]
        scaled = []
        for layer, name in enumerate(scaled_sites(self.model)):
            in_trials = [[layer in layers[:size] for size in self.sizes[copies.numbers]] for layers in ranked]
            steered = torch.tensor([[False] * copies.raw + trials for trials in in_trials])
            if steered.any():
                factors = torch.where(steered[:, :, None] & columns[:, None], self.settings.alpha, 1.0)
                scaled.append((name, _scaling(factors.flatten(0, 1))))
        return scaled

    def check(self) -> None:
        """A span that a prompt does not have is an error already."""

    def describe(self, accepted: int) -> dict[str, Any]:
        """In how many layers the accepted trial steered."""
        return {"layers": self.sizes[accepted - 1] if accepted else 0}


def _scaling(factors: Float[Tensor, "copies keys"]) -> Callable[..., None]:
    """A hook that multiplies the first keys of each row, or their scores; later keys are not the prompt's."""

    def scale(x: Tensor, hook: Any) -> None:
        by_key = factors.to(x)
        # In place: the scores, and the keys after the rotary embedding, were made for this pass alone.
        if hook.name.endswith("hook_rot_k"):
            x[:, : by_key.shape[1]].mul_(by_key[:, :, None, None])
        else:
            x[..., : by_key.shape[1]].mul_(by_key[:, None, None, :])

    return scale


def _shuffled(layers: int, seed: int, place: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
    return torch.randperm(layers, generator=generator).tolist()
