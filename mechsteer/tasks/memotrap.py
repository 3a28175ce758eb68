"""MemoTrap: told to end a proverb in a given word, does the model obey or recite?

Data: liujch1998/memo-trap (MIT) and its inverse-scaling form; the bundled traps are this project's own, in the same CSV
format (columns ``prompt``, ``classes``: a Python list as text, ``answer_index``: which class obeys).

Scores, of one sample each:

- ``correct``: the classification of the original task, argmax_k log p(class_k | prompt) is the obeying class. A
  class is scored whole, with a space before it where the prompt does not end in one or in a chat header.
- ``success``: the measure of arXiv 2512.03803 (its ``steering.ipynb``): the greedy output contains the target word. The
  prompt itself quotes that word, so an output that merely echoes the instruction counts too.
- ``strict``: the output's last word is the target and the output does not repeat the whole instruction.
- ``sound``: the output ends in the target and obeys: no part of the instruction, no refusal or negation, no other
  ending, the target once and whole (:func:`mechsteer.tasks.checkers.sound.ends_soundly`). ``success`` and ``strict``
  take some of these; published tables have them.
- ``memorised``: the output's last word is the trap word.
"""

import ast
import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mechsteer.decoding import score
from mechsteer.errors import MechsteerError, nearest, one_of, shown
from mechsteer.files import as_path, data_path, digest, file_at, repeated
from mechsteer.models import spaced
from mechsteer.prompts import Prompt, prompt
from mechsteer.steering import Intervention
from mechsteer.tasks.answered import answered
from mechsteer.tasks.checkers.sound import ends_soundly

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("prompt", "classes", "answer_index")
SPLITS = ("mining", "evaluation")
PUBLIC_MINING, PUBLIC_EVALUATION = 100, 300  # rows 0-99 and 100-399 in file order, as in the paper


@dataclass(frozen=True)
class Trap:
    """One trap.

    Attributes:
        prompt: The text given to the model.
        classes: The endings to choose from, as in the file, leading space included.
        answer_index: Which of them obeys the instruction.
        split: ``"mining"`` or ``"evaluation"``.
    """

    prompt: str
    classes: tuple[str, ...]
    answer_index: int
    split: str = "evaluation"

    @property
    def target(self) -> str:
        """The word that obeys, without space and full stop."""
        return self.classes[self.answer_index].strip(" .")

    @property
    def trap(self) -> str:
        """The (first) word that memory suggests."""
        return next(c for i, c in enumerate(self.classes) if i != self.answer_index).strip(" .")

    @property
    def instruction(self) -> str:
        """What comes before the colon: the instruction."""
        return self.prompt.partition(":")[0].strip()

    @property
    def stem(self) -> str:
        """What comes after the colon: the beginning of the proverb."""
        return self.prompt.partition(":")[2].strip()


@dataclass(frozen=True)
class MemoTrap:
    """The task.

    Attributes:
        name: ``"memotrap"``, or the file it was read from.
        samples: The traps that :func:`mechsteer.evaluate` scores.
        mining: Traps to estimate directions from; they share no proverb with the evaluation.
        dropped: How many evaluation rows were left out because their proverb is also in the mining split.
        max_new_tokens: The paper's limit for free generation.
    """

    name: str
    samples: tuple[Trap, ...]
    mining: tuple[Trap, ...] = field(default=(), repr=False)
    dropped: int = 0
    max_new_tokens: int = 20

    @property
    def data_hash(self) -> str:
        """A hash of the evaluated samples."""
        return digest([(t.prompt, t.classes, t.answer_index) for t in self.samples])

    def on(self, split: str) -> "MemoTrap":
        """The same task scored on the other split: ``on("mining")`` is for choosing layers and strengths."""
        one_of("split", split, SPLITS)
        return self if split == "evaluation" else replace(self, name=f"{self.name}[mining]", samples=self.mining)

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample."""
        return [prompt(model, trap.prompt) for trap in self.samples]

    def scores(self, sample: Trap, text: str) -> dict[str, bool | float]:
        """What can be said of an output alone: success, strict, memorised and sound."""
        return {
            "success": succeeded(text, sample),
            "strict": obeyed(text, sample),
            "memorised": last_word(text) == sample.trap.lower(),
            "sound": obeyed_soundly(text, sample),
        }

    def run(self, model: Any, *, steer: Intervention | None = None, batch_size: int = 64, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does.

        Returns:
            Columns sample, prompt, target, trap, output, correct, :meth:`scores`, and the two log-probabilities.
        """
        prompts = self.prompts(model)
        asked = zip(self.samples, prompts, strict=True)
        choices = [[spaced(model, ending, made) for ending in trap.classes] for trap, made in asked]
        logprobs: list[list[float]] = [[] for _ in prompts]
        for count in sorted({len(classes) for classes in choices}):
            places = [place for place, classes in enumerate(choices) if len(classes) == count]
            asked_here, of_each = [prompts[place] for place in places], [choices[place] for place in places]
            found = score(model, asked_here, of_each, steer=steer, batch_size=batch_size).tolist()
            for place, values in zip(places, found, strict=True):
                logprobs[place] = values
        known = list(zip(self.samples, logprobs, strict=True))
        how |= {"steer": steer, "batch_size": batch_size, "max_new_tokens": self.max_new_tokens}
        return answered(model, known, prompts, self._row, **how)

    def _row(self, known: tuple[Trap, list[float]], made: Prompt, output: str) -> dict[str, Any]:
        trap, logprobs = known
        target = logprobs[trap.answer_index]
        other = max(value for place, value in enumerate(logprobs) if place != trap.answer_index)
        row = {"prompt": trap.prompt, "target": trap.target, "trap": trap.trap, "output": output}
        chosen = {"correct": target > other} | self.scores(trap, output)
        return row | chosen | {"logprob_target": target, "logprob_trap": other}


def succeeded(output: str, trap: Trap) -> bool:
    """The paper's success: the target is a substring of the output, case ignored."""
    return trap.target.lower() in output.lower()


def obeyed(output: str, trap: Trap) -> bool:
    """The strict success: the output ends in the target and is no echo of the whole instruction."""
    return last_word(output) == trap.target.lower() and trap.instruction.lower() not in output.lower()


def obeyed_soundly(output: str, trap: Trap) -> bool:
    """The output ends in the target because it obeys; see :func:`mechsteer.tasks.checkers.sound.ends_soundly`."""
    others = [ending for place, ending in enumerate(trap.classes) if place != trap.answer_index]
    return ends_soundly(output, target=trap.target, others=others, instruction=trap.instruction, stem=trap.stem)


def last_word(text: str) -> str:
    """The last word of a text, lower case, without punctuation; empty when there is none."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())
    return words[-1] if words else ""


def memotrap(path: str | os.PathLike[str] | None = None) -> MemoTrap:
    """The MemoTrap task.

    Args:
        path: A CSV file in the public format. Default: the bundled traps, whose splits share neither proverbs nor
            instructed words (26 trap words are in both). A file without a ``split`` column is split as in the paper:
            rows 0-99 mine, rows 100-399 are evaluated; evaluation rows whose proverb was mined are dropped (a smaller
            file: a quarter mines, the rest is evaluated).

    Raises:
        MechsteerError: if the file is missing or empty, lacks a column, or has a broken row, which is named by its
            line.
    """
    source = data_path("tasks", "memotrap", "traps.csv") if path is None else as_path(path)
    traps = read_traps(source)
    mining = tuple(t for t in traps if t.split == "mining")
    mined = {t.stem for t in mining}
    evaluation = [t for t in traps if t.split == "evaluation"]
    kept = tuple(t for t in evaluation if t.stem not in mined)
    if not mining or not kept:
        raise MechsteerError(
            f"{source} leaves {len(mining)} traps to mine and {len(kept)} to evaluate; both are needed."
        )
    name = "memotrap" if path is None else f"memotrap:{source.name}"
    return MemoTrap(name, kept, mining, dropped=len(evaluation) - len(kept))


def read_traps(path: Path) -> list[Trap]:
    """All rows of a file, also those that the paper does not use, whose split is empty."""
    try:
        with file_at(path, "CSV file").open(newline="", encoding="utf-8-sig") as file:
            header, *rows = _records(path, file)
    except (OSError, UnicodeDecodeError) as error:
        raise MechsteerError(f"{path} is not a readable CSV file: {error}.") from None
    names = header[1]
    _check_columns(path, names)
    if not rows:
        raise MechsteerError(f"{path} has no rows.")
    split_known = "split" in names
    n_mining = PUBLIC_MINING if len(rows) >= PUBLIC_MINING + 1 else max(1, len(rows) // 4)
    traps = []
    for place, (line, fields) in enumerate(rows):
        if len(fields) != len(names):
            raise MechsteerError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(names)}.")
        row = dict(zip(names, fields, strict=True))
        if split_known:
            split = row["split"]
        elif place < n_mining:
            split = "mining"
        elif place < n_mining + PUBLIC_EVALUATION:
            split = "evaluation"
        else:
            split = ""  # beyond the rows that the paper uses
        try:
            traps.append(_trap(row, split))
        except MechsteerError as error:
            raise MechsteerError(f"{path}, line {line}: {error}") from None
    return traps


def _records(path: Path, file: TextIO) -> list[tuple[int, list[str]]]:
    """The header and the rows, each with the line it begins on; empty lines left out."""
    reader = csv.reader(file, strict=True)
    records = []
    line = 1
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise MechsteerError(f"{path}, line {line}: not readable as CSV ({error}).") from None
    return records or [(1, [])]


def _check_columns(path: Path, names: Sequence[str]) -> None:
    missing = [c for c in COLUMNS if c not in names]
    if missing:
        hint = nearest(missing[0], names, said="It has")
        raise MechsteerError(f"{path} lacks the column {missing[0]!r}.{hint}")
    if again := repeated(names):
        raise MechsteerError(f"{path} has the column {shown(again)} twice.")


def _trap(row: dict[str, str], split: str) -> Trap:
    try:
        classes = ast.literal_eval(row["classes"].strip())
        "".join(classes).encode()  # of half a character, which an escape can write, no token can be made
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval is documented for
        classes = None
    if (
        not isinstance(classes, list)
        or len(classes) < 2
        or not all(isinstance(c, str) and c.strip(" .") for c in classes)
    ):
        raise MechsteerError(f"classes must be a list of two or more words, got {shown(row['classes'])}.")
    index = row["answer_index"].strip()
    if index not in {str(i) for i in range(len(classes))}:
        raise MechsteerError(f"answer_index must be 0 to {len(classes) - 1}, got {shown(row['answer_index'])}.")
    if not row["prompt"].strip():
        raise MechsteerError("the prompt is empty.")
    if split not in (*SPLITS, ""):
        raise MechsteerError(f"split must be one of {SPLITS}, got {shown(split)}.")
    return Trap(row["prompt"], tuple(classes), int(index), split)
