"""What learned vectors are compared to: dense vectors that are not learned by descent, from the same training words.

Both are added at the last token of the prompt. Layer and strength are chosen by the training words' log-probability.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import score
from mechsteer.directions import Direction, differences_in_means, gradient_direction
from mechsteer.identity import cell_key
from mechsteer.models import as_prompts, predicting_stack, word_id
from mechsteer.prompts import PromptLike
from mechsteer.steering import Intervention, add
from mechsteer.studies.core.cells import cell
from mechsteer.studies.layerwise.bench import Bench, with_shots
from mechsteer.tasks import Rules

if TYPE_CHECKING:
    import pandas as pd

STEPS = (0.5, 1.0, 2.0, 4.0)
"""Strengths of the difference in means, in units of its norm."""
PARTS = (0.25, 0.5, 1.0, 2.0)
"""Strengths of the gradient's direction, in units of the mean norm of the stream."""


@dataclass(frozen=True)
class Example:
    """A training word whose plain answer is wrong, for :func:`mechsteer.gradient_direction`."""

    prompt: PromptLike
    target: str
    trap: str


Option = tuple[int, float, Intervention | None]
"""A layer, a strength in its method's unit, and what adds the vector there."""


def difference(bench: Bench, training: Rules, shots: int) -> Option:
    """States after examples of the rule minus states without, in mean; the examples are other training words."""
    after = with_shots(training, training, shots).prompts(bench.model)
    pairs = list(zip(after, training.prompts(bench.model), strict=True))
    found = differences_in_means(bench.model, pairs)
    return _best(bench, training, "difference", _options(found, {la: d.norm for la, d in found.items()}, STEPS))


def gradient(bench: Bench, training: Rules) -> Option:
    """The right answer's first token against that of the model's own wrong answer.

    Nothing where the model is never wrong.
    """
    plain = bench.measure(training)
    prompts = training.prompts(bench.model)
    wrong = [
        Example(made, sample.answers[0], said)
        for made, sample, said, right in zip(
            prompts, training.samples, map(_first_line, plain["output"]), plain["correct"], strict=True
        )
        if said and not right
    ]
    ids = [_first_ids(bench.model, one) for one in wrong]
    wrong = [one for one, (a, b) in zip(wrong, ids, strict=True) if a != b]
    if not wrong:
        return 0, 0.0, None
    layers = range(predicting_stack(bench.model)[1])
    found = {layer: gradient_direction(bench.model, wrong, layer=layer) for layer in layers}
    norms = {layer: d.activation_norm for layer, d in found.items()}
    return _best(bench, training, "gradient", _options(found, norms, PARTS))


def _first_line(output: str) -> str:
    return output.strip().partition("\n")[0].strip()


def _first_ids(model: Any, example: Example) -> tuple[int, int]:
    (made,) = as_prompts(model, [example.prompt])
    first, second = (word_id(model, word, made, strip=" .") for word in (example.target, example.trap))
    return first, second


def _options(found: dict[int, Direction], units: dict[int, float], steps: tuple[float, ...]) -> Iterator[Option]:
    for layer, direction in found.items():
        for step in steps:
            yield layer, step, add(direction, step * units[layer], scope="last_prompt")


def _best(bench: Bench, training: Rules, method: str, options: Iterator[Option]) -> Option:
    """The option under which the training words' answers are likeliest; not steering is one of them."""
    import pandas as pd

    tried: list[Option] = [(0, 0.0, None), *options]
    key = cell_key(bench.model, training, options={"choose": method, "tried": tried})
    prompts, answers = zip(*training.examples(bench.model), strict=True)

    def compute() -> "pd.DataFrame":
        values = [
            float(score(bench.model, prompts, answers, steer=steer, batch_size=bench.batch_size).mean())
            for _, _, steer in tried
        ]
        return pd.DataFrame({"logprob": values})

    table = cell(bench.folder, key, compute)
    return tried[int(table["logprob"].to_numpy().argmax())]
