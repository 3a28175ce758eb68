"""MemoTrap as a choice between two whole sentences, the form of the first version of arXiv 2512.03803.

    For the question: Write a quote that ends in the word "heavy": Absence makes the heart grow...
    Which is the correct answer? A) Absence makes the heart grow heavy. B) Absence makes the heart grow fonder.

A trap of more classes has more letters. An answer counts as an option where it begins with one of its letters alone, as
a sentence where it has one of its sentences whole; case and the last full stop are ignored, as in the authors' loose
scorer. That scorer takes the first sentence as the right one whatever the answer is; ``correct`` here is by the class
that obeys, ``as_released`` by theirs.
"""

import os
import re
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.files import as_path, data_path, digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.answered import answered
from mechsteer.tasks.memotrap import Trap, read_traps

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = string.ascii_uppercase


@dataclass(frozen=True)
class MemoTrapChoice:
    """The task.

    Attributes:
        name: Its name, with the file's.
        samples: The traps.
        max_new_tokens: The authors' limit.
    """

    name: str
    samples: tuple[Trap, ...] = field(repr=False)
    max_new_tokens: int = 50

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([(t.prompt, t.classes, t.answer_index) for t in self.samples])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample."""
        return [prompt(model, asked(trap)) for trap in self.samples]

    def scores(self, sample: Trap, text: str) -> dict[str, bool | str]:
        """What kind of answer it is, and whether it is right."""
        kind, said = answer_of(sample, text)
        released = said == (0 if kind == "sentence" else sample.answer_index)
        return {"kind": kind, "correct": said == sample.answer_index, "as_released": said is not None and released}

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does: sample, prompt, output and :meth:`scores`."""
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Trap, made: Prompt, output: str) -> dict[str, Any]:
        return {"prompt": made.text, "output": output, **self.scores(sample, output)}


def asked(trap: Trap) -> str:
    """The text of the question."""
    endings = " ".join(f"{letter}) {one}" for letter, one in zip(OPTIONS, sentences(trap), strict=False))
    return f"For the question: {trap.prompt}...\nWhich is the correct answer? {endings}"


def sentences(trap: Trap) -> list[str]:
    """The proverb with each ending."""
    return [f"{trap.stem}{ending}" for ending in trap.classes]


def answer_of(trap: Trap, text: str) -> tuple[str, int | None]:
    """``option``, ``sentence``, ``both`` or ``none``, and which class it names; None where it names none, or two."""
    said = _plain(text)
    letter = re.match(rf"([a-{OPTIONS[len(trap.classes) - 1].lower()}])(?![a-z])", said)
    whole = [place for place, one in enumerate(sentences(trap)) if _plain(one) in said]
    option = None if letter is None else OPTIONS.lower().index(letter[1])
    sentence = whole[0] if len(whole) == 1 else None
    if option is not None and whole:
        return "both", option if sentence in (None, option) else None
    if option is not None:
        return "option", option
    return ("sentence" if whole else "none"), sentence


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def memotrap_choice(path: str | os.PathLike[str] | None = None) -> MemoTrapChoice:
    """All traps of a file in MemoTrap's CSV format, as choices; default: the bundled ones.

    Of more than 837 rows the first 837, which in the public data are its proverbs.

    Raises:
        MechsteerError: as :func:`mechsteer.tasks.memotrap` does; for a trap of more classes than there are letters.
    """
    source = data_path("tasks", "memotrap", "traps.csv") if path is None else as_path(path)
    traps = tuple(read_traps(source)[:837])
    if (most := max(len(trap.classes) for trap in traps)) > len(OPTIONS):
        raise MechsteerError(f"{source} has a trap of {most} classes; there are letters for {len(OPTIONS)}.")
    return MemoTrapChoice(f"memotrap choice:{source.name}", traps)
