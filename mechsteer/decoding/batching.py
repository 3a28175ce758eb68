"""Batches of prompts of like length, each with the step that interventions are resolved against."""

from collections.abc import Iterator, Sequence
from typing import Any

from mechsteer.errors import positive_int
from mechsteer.models import is_encoder_decoder, pad
from mechsteer.prompts import Prompt
from mechsteer.steering import Step


def steps(model: Any, prompts: Sequence[Prompt], batch_size: int) -> Iterator[Step]:
    """Batches of prompts of like length, padded as the model wants them; ``index`` gives their places in the list."""
    positive_int("batch_size", batch_size)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), batch_size):
        index = order[first : first + batch_size]
        padded = pad(model, [prompts[i] for i in index])
        yield Step(padded, decoder_prefix=int(is_encoder_decoder(model)), index=index)
