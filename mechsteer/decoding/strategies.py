"""How the next token is chosen.

A :class:`Strategy` holds the settings. For one run of ``generate`` it makes a :class:`Chooser`, which is given one
:class:`Pass` after another: it runs the model (once, or as often as its method needs) and says which tokens it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.decoding.finite import check_finite
from mechsteer.decoding.processors import Processors
from mechsteer.decoding.repetition import checked_penalty, penalised, read_so_far
from mechsteer.errors import MechsteerError, finite, shown, whole
from mechsteer.models import State, advance
from mechsteer.steering import Intervention, Step, several


@dataclass
class Pass:
    """What a chooser is given for one new token of every row of a batch. The intervention is on the model.

    Attributes:
        model: The model.
        state: What was computed so far. Whoever runs the model first should fork it if it is needed again.
        tokens: The tokens that have not been run yet: the prompts, then one token a row.
        mask: True at real tokens.
        step: What the pass will be announced to, for hooks that need it.
        places: For each row, the place of its prompt in the list given to ``generate``.
        written: For each row, the tokens chosen so far.
        running: Which rows have not ended; None for all.
        processors: What the checkpoint's ``generation_config.json`` does to scores; None for nothing.
    """

    model: Any
    state: State
    tokens: Int[Tensor, "rows new"]
    mask: Bool[Tensor, "rows new"]
    step: Step
    places: Sequence[int]
    written: Sequence[Sequence[int]]
    running: Bool[Tensor, "rows"] | None = None
    processors: Processors | None = None

    def logits(self) -> Float[Tensor, "rows d_vocab"]:
        """Run the tokens and update the state: the model's logits for the next token, float32.

        Raises:
            MechsteerError: if they are not finite (see :meth:`checked`).
        """
        return self.checked(advance(self.model, self.state, self.tokens, self.mask)[:, -1].float())

    def checked(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, "rows d_vocab"]:
        """The model's logits, if they are finite; in rows that have ended, whose tokens are dropped, 0 if not.

        Raises:
            MechsteerError: with row, step, dtype and the edits that acted.
        """
        new = max(map(len, self.written))
        edits, running = self.step.edits, self.running
        fine = check_finite(self.model, logits, self.places, edits=edits, new=new, counted=running)
        return logits if fine.all() else torch.where(fine[:, None], logits, 0.0)

    def processed(
        self,
        scores: Float[Tensor, "scored d_vocab"],
        *,
        rows: Sequence[int] | None = None,
        repetition_penalty: float = 1.0,
    ) -> Float[Tensor, "scored d_vocab"]:
        """Scores as the checkpoint's processors leave them.

        Args:
            scores: Logits, or what was made of them.
            rows: For each of them, which row of the pass it is for; None for one a row.
            repetition_penalty: The strategy's own. Where it is not 1, the processors have it in the checkpoint's place.
        """
        if self.processors is None and repetition_penalty == 1:
            return scores
        read = read_so_far(self.model, self.step, self.written)
        if self.processors is None:
            return penalised(scores, read, repetition_penalty)
        chosen = range(len(read)) if rows is None else rows
        alive = range(len(self.step.batch)) if self.step.alive is None else self.step.alive
        prompts = [self.step.batch.prompts[alive[row]] for row in chosen]
        return self.processors(scores, [self.places[row] for row in chosen], prompts, [read[row] for row in chosen])


@dataclass
class Choice:
    """What a chooser says.

    Attributes:
        tokens: The token of each row.
        logits: What the log-probabilities of the tokens are read from: the model's own logits.
        trace: For each row, what was chosen and why; empty for strategies that have nothing to tell.
    """

    tokens: Int[Tensor, "rows"]
    logits: Float[Tensor, "rows d_vocab"]
    trace: Sequence[dict[str, Any]] = ()


@runtime_checkable
class Chooser(Protocol):
    """Chooses tokens during one run of ``generate``."""

    def choose(self, current: Pass) -> Choice:
        """Run the model for the current pass and choose one token a row."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """The settings of a way to choose tokens."""

    def chooser(self, model: Any) -> Chooser:
        """Make what chooses during one run.

        Raises:
            MechsteerError: if the settings do not fit the model.
        """
        ...


def as_strategy(strategy: Any) -> Strategy:
    """The strategy, or the greedy one for None.

    Raises:
        MechsteerError: for anything else, such as the name of one, its class, or an intervention.
    """
    if strategy is None:
        return Greedy()
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        hint = " An intervention is given as steer=." if isinstance(strategy, Intervention) else several(strategy)
        raise MechsteerError(f"strategy must be a strategy, e.g. ms.Greedy(), got {shown(strategy)}.{hint}")
    return strategy


MOST = 2**40
"""The largest seed; it is multiplied by a million."""


def own_numbers(settings: Any, *names: str, integers: Sequence[str] = ()) -> None:
    """Make NumPy's and PyTorch's numbers in a strategy's settings Python's.

    Args:
        settings: The strategy.
        names: What must be a finite number.
        integers: What must be a whole one.

    Raises:
        MechsteerError: for another value.
    """
    for name in names:
        value = getattr(settings, name)
        found = finite(name, value)
        object.__setattr__(settings, name, value if isinstance(value, int | float) else found)
    for name in integers:
        value = getattr(settings, name)
        found = whole(value)
        if found is None or abs(found) > MOST:
            raise MechsteerError(f"{name} must be a whole number, in size at most 2 ** 40, got {shown(value)}.")
        object.__setattr__(settings, name, found)


@dataclass(frozen=True)
class Greedy:
    """The most likely token; of equals, the one with the smallest id.

    Attributes:
        repetition_penalty: Makes tokens that were read or written before less likely to be chosen (see
            :mod:`mechsteer.decoding.repetition`); 1 is none but what the checkpoint's ``generation_config.json`` says.

    Example:
        >>> ms.generate(model, prompt, strategy=ms.Greedy(repetition_penalty=1.2))
    """

    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        own_numbers(self, "repetition_penalty")
        checked_penalty(self.repetition_penalty)

    def chooser(self, model: Any) -> "Greedy":
        """It has nothing to remember."""
        return self

    def choose(self, current: Pass) -> Choice:
        """Choose the largest logit of each row."""
        logits = current.logits()
        scores = current.processed(logits, repetition_penalty=self.repetition_penalty)
        return Choice(scores.argmax(-1), logits)


@dataclass(frozen=True)
class Sample:
    """Sampling with temperature, top-k and nucleus (top-p) truncation.

    The checkpoint's processors come first, as in Hugging Face; its ``temperature``, ``top_k`` and so on are not read.
    Each prompt draws from a generator of its own, seeded by ``seed`` and its place in the list, so that a row's text
    does not depend on its batch mates.

    Attributes:
        temperature: Divides the logits; above 0.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
        seed: Decides the draws.

    Example:
        >>> ms.generate(model, prompt, strategy=ms.Sample(temperature=0.7, top_p=0.9, seed=1))
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        own_numbers(self, "temperature", "top_p", integers=("top_k", "seed"))
        if not self.temperature > 0:
            raise MechsteerError(f"temperature must be above 0, got {self.temperature}; use Greedy() for the limit 0.")
        if self.top_k < 0:
            raise MechsteerError(f"top_k must be 0 (all) or more, got {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise MechsteerError(f"top_p must be in (0, 1], got {self.top_p}.")

    def chooser(self, model: Any) -> "_Sampler":
        """Generators at the start of their sequences."""
        return _Sampler(self)

    def truncated(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, "rows d_vocab"]:
        """The distribution that is drawn from: temperature, then top-k, then top-p, renormalised."""
        scaled = logits / self.temperature
        if not scaled.amax(-1).isfinite().all():  # too large for a float: what counts is the distance from the largest
            scaled = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:
            kth = scaled.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < kth, -torch.inf)
        probabilities = scaled.softmax(-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered
            dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            probabilities = probabilities.masked_fill(dropped, 0.0)
            probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        return probabilities


@dataclass
class _Sampler:
    """One run's draws."""

    settings: Sample
    generators: dict[int, torch.Generator] = field(default_factory=dict)

    def choose(self, current: Pass) -> Choice:
        """Draw one token a row."""
        logits = current.logits()
        return Choice(self.draw(current.processed(logits), current.places), logits)

    def draw(self, logits: Float[Tensor, "rows d_vocab"], places: Sequence[int]) -> Int[Tensor, "rows"]:
        """Draw one token a row from its own generator."""
        probabilities = self.settings.truncated(logits).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=self._generator(place))
            for row, place in zip(probabilities, places, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)

    def _generator(self, place: int) -> torch.Generator:
        if place not in self.generators:
            self.generators[place] = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + place)
        return self.generators[place]
