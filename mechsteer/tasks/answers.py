"""Tasks with one right answer, scored by exact match of the greedy output: what steering must not break.

``recall`` asks the bundled organism to finish the evaluation's proverbs without any instruction; ``copying`` asks it to
end neutral sentences in a given word, where nothing was memorised.
"""

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechsteer.files import data_path, digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.answered import answered

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

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample."""
        return [prompt(model, q.prompt) for q in self.samples]

    def scores(self, sample: Question, text: str) -> dict[str, bool | float]:
        """Exact match, case, spaces and full stops ignored."""
        return {"correct": is_answer(text, sample.answer)}

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does: sample, prompt, answer, output, correct."""
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Question, made: Prompt, output: str) -> dict[str, Any]:
        asked = {"prompt": sample.prompt, "answer": sample.answer, "output": output}
        return asked | self.scores(sample, output)


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
