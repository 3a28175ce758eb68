"""What a checkpoint's ``generation_config.json`` does to scores, row by row.

:mod:`mechsteer.models.checkpoint.generation_config` has transformers make the processors; here each row's own are
applied to its own text, in which there is no padding, so that a row's result does not depend on its batch mates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models import applying, check_settings, loaded_info, logits_processors, stopping_criterion
from mechsteer.prompts import Prompt


@dataclass
class Processors:
    """The processors of one run of ``generate``.

    Attributes:
        model: The model.
        settings: What acts, as ``ModelInfo.generation_config`` has it; not empty.
        max_new_tokens: The most new tokens of a row.
        made: The processors of each prompt that was asked for, by its place in the list.
    """

    model: Any
    settings: dict[str, Any]
    max_new_tokens: int
    made: dict[int, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self.model, self.settings)
        self._criterion = stopping_criterion(self.model, self.settings)
        logits_processors(self.model, [0], self.settings, self.max_new_tokens)  # what is refused is refused at once

    def __call__(
        self,
        scores: Float[Tensor, "rows d_vocab"],
        places: Sequence[int],
        prompts: Sequence[Prompt],
        read: Sequence[Sequence[int]],
    ) -> Float[Tensor, "rows d_vocab"]:
        """The scores after all processors.

        Args:
            scores: The model's logits, or what a strategy has made of them.
            places: For each row, the place of its prompt in the list.
            prompts: For each row, its prompt.
            read: For each row, the tokens that the predicting stack has read up to here.

        Raises:
            MechsteerError: for settings that transformers cannot apply to this vocabulary.
        """
        rows = zip(scores.split(1), places, prompts, read, strict=True)
        return torch.cat([self._row(one, self._of(place, prompt), ids) for one, place, prompt, ids in rows])

    def _row(
        self, scores: Float[Tensor, "1 d_vocab"], processors: Sequence[Any], read: Sequence[int]
    ) -> Float[Tensor, "1 d_vocab"]:
        ids = torch.tensor([list(read)], device=scores.device)
        with applying(self.model):
            for processor in processors:
                scores = processor(ids, scores)
        return scores

    def _of(self, place: int, prompt: Prompt) -> list[Any]:
        if place not in self.made:
            self.made[place] = logits_processors(self.model, prompt.tokens.tolist(), self.settings, self.max_new_tokens)
        return self.made[place]

    def stopped(self, read: Sequence[int]) -> bool:
        """Whether a row has just completed one of the file's ``stop_strings``."""
        return self._criterion is not None and bool(self._criterion(torch.tensor([list(read)]), None).item())


def processors(model: Any, strategy: Any, max_new_tokens: int, *, use: bool = True) -> Processors | None:
    """The processors of a run; None where the checkpoint has nothing that acts, or it is left out.

    Args:
        model: A loaded model.
        strategy: A ``repetition_penalty`` of its own, if it is not 1, is applied in the place of the checkpoint's.
        max_new_tokens: The most new tokens of a row.
        use: Whether to apply the checkpoint's ``generation_config.json``.

    Raises:
        MechsteerError: for settings that cannot be applied, or a switch that is none.
    """
    if not isinstance(use, bool):
        raise MechsteerError(f"generation_config must be True (apply the checkpoint's) or False, got {use!r}.")
    settings = dict(loaded_info(model).generation_config) if use else {}
    if not settings:
        return None
    own = float(getattr(strategy, "repetition_penalty", 1.0))
    return Processors(model, settings if own == 1 else settings | {"repetition_penalty": own}, max_new_tokens)
