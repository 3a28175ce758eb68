"""``ms.task``: one's own prompts and instruction, with a check of the answers.

    task = ms.task([{"prompt": "Why is the sky blue?", "instruction": "Answer in one sentence."}], check="sentences:1")
    rows = ms.evaluate(model, task, steer=ms.attention_bias(delta=1.0))

A sample is a text (GUIDE's tags may mark its instruction), a list of messages, a :class:`mechsteer.Prompt`, or a dict
(in a JSONL or CSV file: a line) with

- ``prompt``: a text or messages. It may hold the instruction.
- ``instruction``: where the prompt holds it, once, it is marked there (whatever its case, white space and quotation
  marks); otherwise it goes before the prompt.
- ``context``: a text between instruction and prompt.
- ``base``: the prompt without its instruction. Default: what is left when the marked instruction is taken out. Where
  there is no ``instruction``, it is what ``prompt`` says beyond ``base``.
- ``kind``: a group, a column of the results.
- ``check``: the name of a check, where :func:`task` is given none.
- anything else: arguments of the check.

Scores: ``adherence``, what the check gave; of a check that gives a dict, its names.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, positive_int, shown, whole_text
from mechsteer.files import digest, printable
from mechsteer.identity import LEFT_OUT
from mechsteer.prompts import Prompt
from mechsteer.tasks.answered import answered
from mechsteer.tasks.check_identity import identity_of
from mechsteer.tasks.checks import Scores, Spec, spec
from mechsteer.tasks.own_samples import OwnSample, read_sample
from mechsteer.tasks.sample_files import read_samples
from mechsteer.tasks.splits import half, of_kind

if TYPE_CHECKING:
    import pandas as pd

MAX_NEW_TOKENS = 128

RESERVED = {"sample", "kind", "prompt", "output", "name", "task", "method", "site", "scope", "strength", "strategy"}
RESERVED |= {"seed", "data_hash", "generation_config", "n_tokens", "truncated", "empty", "repetition", "copied"}
RESERVED |= {"compressibility", "changed", "surprise", "surprise_p95", "surprise_excess", "collapsed"}
RESERVED |= {"collapse_reason", "model_name", "model_family", "model_revision", "model_fingerprint", "model_dtype"}
RESERVED |= {"version_mechsteer", "version_torch", "version_transformers", "version_transformer_lens"}
"""Columns of result tables that no score may be called by."""

Check = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True)
class OwnTask:
    """The task.

    Attributes:
        name: Its name in result tables.
        samples: The prompts.
        check: A :class:`mechsteer.tasks.checks.Spec` or a function; None where each sample has its own.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    samples: tuple[OwnSample, ...] = field(repr=False)
    check: Spec | Check | None = field(metadata=LEFT_OUT)  # the data's hash says which it is, whatever it holds
    max_new_tokens: int = MAX_NEW_TOKENS

    def __repr__(self) -> str:
        own = ", ".join(dict.fromkeys(str(sample.check) for sample in self.samples if sample.check is not None))
        check = f"of each sample ({shown(own)[1:-1]})" if own else repr(self.check)
        return f"OwnTask(name={self.name!r}, check={check}, max_new_tokens={self.max_new_tokens})"

    @property
    def data_hash(self) -> str:
        """A hash of samples and check (of a function see :mod:`mechsteer.tasks.check_identity`)."""
        named = self.check is None or isinstance(self.check, Spec)
        check = str(self.check) if named else identity_of(self.check)
        return digest([[s.described() for s in self.samples], check])

    def on(self, split: str) -> "OwnTask":
        """One half of the samples: ``validation`` for choosing and making vectors, ``evaluation`` for reporting.

        Samples that ask the same without their instruction are on one side, whatever their order.

        Raises:
            MechsteerError: for another split, or if a half would be empty.
        """
        return half(self, split, [s.asks for s in self.samples])

    def of_kind(self, kind: str) -> "OwnTask":
        """The samples of one kind.

        Raises:
            MechsteerError: for a kind that none has.
        """
        return of_kind(self, kind)

    def prompts(self, model: Any, *, with_instruction: bool = True) -> list[Prompt]:
        """The prompt of every sample, with the spans ``instruction``, ``context`` and ``task`` where they are there.

        Args:
            model: A loaded model.
            with_instruction: False for the same prompts without their instructions.

        Raises:
            MechsteerError: naming the first sample that cannot be made, or has no form without an instruction.
        """
        return [_named(s, lambda s=s: s.prompt(model, with_instruction=with_instruction)) for s in self.samples]

    def pairs(self, model: Any) -> list[tuple[Prompt, Prompt]]:
        """Each prompt with and without its instruction, for :func:`mechsteer.difference_in_means`.

        Raises:
            MechsteerError: as :meth:`prompts`.
        """
        return list(zip(self.prompts(model), self.prompts(model, with_instruction=False), strict=True))

    def scores(self, sample: OwnSample, text: str) -> dict[str, bool | float]:
        """What the check says of an answer, by name.

        Raises:
            MechsteerError: for a check that fails, or gives something else than a truth value, a finite number or a
                dict of them; with the sample.
        """
        check = sample.check or self.check
        try:
            if isinstance(check, Spec):
                found = check.check(text, sample.given, sample.instructions)
            else:
                found = check(text, dict(sample.given))  # type: ignore[misc]
        except MechsteerError:
            raise
        except Exception as error:
            raise MechsteerError(f"{sample.where}: the check failed on {shown(text)}: {shown(error)}.") from error
        return _scores(sample, found)

    def ready(self) -> None:
        """See whether what its checks need is installed, before anything is generated.

        Raises:
            MechsteerError: if something is missing.
        """
        used = [sample.check or self.check for sample in self.samples]
        for check in dict.fromkeys(one for one in used if isinstance(one, Spec)):
            check.ready()

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does: sample, kind, prompt, output, and the scores."""
        self.ready()
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: OwnSample, made: Prompt, output: str) -> dict[str, Any]:
        return {"kind": sample.kind, "prompt": made.text, "output": output} | self.scores(sample, output)


def task(
    samples: str | os.PathLike[str] | Iterable[Any],
    check: str | Check | None = None,
    *,
    name: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> OwnTask:
    """A task of one's own; it goes wherever a bundled one goes.

    Args:
        samples: A JSONL or CSV file, a pandas table with the column ``prompt``, or prompts, texts, messages or dicts;
            see the top of this module. A value that is NaN is absent.
        check: ``check(text, sample)`` gives a truth value, a finite number or a dict of them (``sample`` is the dict
            that was given, or one with its ``prompt``); or the name of a check, see :mod:`mechsteer.tasks.checks`.
            None: each sample names its own.
        name: Its name in result tables. Default: the file's name, or the check's.
        max_new_tokens: The most new tokens for an answer.

    Raises:
        MechsteerError: for a file or sample that cannot be read, with its line or number, no samples, or an unknown
            check or one that lacks an argument; before anything is generated.

    Example:
        >>> samples = [{"prompt": "Tell me about the writer.", "instruction": "Use only uppercase letters."}]
        >>> task = ms.task(samples, check="uppercase")
    """
    positive_int("max_new_tokens", max_new_tokens)
    if isinstance(samples, str | os.PathLike):
        read, default = read_samples(samples), printable(os.path.basename(os.fspath(samples)))  # noqa: PTH119
    else:
        if type(samples).__module__.startswith("pandas") and hasattr(samples, "columns"):
            samples = samples.to_dict("records")  # type: ignore[union-attr]  # a table, by row
        if isinstance(samples, Prompt | Mapping | bytes) or not isinstance(samples, Iterable):
            raise MechsteerError(f"samples must be a list of prompts or a file's name, got {type(samples).__name__}.")
        read = [read_sample(one, f"Sample {number}") for number, one in enumerate(samples)]
        default = ""
    if not read:
        raise MechsteerError("A task needs samples, got none.")
    chosen = spec(check) if isinstance(check, str) else check
    made = [_with_check(sample, chosen) for sample in read]
    if callable(chosen):
        _look(chosen, made[0])
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise MechsteerError(f"name must be a text, got {name!r}.")
    whole_text("name", name or "")
    named = name or default or (str(chosen) if isinstance(chosen, Spec) else getattr(chosen, "__name__", "own task"))
    return OwnTask(named, tuple(made), chosen, max_new_tokens)


def _with_check(sample: OwnSample, check: Any) -> OwnSample:
    """The sample with the check of its own, where the task has none; its arguments are looked at."""
    if check is None:
        own = sample.given.get("check")
        if not isinstance(own, str):
            raise MechsteerError(f"{sample.where} names no check; give check=..., e.g. check='lowercase', for all.")
        sample = replace(sample, check=_named(sample, lambda: spec(own)))
    using = sample.check or check
    if isinstance(using, Spec):
        _named(sample, lambda: using.look(sample.given))
    elif not callable(using):
        raise MechsteerError(f"check must be a name or a function of (text, sample), got {using!r}.")
    return sample


def _look(check: Check, first: OwnSample) -> None:
    """Refuse a function that cannot be called with a text and a sample."""
    try:
        inspect.signature(check).bind("", {})
    except TypeError:
        raise MechsteerError(
            f"check must take an answer and its sample, e.g. lambda text, sample: text.islower(), got {check!r}."
        ) from None
    except ValueError:  # a builtin that does not say what it takes
        pass


def _named(sample: OwnSample, make: Callable[[], Any]) -> Any:
    """What ``make`` gives; its error with the sample's name."""
    try:
        return make()
    except MechsteerError as error:
        raise MechsteerError(f"{sample.where}: {error}") from None


def _scores(sample: OwnSample, found: Scores | Any) -> dict[str, bool | float]:
    named: dict[Any, Any] = dict(found) if isinstance(found, Mapping) else {"adherence": found}
    made: dict[str, bool | float] = {}
    for name, value in named.items():
        plain: Any = value.item() if getattr(value, "ndim", None) == 0 else value  # numpy's and torch's numbers
        if not isinstance(name, str) or not isinstance(plain, bool | int | float):
            raise MechsteerError(
                f"{sample.where}: a check gives True or False, a number, or a dict of them by name, got {found!r}."
            )
        if not _is_finite(plain):
            raise MechsteerError(f"{sample.where}: the check's score {name!r} must be finite, got {shown(plain)}.")
        made[name] = plain if isinstance(plain, bool) else float(plain)
    taken = sorted(set(made) & RESERVED)
    if not made or taken:
        why = (
            f"{', '.join(taken)} {'is a column' if len(taken) == 1 else 'are columns'} of every result" if taken else ""
        )
        raise MechsteerError(f"{sample.where}: the check's scores need names of their own: {why or 'there are none'}.")
    return made


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
