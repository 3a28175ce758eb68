"""IFEval (arXiv 2311.07911): its public JSONL file, scored by the checkers of lm-eval, strict and loose.

One line of the file is one prompt: ``{"key": 1000, "prompt": "...", "instruction_id_list": ["detectable_format:title"],
"kwargs": [{}]}``. The data is not bundled; it is on the hub as ``google/IFEval``.

The file is checked when it is read: instructions, names and values of their arguments
(:mod:`mechsteer.tasks.ifeval_arguments`), so that nothing is generated for a line that cannot be scored.

The checkers need the extra ``eval`` and nltk's ``punkt_tab``. Language detection is random by nature; it is seeded
here, so that the same outputs always get the same scores. In one thing the scores are not lm-eval's: prompts 1122 and
1129 of the public file ask for the characters # and !, for which its checker counts a letter drawn at random; here the
character itself is counted.

Scores, of one sample each: ``strict`` and ``loose`` say whether all instructions were followed (prompt level);
``n_strict`` and ``n_loose`` of ``n_instructions`` count them one by one: their sums make the instruction level.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Strategy, generate
from mechsteer.errors import MechsteerError
from mechsteer.files import digest
from mechsteer.prompts import prompt
from mechsteer.steering import Intervention
from mechsteer.tasks.ifeval_arguments import ARGUMENTS, problem

if TYPE_CHECKING:
    import pandas as pd

FIELDS: Mapping[str, type] = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}
LANGUAGE_SEED = 0
SCORES = ("strict", "loose", "n_instructions", "n_strict", "n_loose")


@dataclass(frozen=True)
class IFEvalPrompt:
    """One prompt of IFEval.

    Attributes:
        key: Its number.
        prompt: The text given to the model, instructions included.
        instructions: The ids of the instructions.
        kwargs: What each instruction asks for: numbers, words, languages.
    """

    key: int
    prompt: str
    instructions: tuple[str, ...]
    kwargs: tuple[Mapping[str, Any], ...] = field(hash=False)


@dataclass(frozen=True)
class IFEval:
    """The task.

    Attributes:
        name: ``"ifeval:"`` and the name of the file.
        samples: The prompts.
        max_new_tokens: lm-eval's limit.
    """

    name: str
    samples: tuple[IFEvalPrompt, ...] = field(repr=False)
    max_new_tokens: int = 1280

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([(s.key, s.prompt, s.instructions, [dict(k) for k in s.kwargs]) for s in self.samples])

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
        """Score every sample: sample, key, kind (the ids), prompt, output, and the five scores.

        Raises:
            MechsteerError: before anything is generated, if the extra ``eval`` or nltk's data is missing.
        """
        import pandas as pd

        require_checkers()
        outputs = generate(
            model,
            [prompt(model, sample.prompt) for sample in self.samples],
            steer=steer,
            strategy=strategy,
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            **options,
        ).texts
        rows = [
            {
                "sample": number,
                "key": sample.key,
                "kind": " ".join(sample.instructions),
                "prompt": sample.prompt,
                "output": output,
                **check(sample, output),
            }
            for number, (sample, output) in enumerate(zip(self.samples, outputs, strict=True))
        ]
        return pd.DataFrame(rows)


def ifeval(path: str | os.PathLike[str]) -> IFEval:
    """IFEval from its JSONL file.

    Args:
        path: The file, e.g. ``ifeval_input_data.jsonl`` of ``google/IFEval``.

    Raises:
        MechsteerError: if the file is missing or empty, or has a broken line, which is named: one that is no JSON, has
            an instruction that lm-eval has no checker for, an argument that is missing, misspelt or impossible, or is
            there twice.
    """
    source = Path(path)
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise MechsteerError(f"No such file: {source}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MechsteerError(f"{source} is not a readable JSONL file: {error}.") from None
    samples = tuple(_sample(source, number, line) for number, line in enumerate(lines, 1) if line.strip())
    if not samples:
        raise MechsteerError(f"{source} has no prompts.")
    _refuse_repeated(source, [line.strip() for line in lines])
    return IFEval(f"ifeval:{source.name}", samples)


def check(sample: IFEvalPrompt, output: str) -> dict[str, bool | int]:
    """Score one output by lm-eval's checkers.

    Raises:
        MechsteerError: for an instruction that lm-eval does not know, an argument that is missing or impossible, or if
            the extra or nltk's data is missing.
    """
    strict, loose = followed(sample, output)
    values = (all(strict), all(loose), len(sample.instructions), sum(strict), sum(loose))
    return dict(zip(SCORES, values, strict=True))


def followed(sample: IFEvalPrompt, output: str) -> tuple[list[bool], list[bool]]:
    """For each of the sample's instructions, whether an output follows it: strictly, and loosely.

    Raises:
        MechsteerError: as :func:`check`.
    """
    utils = require_checkers()
    known = utils.instructions_registry.INSTRUCTION_DICT
    strict, loose = [], []
    for name, kwargs in zip(sample.instructions, sample.kwargs, strict=True):
        if name not in known:
            raise MechsteerError(f"Prompt {sample.key}: lm-eval has no checker for the instruction {name!r}.")
        if name in ARGUMENTS and (found := problem(name, kwargs)):
            raise MechsteerError(f"Prompt {sample.key}: {found}")
        arguments, text = _with_letter(kwargs, output)
        example = utils.InputExample(
            key=sample.key, instruction_id_list=[name], prompt=sample.prompt, kwargs=[arguments]
        )
        strict.append(bool(utils.test_instruction_following_strict(example, text).follow_all_instructions))
        loose.append(bool(utils.test_instruction_following_loose(example, text).follow_all_instructions))
    return strict, loose


def _with_letter(kwargs: Mapping[str, Any], output: str) -> tuple[dict[str, Any], str]:
    """Arguments and output in which a character to be counted that is no letter has changed places with q.

    The checker counts nothing but a to z.
    """
    wanted = kwargs.get("letter")
    if wanted is None or (wanted.isascii() and wanted.isalpha()):
        return dict(kwargs), output
    places = dict.fromkeys((wanted.lower(), wanted.upper()), "q") | {"q": wanted, "Q": wanted}
    return {**kwargs, "letter": "q"}, "".join(places.get(character, character) for character in output)


def require_checkers() -> Any:
    """Import lm-eval's IFEval checkers, with seeded language detection.

    Raises:
        MechsteerError: if the extra ``eval`` or nltk's ``punkt_tab`` is missing; nothing is downloaded.
    """
    try:
        nltk = import_module("nltk")
        langdetect = import_module("langdetect")
    except ImportError as error:
        raise MechsteerError(f"IFEval's checkers need the extra: pip install 'mechsteer[eval]' ({error}).") from None
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise MechsteerError("IFEval's checkers need nltk's data: python -m nltk.downloader punkt_tab.") from None
    try:
        utils = import_module("lm_eval.tasks.ifeval.utils")
    except ImportError as error:
        raise MechsteerError(f"IFEval's checkers need the extra: pip install 'mechsteer[eval]' ({error}).") from None
    langdetect.DetectorFactory.seed = LANGUAGE_SEED
    return utils


def _refuse_repeated(path: Path, lines: list[str]) -> None:
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line and first.setdefault(line, number) != number:
            raise MechsteerError(f"{path}, line {number}: repeats line {first[line]}, so its prompt would count twice.")


def _sample(path: Path, number: int, line: str) -> IFEvalPrompt:
    def broken(why: str) -> MechsteerError:
        return MechsteerError(f"{path}, line {number}: {why}")

    try:
        row = json.loads(line, object_pairs_hook=_object)
    except ValueError as error:
        raise broken(f"not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise broken("not a JSON object.")
    for name, kind in FIELDS.items():
        if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
            raise broken(f"{name!r} must be a {kind.__name__}, got {row.get(name)!r}.")
    ids, kwargs = row["instruction_id_list"], row["kwargs"]
    if not row["prompt"].strip() or not ids:
        raise broken("the prompt or the list of instructions is empty.")
    if not all(isinstance(i, str) for i in ids):
        raise broken(f"instruction_id_list must be a list of names, got {ids!r}.")
    if len(ids) != len(kwargs):
        raise broken(f"{len(ids)} instructions, but {len(kwargs)} kwargs; there must be one of each.")
    if not all(isinstance(k, dict) for k in kwargs):
        raise broken("each of the kwargs must be an object.")
    for found in filter(None, map(problem, ids, kwargs)):
        raise broken(found)
    return IFEvalPrompt(row["key"], row["prompt"], tuple(ids), tuple(kwargs))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that is there twice, JSON would keep the last value."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made
