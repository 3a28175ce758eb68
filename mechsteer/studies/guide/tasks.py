"""What GUIDE is tried on: three tasks at two scales, and the wordings that compete with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mechsteer.models import is_encoder_decoder
from mechsteer.tasks import instructions, json_schema, needle
from mechsteer.tasks.summaries import summaries

if TYPE_CHECKING:
    import pandas as pd

DEPTHS = (0, 20, 40, 60, 80, 100)


@dataclass(frozen=True)
class TaskByLength:
    """A task at every length.

    Attributes:
        name: ``"instructions"`` or ``"french"``, ``"needle"``, ``"json"``.
        make: The task of a length, and of how many prompts (of a kind, of a depth, or in all).
        lengths: From short to long.
        unit: What lengths count: ``"notes"`` or ``"words"``.
        span: The span that is biased.
        score: The score's column, 0 to 1 or a flag.
        deltas: The biases to try; the first is 0.
        last: Influence is read at this many last tokens of the prompt.
        n: How many prompts, as ``make`` counts them.
    """

    name: str
    make: Callable[[int, int], Any]
    lengths: tuple[int, ...]
    unit: str
    span: str
    score: str
    deltas: tuple[float, ...]
    last: int
    n: int = 10

    def task(self, length: int) -> Any:
        """The task of a length."""
        return self.make(length, self.n)

    def fitting(self, model: Any, n: int) -> "TaskByLength":
        """The lengths whose prompts and answers fit the model's context."""

        def fits(length: int) -> bool:
            task = self.make(length, n)
            return max(map(len, task.prompts(model))) + task.max_new_tokens <= model.cfg.n_ctx

        kept = self.lengths if is_encoder_decoder(model) else tuple(size for size in self.lengths if fits(size))
        return replace(self, lengths=kept)


ORGANISM = (
    TaskByLength(
        "instructions",
        lambda length, n: instructions(notes=length, n=n),
        (0, 8, 16, 24),
        "notes",
        "instruction",
        "adherence",
        (0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
        5,
    ),
    TaskByLength(
        "needle",
        lambda length, n: needle("notes", lengths=length, depths=DEPTHS, n=min(n, 28)),
        (45, 90, 135, 180),
        "words",
        "needle",
        "found",
        (0.0, 0.5, 1.0, 2.0),
        5,
    ),
    TaskByLength(
        "json",
        lambda length, n: json_schema("notes", lengths=length, n=min(3 * n, 28)),
        (45, 90, 135, 180),
        "words",
        "instruction",
        "score",
        (0.0, 1.0, 2.0, 3.0),
        5,
    ),
)
"""At the scale of instruct-llama. Its questions have about 8 tokens, so Influence is read at 5."""

DOCUMENTS = (
    TaskByLength(
        "french",
        lambda length, n: summaries([length], n),
        (375, 750, 1500, 3000),
        "words",
        "instruction",
        "french",
        (0.0, 0.5, 1.0, 2.0, 5.0),
        10,
    ),
    TaskByLength(
        "needle",
        lambda length, n: needle(lengths=length, depths=range(0, 101, 10), n=n),
        (375, 750, 1500, 3000),
        "words",
        "needle",
        "found",
        (0.0, 0.25, 0.5, 1.0),
        5,
    ),
    TaskByLength(
        "json",
        lambda length, n: json_schema(lengths=length, n=3 * n),
        (375, 750, 1500, 3000),
        "words",
        "instruction",
        "score",
        (0.0, 1.0, 2.0, 3.0),
        5,
    ),
)
"""The paper's three tasks with its strengths, on generated English documents."""


def scores(table: "pd.DataFrame", series: TaskByLength) -> "pd.DataFrame":
    """The columns sample, kind, score, fidelity and true_sentences (both missing where the task has none) of rows."""
    import pandas as pd

    return pd.DataFrame(
        {
            "sample": table["sample"],
            "kind": table["kind"]
            if "kind" in table
            else table["depth"].map("{:g} %".format)
            if "depth" in table
            else "",
            "score": table[series.score].astype(float),
            "fidelity": table["fidelity"].astype(float) if "fidelity" in table else float("nan"),
            "true_sentences": table["true_sentences"].astype(float) if "true_sentences" in table else float("nan"),
        }
    )


WORDINGS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "plain": lambda text: text,
        "uppercase": str.upper,
        "Important: …": lambda text: f"Important: {text}",
        "You must …": lambda text: f"You must do this: {text}",
        "*marked*": lambda text: f"*{text.strip()}*",
        "twice": lambda text: f"{text.strip()} {text}",
    }
)
"""Ways to word an instruction; the first three and "You must" are GUIDE's."""


def worded(task: Any, wording: str) -> Any:
    """The task with its instructions in another wording.

    ``"at the end"`` puts them after the question, ``"none"`` leaves them out.
    """
    return replace(task, samples=tuple(_worded(sample, wording) for sample in task.samples))


def _worded(sample: Any, wording: str) -> Any:
    if wording == "none":
        return replace(sample, instruction="")
    if wording == "at the end":
        part = "task" if hasattr(sample, "task") else "text"
        text = f"{getattr(sample, part)}\n\n{sample.instruction.strip()}"
        return replace(sample, instruction="", **{part: text})
    return replace(sample, instruction=WORDINGS[wording](sample.instruction))


OTHER_WORDINGS = ("at the end", "none")


def subsets(count: int) -> dict[str, list[int]]:
    """Layers to bias: all, the first alone, and a quarter at the start, in the middle and at the end."""
    size = max(1, round(count / 4))
    middle = (count - size) // 2
    return {
        "all": list(range(count)),
        "first layer": [0],
        "first quarter": list(range(size)),
        "middle quarter": list(range(middle, middle + size)),
        "last quarter": list(range(count - size, count)),
    }


def named(tasks: Sequence[TaskByLength], names: Sequence[str] | None) -> tuple[TaskByLength, ...]:
    """The tasks of these names; None for all."""
    return tuple(tasks) if names is None else tuple(s for s in tasks if s.name in names)
