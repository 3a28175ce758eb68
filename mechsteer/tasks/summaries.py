"""Summaries in French of English documents, GUIDE's first experiment, on generated documents.

The paper's prompt is "Summarize in french: " and a text; success is the language of the output. Different: texts are
generated, so their length counts words; decoding is greedy (the paper draws 10 samples); and the language is told by
function words: French if most of the output's French and English function words are French, and there are three.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mechsteer.files import digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks import documents
from mechsteer.tasks.answered import answered
from mechsteer.tasks.checkers.sound import says_something

if TYPE_CHECKING:
    import pandas as pd

INSTRUCTION = "Summarize in french: "
_WORD = re.compile(r"[^\W\d_]+")
_FRENCH = frozenset(
    "le la les un une des du de et est dans que qui pour sur avec il elle par au aux ce cette son".split()
)
_ENGLISH = frozenset("the of and to in is that it was for with as his her by at on an be this which from they".split())


@dataclass(frozen=True)
class Text:
    """A text to summarise.

    Attributes:
        text: The text.
        instruction: The instruction.
        length: The most words of the text.
    """

    text: str
    instruction: str
    length: int


@dataclass(frozen=True)
class Summaries:
    """The task.

    Attributes:
        name: Its name.
        samples: The texts.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    samples: tuple[Text, ...] = field(repr=False)
    max_new_tokens: int = 200

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([(s.text, s.instruction) for s in self.samples])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample, with the spans ``instruction`` (where there is one) and ``task``."""
        return [prompt(model, s.text, instruction=s.instruction, separator=" \n ") for s in self.samples]

    def scores(self, sample: Text, text: str) -> dict[str, bool | float]:
        """Whether an answer is French, and whether it is, and no loop or list of little words (``sound``)."""
        said = is_french(text)
        return {"french": said, "sound": said and says_something(text, sample.instruction)}

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does: sample, length, prompt, output, :meth:`scores`."""
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Text, made: Prompt, output: str) -> dict[str, Any]:
        return {"length": sample.length, "prompt": made.text, "output": output} | self.scores(sample, output)


def summaries(lengths: Sequence[int], n: int, seed: int = 0, instruction: str = INSTRUCTION) -> Summaries:
    """``n`` generated texts of each length in words; a longer one begins with the shorter one."""
    samples = [
        Text(" ".join(documents.within(documents.book(f"{seed} {number}")[1], size)), instruction, size)
        for size in lengths
        for number in range(n)
    ]
    return Summaries("summaries", tuple(samples))


def is_french(text: str) -> bool:
    """Whether a text's function words are mostly French."""
    words = [word.lower() for word in _WORD.findall(text)]
    french, english = sum(w in _FRENCH for w in words), sum(w in _ENGLISH for w in words)
    return french >= 3 and french > english
