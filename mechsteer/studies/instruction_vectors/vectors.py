"""How each kind of instruction is steered: projection for formats, addition for a limit of words and for a word.

One vector a format and one for a limit of words (conciseness); one vector a word, from the same questions with and
without the instruction to include it. Excluding a word is subtracting its inclusion vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mechsteer.directions import Direction
from mechsteer.steering import Intervention, add, project
from mechsteer.studies.instruction_vectors.bench import FORMATS, Bench, Prompts
from mechsteer.studies.instruction_vectors.choose import Choice, Make, candidates
from mechsteer.tasks import Instructed, Instructions
from mechsteer.tasks.checkers import KINDS, fidelity, words_of
from mechsteer.tasks.instructions import load_world

if TYPE_CHECKING:
    import pandas as pd

STEPS = {"length": (0.5, 1.0, 1.5, 2.0), "keyword": (0.5, 1.0, 2.0, 3.0)}
"""Coefficients of added vectors that validation chooses from, in units of the vector's norm."""


@dataclass
class Steering:
    """Makes the interventions of a model; vectors are estimated when first needed.

    Attributes:
        source: Where vectors are estimated.
        prompts: The prompts of the study.
        layers: Where the model can be steered.
        scope: Positions that are steered.
        transfer: Whether the interventions are for another model than the source's.
    """

    source: Bench
    prompts: Prompts
    layers: Sequence[int]
    scope: str = "all"
    transfer: bool = False

    def vectors(self, kind: str) -> dict[int, Direction]:
        """The vectors of a format, or of ``length``, by layer."""
        samples = self.prompts.estimated(kind).samples
        return self.source.vectors(kind, self.source.pairs(samples), self.layers)

    def word_vectors(self, word: str) -> dict[int, Direction]:
        """The vectors of the instruction to include a word, by layer."""
        samples = [asking_for(s, word) for s in self.prompts.estimated("keyword").samples]
        return self.source.vectors(f"word-{word}", self.source.pairs(samples), self.layers)

    def options(self, kind: str) -> list[Choice]:
        """What validation chooses from."""
        return candidates(self.layers) if kind in FORMATS else candidates(self.layers, STEPS[kind])

    def make(self, kind: str) -> Make:
        """The interventions of a kind of instruction."""
        if kind == "keyword":
            return lambda choice, task: self.words(choice, task)
        vectors = self.vectors(kind)
        if kind in FORMATS:
            return lambda choice, _: project(vectors[choice.layer], scope=self.scope, transfer=self.transfer)
        return lambda choice, _: self.added(vectors[choice.layer], choice.step)

    def added(self, vector: Direction, step: float) -> Intervention:
        """A vector added with a constant coefficient, in units of its norm."""
        return add(vector, step * vector.norm, scope=self.scope, transfer=self.transfer)

    def words(self, choice: Choice, task: Instructions, *, sign: float = 1.0) -> Intervention:
        """To each prompt of a task, the vector of its own word is added; or subtracted, with a sign of -1."""
        made = Intervention()
        for word in dict.fromkeys(sample.word for sample in task.samples):
            rows = [place for place, sample in enumerate(task.samples) if sample.word == word]
            vector = self.word_vectors(word)[choice.layer]
            made += add(vector, sign * choice.step * vector.norm, scope=self.scope, rows=rows, transfer=self.transfer)
        return made


def asking_for(sample: Instructed, word: str) -> Instructed:
    """The sample, its instruction about another word."""
    return replace(sample, word=word, instruction=sample.instruction.replace(sample.word, word))


EXCLUDE = "Do not use the word {}."
"""The instruction to leave a word out; the bundled model was never taught one."""


def to_exclude(task: Instructions, *, instructed: bool = False) -> Instructions:
    """The task about words that answers have anyway: one of the sentence that names the topic.

    Of each sample's topic the first fact is looked up, and the first word of more than three letters is taken that both
    of its English wordings have. Samples of topics that the task knows nothing about are left out.

    Args:
        task: Questions.
        instructed: Whether prompts say to leave the word out (:data:`EXCLUDE`).
    """
    notes = load_world().notes
    samples = []
    for sample in task.samples:
        for said in notes.get(sample.topic, ())[:1]:
            both = [word for word in words_of(said[0]) if word in words_of(said[1])]
            words = [word for word in both if len(word) > 3 and word != sample.topic]
            samples += [replace(sample, word=word, instruction=EXCLUDE.format(word)) for word in words[:1]]
    return replace(task, samples=tuple(samples), with_instruction=instructed)


def excluded(task: Instructions) -> "Callable[[pd.DataFrame], pd.DataFrame]":
    """Sample rows scored for leaving the word out: the output has words, and not that one."""

    def rescore(table: "pd.DataFrame") -> "pd.DataFrame":
        outputs = table["output"].tolist()
        truths = [load_world().truths[sample.topic] for sample in task.samples]
        left_out = [
            bool(words_of(text)) and not KINDS["keyword"](text, word=sample.word)
            for text, sample in zip(outputs, task.samples, strict=True)
        ]
        true = [fidelity(text.strip(), known) for text, known in zip(outputs, truths, strict=True)]
        return table.assign(adherence=left_out, fidelity=true)

    return rescore
