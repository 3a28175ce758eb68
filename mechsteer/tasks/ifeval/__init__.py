"""IFEval (arXiv 2311.07911): its public JSONL file, scored by the checkers of lm-eval, strict and loose.

The file and where a prompt's instruction stands: :mod:`mechsteer.tasks.ifeval.file`. The checkers always get the text
that a person would have written, without tags.

The checkers need the extra ``eval`` and nltk's ``punkt_tab``. Language detection is random by nature; it is seeded
here, so that the same outputs always get the same scores. In one thing the scores are not lm-eval's: prompts 1122 and
1129 of the public file ask for the characters # and !, for which its checker counts a letter drawn at random; here the
character itself is counted.

Scores, of one sample each: ``strict`` and ``loose`` say whether all instructions were followed (prompt level);
``n_strict`` and ``n_loose`` of ``n_instructions`` count them one by one: their sums make the instruction level.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.files import digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.answered import answered
from mechsteer.tasks.ifeval.arguments import ARGUMENTS, problem
from mechsteer.tasks.splits import half, of_kind

if TYPE_CHECKING:
    import pandas as pd

    from mechsteer.tasks.own_samples import OwnSample

LANGUAGE_SEED = 0
MAX_NEW_TOKENS = 1280
SCORES = ("strict", "loose", "n_instructions", "n_strict", "n_loose")


@dataclass(frozen=True)
class IFEvalPrompt:
    """One prompt of IFEval.

    Attributes:
        key: Its number.
        prompt: The text given to the model, instructions included.
        instructions: The ids of the instructions.
        kwargs: What each instruction asks for: numbers, words, languages.
        asked: The prompt with its instruction marked, and without it, where the file says so.
    """

    key: int
    prompt: str
    instructions: tuple[str, ...]
    kwargs: tuple[Mapping[str, Any], ...] = field(hash=False)
    asked: "OwnSample | None" = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """Its instructions' ids in one text."""
        return " ".join(self.instructions)

    @property
    def base(self) -> str | None:
        """The prompt without its instructions; None where nobody knows it."""
        return None if self.asked is None or not isinstance(self.asked.base, str) else self.asked.base


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
    max_new_tokens: int = MAX_NEW_TOKENS

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([_described(s) for s in self.samples])

    def on(self, split: str) -> "IFEval":
        """One half of the samples: ``validation`` for choosing and making vectors, ``evaluation`` for reporting.

        Prompts that ask the same without their instructions are on one side.

        Raises:
            MechsteerError: for another split, or if a half would be empty.
        """
        return half(self, split, [s.prompt if s.base is None else s.base for s in self.samples])

    def of_kind(self, kind: str) -> "IFEval":
        """The samples that ask for exactly these instructions: an id, or several with a space between.

        Raises:
            MechsteerError: for a kind that none has.
        """
        return of_kind(self, kind)

    def prompts(self, model: Any, *, with_instruction: bool = True) -> list[Prompt]:
        """The prompt of every sample, with the span ``instruction`` where the file says where it stands.

        Args:
            model: A loaded model.
            with_instruction: False for the same prompts without their instructions.

        Raises:
            MechsteerError: naming the first prompt that cannot be made, or whose form without its instruction nobody
                knows.
        """
        return [_prompt(model, sample, with_instruction) for sample in self.samples]

    def pairs(self, model: Any) -> list[tuple[Prompt, Prompt]]:
        """Each prompt with and without its instructions, for :func:`mechsteer.difference_in_means`.

        Raises:
            MechsteerError: as :meth:`prompts`.
        """
        return list(zip(self.prompts(model), self.prompts(model, with_instruction=False), strict=True))

    def scores(self, sample: IFEvalPrompt, text: str) -> dict[str, bool | int]:
        """What :func:`check` says of an answer."""
        return check(sample, text)

    def ready(self) -> None:
        """See whether the checkers are there.

        Raises:
            MechsteerError: if the extra ``eval`` or nltk's data is missing.
        """
        require_checkers()

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample: sample, key, kind, prompt, output, and what :func:`check` gives.

        Raises:
            MechsteerError: before anything is generated, as :meth:`ready`.
        """
        self.ready()
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: IFEvalPrompt, made: Prompt, output: str) -> dict[str, Any]:
        row = {"key": sample.key, "kind": sample.kind, "prompt": sample.prompt, "output": output}
        return row | self.scores(sample, output)


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
        strict.append(_follows(utils.test_instruction_following_strict, example, text))
        loose.append(_follows(utils.test_instruction_following_loose, example, text))
    return strict, loose


def _follows(test: Callable[[Any, str], Any], example: Any, text: str) -> bool:
    """What a checker says; brackets in brackets beyond what JSON is read to, as a loop writes them, do not follow."""
    try:
        return bool(test(example, text).follow_all_instructions)
    except RecursionError:
        return False


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


def _prompt(model: Any, sample: IFEvalPrompt, with_instruction: bool) -> Prompt:
    if sample.asked is None:
        if with_instruction:
            return prompt(model, sample.prompt)
        raise MechsteerError(
            f"Prompt {sample.key}: nobody knows it without instruction; its line lacks 'prompt_without_instruction'."
        )
    try:
        return sample.asked.prompt(model, with_instruction=with_instruction)
    except MechsteerError as error:
        raise MechsteerError(f"Prompt {sample.key}: {error}") from None


def _described(sample: IFEvalPrompt) -> list[Any]:
    """All that decides its prompt and its scores, as JSON values."""
    plain = [sample.key, sample.prompt, list(sample.instructions), [dict(k) for k in sample.kwargs]]
    return plain if sample.asked is None else [*plain, sample.asked.described()]
