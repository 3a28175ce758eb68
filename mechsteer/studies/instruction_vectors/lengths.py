"""Limits and numbers of sentences, and vectors of one length each (the paper's Figure 4 and length-specific vectors).

The paper asks for at most, or for exactly, n sentences; at most n is steered by the conciseness vector, exactly n by a
vector of its own for each n, from the instruction to answer in n sentences. Here every limit is tried with both
vectors, without its instruction and with it, and so are limits of words, which are what the bundled model was taught.

Limits of sentences are the paper's sentence, which the bundled model never saw: what it does with them is chance. Both
vectors act at the layer of the conciseness vector, with the coefficient that gives the most answers which are as long
as wanted and true on validation prompts; of equals the weakest, and no steering stands first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mechsteer.directions import Direction
from mechsteer.steering import Intervention
from mechsteer.studies.instruction_vectors.bench import WITH, WITHOUT, Bench, Prompts, Setting
from mechsteer.studies.instruction_vectors.choose import Choice, adjusted, choose, percentages, strongest
from mechsteer.studies.instruction_vectors.coefficients import LENGTHS
from mechsteer.studies.instruction_vectors.tables import Choices, Rows, changes
from mechsteer.studies.instruction_vectors.vectors import Steering
from mechsteer.tasks import Instructed, Instructions
from mechsteer.tasks.checkers import sentences

if TYPE_CHECKING:
    import pandas as pd

WORDS, SENTENCES = (6, 9, 12), (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Limit:
    """How long an answer is to be.

    Attributes:
        constraint: ``"at most"`` or ``"exactly"``.
        unit: ``"words"`` or ``"sentences"``.
        count: How many.
    """

    constraint: str
    unit: str
    count: int

    @property
    def said(self) -> str:
        """The instruction: of sentences the paper's, of words the bundled task's."""
        if self.unit == "words":
            return f"Answer in at most {self.count} words."
        return f"Answer using {self.constraint} {self._counted}."

    @property
    def taught(self) -> str:
        """The instruction that the length's own vector comes from."""
        return self.said if self.unit == "words" else f"Answer using {self._counted}."

    @property
    def _counted(self) -> str:
        return f"{self.count} sentence{'s' if self.count > 1 else ''}"

    def kept(self, text: str) -> bool:
        """Whether a text is as long as wanted; an empty one is not."""
        found = len(text.split()) if self.unit == "words" else len(sentences(text))
        return found == self.count if self.constraint == "exactly" else 0 < found <= self.count

    def scored(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Sample rows whose adherence is that."""
        return table.assign(adherence=[self.kept(str(text)) for text in table["output"]])


LIMITS = (
    *(Limit("at most", "words", n) for n in WORDS),
    *(Limit(constraint, "sentences", n) for constraint in ("at most", "exactly") for n in SENTENCES),
)


def lengths(bench: Bench, prompts: Prompts, steering: Steering, choices: Choices) -> "pd.DataFrame":
    """One row a limit, setting and vector (``none``, ``conciseness``, ``own length``).

    Columns: constraint, unit, count, setting, vector, layer, step (norms of the vector), edge, adherence (that the
    answer is as long as wanted), fidelity and bad outputs in percent, n, words_mean, sentences_mean, and McNemar's test
    against no vector, with Holm's adjustment.
    """
    import pandas as pd

    layer = choices[WITHOUT.name, "length"].layer
    layer = layer if layer >= 0 else steering.layers[0]
    rows: Rows = []
    for limit in LIMITS:
        vectors = {"conciseness": steering.vectors("length")[layer], "own length": _own(steering, limit, layer)}
        for setting in (WITHOUT, WITH):
            rows += _rows(bench, prompts, steering, limit, setting, layer, vectors)
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=adjusted(table))


def _own(steering: Steering, limit: Limit, layer: int) -> Direction:
    """The vector of one length, from questions with and without the instruction to be so long."""
    samples = [_asked(sample, limit.taught, limit) for sample in steering.prompts.estimated("length").samples]
    pairs = steering.source.pairs(samples)
    return steering.source.vectors(f"length-{limit.unit}-{limit.count}", pairs, steering.layers)[layer]


def _asked(sample: Instructed, said: str, limit: Limit) -> Instructed:
    return replace(sample, instruction=said, limit=limit.count if limit.unit == "words" else 0)


def _told(task: Instructions, limit: Limit) -> Instructions:
    """The task with this limit in place of its own; without an instruction there is none to replace."""
    if not task.with_instruction:
        return task
    samples = tuple(_asked(sample, limit.said, limit) for sample in task.samples)
    return replace(task, name=f"{task.name}, {limit.said}", samples=samples)


def _rows(
    bench: Bench,
    prompts: Prompts,
    steering: Steering,
    limit: Limit,
    setting: Setting,
    layer: int,
    vectors: Mapping[str, Direction],
) -> Rows:
    """The rows of one limit and setting."""
    test, validation = (_told(part("length", setting), limit) for part in (prompts.tested, prompts.validated))
    plain = limit.scored(bench.measure(test))
    about = {"constraint": limit.constraint, "unit": limit.unit, "count": limit.count, "setting": setting.name}
    rows = [about | {"vector": "none", **_row(Choice(), [], plain, plain)}]
    options = [Choice(), *(Choice(layer, step) for step in LENGTHS)]
    for name, vector in vectors.items():

        def make(option: Choice, _: Any, vector: Direction = vector) -> Intervention:
            return steering.added(vector, option.step)

        chosen, _ = choose(bench, validation, make, options, rescore=limit.scored, with_fidelity=True)
        steered = limit.scored(bench.measure(test, make(chosen, test))) if chosen.steers else plain
        rows.append(about | {"vector": name, **_row(chosen, options, plain, steered)})
    return rows


def _row(chosen: Choice, options: Sequence[Choice], plain: "pd.DataFrame", steered: "pd.DataFrame") -> dict[str, Any]:
    outputs = [str(text) for text in steered["output"]]
    return {
        "layer": chosen.layer,
        "step": chosen.step,
        "edge": strongest(options, chosen),
        **percentages(steered),
        "words_mean": sum(len(text.split()) for text in outputs) / len(outputs),
        "sentences_mean": sum(len(sentences(text)) for text in outputs) / len(outputs),
        **changes(plain, steered),
    }
