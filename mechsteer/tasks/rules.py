"""Rules: a word is given, and the answer is what the rule makes of it (its antonym, its French, its capital ...).

Data have the format of the function-vectors repository (<https://github.com/ericwtodd/function_vectors>): a JSON list
of ``{"input": ..., "output": ...}``. Prompts have its default format, with as many examples ("shots") as wanted::

    Q: cat
    A: le chat

    Q: bridge
    A:

An answer counts if the first line of the output is exactly right, letter case included. "Task-driven Layerwise
Additive Activation Intervention" (arXiv 2502.06115) learns its vectors on such rules; its own data, prompts and split
could not be found, so these are not claimed to be its.

Words belong to the training or to the test side by a hash of the word, whatever the rule and the seed: a word that one
rule is tested on, no other rule is trained on. The exceptions are pairs that the data have both ways (hot - cold, cold
- hot); both are on the side of the word that comes first in the alphabet.
"""

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, one_of, positive_int, shown
from mechsteer.files import data_path, digest, read_json
from mechsteer.models import word_ids
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.answered import answered

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("test", "train")


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        question: The word.
        answers: What is right; the first one is what vectors are trained to say.
        shots: Questions with answers that come before.
    """

    question: str
    answers: tuple[str, ...]
    shots: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The prompt."""
        return "".join(f"Q: {q}\nA: {a}\n\n" for q, a in self.shots) + f"Q: {self.question}\nA:"


@dataclass(frozen=True)
class Rules:
    """The task.

    Attributes:
        name: Its name, with the options that are not the defaults.
        rule: The rule's name.
        samples: The questions.
    """

    name: str
    rule: str
    samples: tuple[Asked, ...] = field(repr=False)

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([(s.text, s.answers) for s in self.samples])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample; never in a chat template."""
        return [prompt(model, sample.text, chat=False) for sample in self.samples]

    def examples(self, model: Any) -> list[tuple[Prompt, str]]:
        """What :func:`mechsteer.sparse_direction` learns from: each prompt and how it goes on."""
        return [(made, f" {s.answers[0]}") for made, s in zip(self.prompts(model), self.samples, strict=True)]

    def scores(self, sample: Asked, text: str) -> dict[str, bool | float]:
        """Whether an answer is right."""
        return {"correct": is_right(sample, text)}

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does.

        As many tokens are generated as the longest right answer has, and one more.

        Returns:
            Columns sample, rule, shots, question, prompt, answer, output and correct.
        """
        prompts = self.prompts(model)
        asked = zip(self.samples, prompts, strict=True)
        longest = max(len(word_ids(model, a, made)) for s, made in asked for a in s.answers)
        return answered(model, self.samples, prompts, self._row, max_new_tokens=longest + 1, **how)

    def _row(self, sample: Asked, made: Prompt, output: str) -> dict[str, Any]:
        row = {
            "rule": self.rule,
            "shots": len(sample.shots),
            "question": sample.question,
            "prompt": sample.text,
            "answer": sample.answers[0],
            "output": output,
        }
        return row | self.scores(sample, output)


def is_right(sample: Asked, output: str) -> bool:
    """Whether the first line of an output is a right answer, exactly."""
    return output.strip().partition("\n")[0].strip() in sample.answers


def rules(
    name_or_path: str | os.PathLike[str],
    *,
    shots: int = 0,
    n: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> Rules:
    """The questions of one rule.

    Args:
        name_or_path: A bundled rule, e.g. ``"english-french"`` or ``"english-french+capitalise"`` (see
            :func:`bundled_rules`), which the bundled model rules-gpt2 knows; or a JSON file in the function-vectors
            format, whose name ends in ``.json``.
        shots: Examples before each question, drawn from the training side, never the word itself.
        n: How many questions; default: all, about half of the words.
        split: ``"test"`` for reporting, ``"train"`` for learning.
        seed: Of the draw of questions and shots; the split does not depend on it.

    Raises:
        MechsteerError: for an unknown rule or split, a file that is missing or broken (with the place), or fewer words
            than asked (with the numbers).
    """
    one_of("split", split, SPLITS)
    if n is not None:
        positive_int("n", n)
    if shots != 0:
        positive_int("shots", shots)
    rule, pairs = _named(name_or_path)
    sides: dict[str, list[Asked]] = {side: [] for side in SPLITS}
    for question, answers in pairs.items():
        sides[side_of(question, pairs)].append(Asked(question, answers))
    chosen = sides[split]
    if not chosen or (n is not None and n > len(chosen)):
        raise MechsteerError(f"The rule {rule!r} has {len(chosen)} {split} words, {n or 'at least 1'} were asked for.")
    rng = random.Random(f"rules {seed}")
    if n is not None:
        places = sorted(rng.sample(range(len(chosen)), n))
        chosen = [chosen[place] for place in places]
    if shots:
        chosen = [_with_shots(sample, sides["train"], shots, rng, rule) for sample in chosen]
    options = {"shots": shots, "split": split != "test" and split, "n": n, "seed": (n or shots) and seed}
    listed = ",".join([rule, *(f"{key}={value}" for key, value in options.items() if value)])
    return Rules(f"rules[{listed}]", rule, tuple(chosen))


def bundled_rules() -> list[str]:
    """The names of the bundled rules; composed ones have a plus sign."""
    return sorted(path.stem for path in data_path("tasks", "rules").glob("*.json"))


def side_of(question: str, pairs: dict[str, tuple[str, ...]]) -> str:
    """``"train"`` or ``"test"``: a word's side, the same in every rule; of pairs both ways, that of the first word."""
    backwards = [answer for answer in pairs[question] if question in pairs.get(answer, ())]
    word = min([question, *backwards]).lower()
    return SPLITS[hashlib.sha256(f"rules {word}".encode()).digest()[0] % 2]


def _with_shots(sample: Asked, training: Sequence[Asked], shots: int, rng: random.Random, rule: str) -> Asked:
    others = [one for one in training if one.question != sample.question]
    if shots > len(others):
        raise MechsteerError(f"{shots} shots were asked for; the rule {rule!r} has {len(others)} training words.")
    shown = tuple((one.question, one.answers[0]) for one in rng.sample(others, shots))
    return Asked(sample.question, sample.answers, shown)


def _named(name_or_path: str | os.PathLike[str]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The rule's name and its pairs."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise MechsteerError(f"A rule is a name or a JSON file, got {name_or_path!r}.")
    path = Path(name_or_path)
    if path.suffix not in ("", ".json"):
        raise MechsteerError(f"A rule of one's own is a file whose name ends in .json, got {str(path)!r}.")
    if not path.suffix:
        path = data_path("tasks", "rules", f"{one_of('rule', str(name_or_path), bundled_rules())}.json")
    return path.stem, _read(path)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    """Right answers by question; a question that occurs again has another right answer."""
    rows = read_json(path, once=True)
    if not isinstance(rows, list) or not rows:
        raise MechsteerError(f'{path} is not a list of {{"input": ..., "output": ...}}.')
    pairs: dict[str, tuple[str, ...]] = {}
    for place, row in enumerate(rows):
        texts = [row.get(key) for key in ("input", "output")] if isinstance(row, dict) else [None, None]
        question, answer = (text.strip() if isinstance(text, str) else "" for text in texts)
        if not question or not answer or "\n" in question + answer:
            raise MechsteerError(
                f'{path}, entry {place}: "input" and "output" must be texts of one line, got {shown(row)}.'
            )
        pairs[question] = tuple(dict.fromkeys((*pairs.get(question, ()), answer)))
    return pairs
