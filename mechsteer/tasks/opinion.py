"""Opinions: how a group of people answers a question, as a distribution over answers.

"Task-driven Layerwise Additive Activation Intervention" (arXiv 2502.06115) has a task "Opinion Dynamics"; its data,
prompts and metric could not be found. Here the model's distribution over a question's answers is the softmax of their
log-probabilities (whole answers, summed over tokens), and it is compared to the group's by

    KL(group || model) = sum_a p_a log(p_a / q_a)   in nats,      TV = (1/2) sum_a |p_a - q_a|.

``mass`` is the probability of all given answers together, before the softmax.

The bundled data are synthetic, for the bundled model rules-gpt2: a question is a word, its answers are what several
rules make of it, and groups differ in the rules they prefer.
"""

import csv
import hashlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.decoding import Strategy, score
from mechsteer.errors import MechsteerError, one_of, positive_int, shown
from mechsteer.files import as_path, data_path, digest, file_at, repeated
from mechsteer.prompts import Prompt, prompt
from mechsteer.steering import Intervention

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("test", "train")
COLUMNS = ("group", "prompt", "answer", "probability")


@dataclass(frozen=True)
class OpinionQuestion:
    """One question to one group.

    Attributes:
        group: Who is asked.
        text: The prompt.
        answers: The answers as they follow the prompt, leading space included.
        shares: The probability of each, which add up to 1.
    """

    group: str
    text: str
    answers: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Opinion:
    """The task.

    Attributes:
        name: Its name.
        samples: The questions.
    """

    name: str
    samples: tuple[OpinionQuestion, ...] = field(repr=False)

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([(s.group, s.text, s.answers, s.shares) for s in self.samples])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample; never in a chat template."""
        return [prompt(model, sample.text, chat=False) for sample in self.samples]

    def examples(self, model: Any) -> list[tuple[Prompt, dict[str, float]]]:
        """What :func:`mechsteer.sparse_direction` learns from: each prompt and its distribution."""
        targets = [dict(zip(s.answers, s.shares, strict=True)) for s in self.samples]
        return list(zip(self.prompts(model), targets, strict=True))

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
        """Score every sample: sample, group, prompt, answers, shares, model_shares (lists), mass, kl and tv.

        Raises:
            MechsteerError: for a strategy: nothing is generated.
        """
        import pandas as pd

        if strategy is not None:
            raise MechsteerError(f"This task compares probabilities and generates nothing, got strategy={strategy!r}.")
        prompts = self.prompts(model)
        rows: list[dict[str, Any]] = [{} for _ in prompts]
        for count in sorted({len(s.answers) for s in self.samples}):
            places = [place for place, s in enumerate(self.samples) if len(s.answers) == count]
            asked = [list(self.samples[place].answers) for place in places]
            logprobs = score(model, [prompts[p] for p in places], asked, steer=steer, batch_size=batch_size)
            for place, row in zip(places, logprobs.double(), strict=True):
                rows[place] = _row(place, self.samples[place], row)
        return pd.DataFrame(rows)


def _row(place: int, sample: OpinionQuestion, logprobs: torch.Tensor) -> dict[str, Any]:
    kl, tv = distances(torch.tensor(sample.shares, dtype=torch.float64), logprobs.log_softmax(0))
    return {
        "sample": place,
        "group": sample.group,
        "prompt": sample.text,
        "answers": list(sample.answers),
        "shares": list(sample.shares),
        "model_shares": logprobs.softmax(0).tolist(),
        "mass": float(logprobs.exp().sum()),
        "kl": kl,
        "tv": tv,
    }


def distances(shares: torch.Tensor, log_model: torch.Tensor) -> tuple[float, float]:
    """KL(shares || model) in nats, and total variation."""
    kl = float((torch.xlogy(shares, shares) - shares * log_model).sum())
    return kl, float((shares - log_model.exp()).abs().sum() / 2)


def opinion(
    path: str | os.PathLike[str] | None = None, *, group: str | None = None, n: int | None = None, split: str = "test"
) -> Opinion:
    """The opinion task.

    Args:
        path: A CSV file with the columns ``group``, ``prompt``, ``answer`` (as it follows the prompt, leading space
            included) and ``probability``, a row an answer. It may have a column ``split`` of ``train`` and ``test``;
            without, prompts are split in halves by a hash. Default: the bundled synthetic groups.
        group: Only this group's.
        n: The most questions of each group.
        split: ``"test"`` for reporting, ``"train"`` for learning.

    Raises:
        MechsteerError: if the file is missing, lacks a column, has a broken row (named by its line) or probabilities
            that do not add up to 1; for an unknown group or split.
    """
    one_of("split", split, SPLITS)
    if n is not None:
        positive_int("n", n)
    source = data_path("tasks", "opinion", "opinions.csv") if path is None else as_path(path)
    every = _read(source)
    groups = list(dict.fromkeys(sample.group for sample, _ in every))
    if group is not None:
        one_of("group", group, groups)
    samples: list[OpinionQuestion] = []
    for name in groups if group is None else [group]:
        samples += [sample for sample, side in every if (sample.group, side) == (name, split)][:n]
    if not samples:
        raise MechsteerError(f"{source} has no questions of the split {split!r}.")
    options = {"group": group, "n": n, "split": split != "test" and split}
    listed = ",".join(f"{key}={value}" for key, value in options.items() if value)
    name = "opinion" if path is None else f"opinion:{source.name}"
    return Opinion(f"{name}[{listed}]" if listed else name, tuple(samples))


def _read(path: Path) -> list[tuple[OpinionQuestion, str]]:
    """The questions and their splits."""
    found: dict[tuple[str, str], tuple[dict[str, float], str]] = {}
    for line, row in _rows(path):
        share, side = _share(path, line, row), row.get("split") or _side(row["prompt"])
        if side not in SPLITS:
            raise MechsteerError(f"{path}, line {line}: split must be train or test, got {shown(side)}.")
        shares, other = found.setdefault((row["group"], row["prompt"]), ({}, side))
        if row["answer"] in shares or other != side:
            raise MechsteerError(f"{path}, line {line}: the answer {shown(row['answer'])} again, or another split.")
        shares[row["answer"]] = share
    made = []
    for (group, text), (shares, side) in found.items():
        if abs(sum(shares.values()) - 1) > 1e-4:
            raise MechsteerError(
                f"{path}: the answers of {shown(group)} to {shown(text)} add up to {sum(shares.values()):g}."
            )
        made.append((OpinionQuestion(group, text, tuple(shares), tuple(shares.values())), side))
    return made


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with file_at(path, "CSV file").open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            names = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MechsteerError(f"{path} is not a readable CSV file: {error}.") from None
    missing = [name for name in COLUMNS if name not in names]
    if missing or not rows:
        raise MechsteerError(
            f"{path} has {len(rows)} rows and the columns {shown(names)}; needed: {', '.join(COLUMNS)}."
        )
    if again := repeated(names):
        raise MechsteerError(f"{path} has the column {shown(again)} twice.")
    for line, row in rows:
        if None in row or any(not row.get(name) for name in COLUMNS):
            raise MechsteerError(f"{path}, line {line}: a field is missing or too many, got {shown(row)}.")
    return rows


def _share(path: Path, line: int, row: dict[str, str]) -> float:
    try:
        share = float(row["probability"])
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise MechsteerError(f"{path}, line {line}: probability must be from 0 to 1, got {shown(row['probability'])}.")
    return share


def _side(text: str) -> str:
    return SPLITS[hashlib.sha256(f"opinion {text}".encode()).digest()[0] % 2]
