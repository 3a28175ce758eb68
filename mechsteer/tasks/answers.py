"""Tasks with one right answer, scored by exact match of the greedy output: what steering must not break.

``recall`` asks the bundled organism to finish the evaluation's proverbs without any instruction; ``copying`` asks it to
end neutral sentences in a given word, where nothing was memorised.
"""

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Strategy, generate
from mechsteer.files import data_path, digest
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Question:
    """A prompt and its one right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Answers:
    """The task.

    Attributes:
        name: Its name.
        samples: The questions.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    samples: tuple[Question, ...]
    max_new_tokens: int = 8

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([(q.prompt, q.answer) for q in self.samples])

    def run(
        self,
        model: Any,
        *,
        steer: Intervention | None = None,
        strategy: Strategy | None = None,
        batch_size: int = 64,
        progress: bool = False,
        **options: Any,
    ) -> "pd.DataFrame":
        """Score every sample by exact match, case and spaces ignored: sample, prompt, answer, output, correct."""
        import pandas as pd

        outputs = generate(
            model,
            [q.prompt for q in self.samples],
            steer=steer,
            strategy=strategy,
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            **options,
        ).texts
        return pd.DataFrame(
            {
                "sample": range(len(self.samples)),
                "prompt": [q.prompt for q in self.samples],
                "answer": [q.answer for q in self.samples],
                "output": outputs,
                "correct": [is_answer(o, q.answer) for o, q in zip(outputs, self.samples, strict=True)],
            }
        )


def is_answer(output: str, answer: str) -> bool:
    """Whether an output is the answer, case, spaces and full stops ignored."""
    return " ".join(output.lower().split()).strip(" .") == " ".join(answer.lower().split()).strip(" .")


def recall() -> Answers:
    """Uninstructed recall of the proverbs of the bundled evaluation traps."""
    return _bundled("recall")


def copying() -> Answers:
    """Instructed endings of neutral sentences."""
    return _bundled("copy")


def _bundled(name: str) -> Answers:
    with data_path("tasks", "memotrap", f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return Answers(name, tuple(Question(row["prompt"], row["answer"]) for row in csv.DictReader(file)))
