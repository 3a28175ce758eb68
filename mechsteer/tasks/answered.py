"""What every task that generates does: one answer a prompt, and one row an answer."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Strategy, generate
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd


def answered(
    model: Any,
    samples: Sequence[Any],
    prompts: Sequence[Prompt],
    row: Callable[[Any, Prompt, str], dict[str, Any]],
    *,
    max_new_tokens: int,
    steer: Intervention | None = None,
    strategy: Strategy | None = None,
    batch_size: int = 64,
    progress: bool = False,
    **options: Any,
) -> "pd.DataFrame":
    """Generate an answer to each prompt and make a table of them.

    Args:
        model: A loaded model.
        samples: What is asked.
        prompts: The prompt of each.
        row: ``row(sample, prompt, output)``: the columns of one row after ``sample``, its number.
        max_new_tokens: The most new tokens for an answer.
        steer: An intervention; None for the unsteered model.
        strategy: A decoding strategy; None for greedy.
        batch_size: Prompts computed together; does not change the result.
        progress: Show a bar.
        options: Further arguments of :func:`mechsteer.generate`.

    Raises:
        MechsteerError: as :func:`mechsteer.generate`.
    """
    import pandas as pd

    outputs = generate(
        model,
        prompts,
        steer=steer,
        strategy=strategy,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
        **options,
    ).texts
    asked = zip(samples, prompts, outputs, strict=True)
    return pd.DataFrame([{"sample": number} | row(*one) for number, one in enumerate(asked)])
