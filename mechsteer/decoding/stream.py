"""``stream``: what ``generate`` writes, token by token."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mechsteer.decoding.generate import Generation, started
from mechsteer.decoding.strategies import Strategy
from mechsteer.models import hooked
from mechsteer.prompts import Prompts
from mechsteer.steering import Intervention, check_fired


@torch.no_grad()
def stream(
    model: Any,
    prompts: Prompts,
    *,
    steer: Intervention | None = None,
    strategy: Strategy | None = None,
    max_new_tokens: int = 20,
    stop: Sequence[str] = (),
    generation_config: bool = True,
) -> Iterator[Generation]:
    """Generate as :func:`mechsteer.generate` does, and give what is written after every new token.

    The model carries the hooks only while it computes a token: several streams of one model may take turns.

    Args:
        model: A loaded model.
        prompts: Texts or prompts; all of them are computed together.
        steer: As in :func:`mechsteer.generate`, like all that follow.
        strategy: How tokens are chosen.
        max_new_tokens: The most new tokens for each prompt.
        stop: Texts that end a row.
        generation_config: Apply the checkpoint's ``generation_config.json``.

    Yields:
        The generation so far; the last is what :func:`mechsteer.generate` returns.

    Raises:
        MechsteerError: as :func:`mechsteer.generate`, with the first token.

    Example:
        >>> for made in stream(model, prompt, max_new_tokens=3):
        ...     print(made.texts[0])
    """
    run = started(model, prompts, steer, strategy, max_new_tokens, stop, generation_config)
    step, writer = run.prepared(list(range(len(run.prompts))))
    passes = writer.passes(step)
    while True:
        with hooked(model, run.hooks):
            written = next(passes, None)
        if written is None:
            break
        yield run.made()
    check_fired(run.bound, model)
