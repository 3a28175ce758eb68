"""How the next token is chosen from the logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, finite


@runtime_checkable
class Strategy(Protocol):
    """Chooses one token a row."""

    def choose(self, logits: Float[Tensor, "rows d_vocab"], prompts: Sequence[int]) -> Int[Tensor, "rows"]:
        """Choose.

        Args:
            logits: The model's logits for the next token, float32.
            prompts: For each row, the place of its prompt in the list given to ``generate``.
        """
        ...


@dataclass(frozen=True)
class Greedy:
    """The most likely token; of equals, the one with the smallest id."""

    def choose(self, logits: Float[Tensor, "rows d_vocab"], prompts: Sequence[int]) -> Int[Tensor, "rows"]:
        """Choose the largest logit of each row."""
        return logits.argmax(-1)


@dataclass(frozen=True)
class Sample:
    """Sampling with temperature, top-k and nucleus (top-p) truncation.

    Each prompt draws from a generator of its own, seeded by ``seed`` and its place in the list, so that a row's text
    does not depend on its batch mates.

    Attributes:
        temperature: Divides the logits; above 0.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
        seed: Decides the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    _generators: dict[int, torch.Generator] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not finite("temperature", self.temperature) > 0:
            raise MechsteerError(f"temperature must be above 0, got {self.temperature}; use Greedy() for the limit 0.")
        if self.top_k < 0:
            raise MechsteerError(f"top_k must be 0 (all) or more, got {self.top_k}.")
        if not 0 < finite("top_p", self.top_p) <= 1:
            raise MechsteerError(f"top_p must be in (0, 1], got {self.top_p}.")

    def restart(self) -> None:
        """Forget the draws so far; called at the start of every ``generate``."""
        self._generators.clear()

    def choose(self, logits: Float[Tensor, "rows d_vocab"], prompts: Sequence[int]) -> Int[Tensor, "rows"]:
        """Draw one token a row."""
        probabilities = self.truncated(logits).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=self._generator(place))
            for row, place in zip(probabilities, prompts, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)

    def truncated(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, "rows d_vocab"]:
        """The distribution that is drawn from: temperature, then top-k, then top-p, renormalised."""
        scaled = logits / self.temperature
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

    def _generator(self, place: int) -> torch.Generator:
        if place not in self._generators:
            self._generators[place] = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        return self._generators[place]
