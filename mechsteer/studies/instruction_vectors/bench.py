"""What the study :mod:`mechsteer.studies.instruction_vectors` measures on: its prompts, and cells computed once."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.quality import LOW_PERPLEXITY, MUCH_REPEATED, perplexities, repeated_share
from mechsteer.decoding import score
from mechsteer.directions import Direction, differences_in_means
from mechsteer.errors import MechsteerError
from mechsteer.identity import cell_key
from mechsteer.models.checkpoint.resolve import checkpoint_digest
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention
from mechsteer.studies.core import bench as bench_of_studies
from mechsteer.studies.core.cells import cell
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import Instructed, Instructions, instructions
from mechsteer.tasks.splits import check_disjoint

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("upper", "lower", "list", "json", "french")
"""Kinds that are steered by projection; ``length`` and ``keyword`` are by addition."""

FEW = 8
"""With fewer pairs than this to estimate a vector from, a warning says how many there are."""


@dataclass(frozen=True)
class Setting:
    """Whether prompts have their instruction, and after how many notes the question comes."""

    name: str
    instructed: bool
    notes: int = 0


WITHOUT = Setting("without instruction", False)
WITH = Setting("with instruction", True)


@dataclass(frozen=True)
class Prompts:
    """The prompts of the study.

    Of each kind's validation prompts the first ``n_validation`` choose the layer; vectors come from the others.

    Attributes:
        validation: For choosing; None for the bundled split.
        test: For reporting; None for the bundled split.
        n: The most test prompts of a kind.
        n_validation: Validation prompts of a kind that choose the layer.
        notes: Notes in the third setting, which only the bundled prompts have; 0 for none.
    """

    validation: Instructions | None = None
    test: Instructions | None = None
    n: int = 28
    n_validation: int = 8
    notes: int = 24

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Without the instruction, with it, and with it before many notes."""
        if self.validation is not None or not self.notes:
            return WITHOUT, WITH
        return WITHOUT, WITH, Setting(f"with instruction, {self.notes} notes", True, self.notes)

    def tested(self, kind: str, setting: Setting = WITHOUT) -> Instructions:
        """The test prompts of a kind."""
        return _part(_task(self.test, "evaluation", kind, setting), 0, self.n)

    def validated(self, kind: str, setting: Setting = WITHOUT) -> Instructions:
        """The prompts of a kind that choose its layer."""
        return _part(_task(self.validation, "validation", kind, setting), 0, self.n_validation)

    def estimated(self, kind: str) -> Instructions:
        """The prompts of a kind that its vector comes from."""
        return _part(_task(self.validation, "validation", kind, WITH), self.n_validation, None)

    def check(self, kinds: Sequence[str]) -> None:
        """Refuse splits that overlap and kinds with too few prompts; warn of kinds with few.

        Raises:
            MechsteerError: with the numbers.
        """
        for kind in kinds:
            found = [len(t.samples) for t in (self.estimated(kind), self.validated(kind), self.tested(kind))]
            if found[0] < 2 or not all(found):
                raise MechsteerError(
                    f"Too few prompts of the kind {kind!r}: {found[0]} for its vector (at least 2), {found[1]} to "
                    f"choose its layer and {found[2]} to test it (at least 1 each)."
                )
            if found[0] < FEW:
                warnings.warn(
                    f"The vector of {kind!r} comes from {found[0]} pairs only; fewer than {FEW} make it noisy.",
                    stacklevel=2,
                )
        check_disjoint(self._all("validation", kinds), self._all("evaluation", kinds))

    def _all(self, split: str, kinds: Sequence[str]) -> Instructions:
        return (self.validation if split == "validation" else self.test) or instructions(kinds, split=split)


def _task(given: Instructions | None, split: str, kind: str, setting: Setting) -> Instructions:
    if given is None:
        return instructions(kind, notes=setting.notes, with_instruction=setting.instructed, split=split)
    samples = tuple(sample for sample in given.samples if sample.kind == kind)
    return replace(given, name=f"{given.name}[{kind}]", samples=samples, with_instruction=setting.instructed)


def _part(task: Instructions, start: int, stop: int | None) -> Instructions:
    return replace(task, samples=task.samples[start:stop])


@dataclass(frozen=True)
class Filter:
    """What makes an output bad.

    Attributes:
        perplexity_model: A second language model; None for the filter that needs none.
        threshold: Bad below this perplexity; without a model, bad above this :func:`repeated_share`.
    """

    perplexity_model: str | None = None
    threshold: float = MUCH_REPEATED

    @classmethod
    def by(cls, perplexity_model: str | None) -> "Filter":
        """The filter with its usual threshold."""
        return cls(perplexity_model, MUCH_REPEATED if perplexity_model is None else LOW_PERPLEXITY)


@dataclass
class Bench:
    """A model to measure, and where what was measured lies."""

    model: Any
    folder: Path
    batch_size: int
    bar: Any
    bad: Filter = field(default_factory=Filter)
    scope: str = "all"
    executor: Executor | None = None

    @property
    def cells(self) -> bench_of_studies.Bench:
        """The bench of all studies, which keeps cells and directions."""
        return bench_of_studies.Bench(self.model, self.folder, self.batch_size, self.bar, self.executor)

    def prefetch(self, task: Any, steers: Iterable[Any]) -> None:
        """Compute in workers what will be measured."""
        self.cells.prefetch(bench_of_studies.Wanted(task, steer) for steer in steers)

    def measure(self, task: Instructions, steer: Intervention | None = None) -> "pd.DataFrame":
        """Sample rows of a task under an intervention, with the columns ``bad`` and ``topic``."""
        table = self.cells.evaluate(task, steer if steer is not None and steer.edits else None)
        topics = [sample.topic for sample in task.samples]
        return table.assign(bad=self._bad(table["output"].tolist()), topic=topics)

    def _bad(self, outputs: list[str]) -> list[bool]:
        name = self.bad.perplexity_model
        if name is None:
            return [repeated_share(text) > self.bad.threshold for text in outputs]
        import pandas as pd

        key = cell_key(None, outputs, options={"perplexity": checkpoint_digest(name)})
        table = cell(self.folder, key, lambda: pd.DataFrame({"perplexity": perplexities(name, outputs)}))
        return (table["perplexity"] < self.bad.threshold).tolist()

    def vectors(self, name: str, pairs: Sequence[tuple[Prompt, Prompt]], layers: Sequence[int]) -> dict[int, Direction]:
        """Differences in means at some layers, read from ``folder/directions`` where they were made before."""
        return self.cells.directions(
            name, layers, pairs, lambda layers: differences_in_means(self.model, pairs, layers=layers)
        )

    def pairs(self, samples: Sequence[Instructed]) -> list[tuple[Prompt, Prompt]]:
        """Each sample's prompt with and without its instruction."""
        task = Instructions("pairs", tuple(samples))
        both = (task.prompts(self.model, with_instruction=wanted) for wanted in (True, False))
        return list(zip(*both, strict=True))

    def surprise(self, task: Instructions, outputs: Sequence[str]) -> list[float]:
        """Mean negative log-probability of each output's tokens, under the unsteered model given the instruction.

        NaN for outputs without tokens.
        """
        import pandas as pd

        key = cell_key(self.model, task, options={"surprise": outputs})

        def compute() -> "pd.DataFrame":
            counts = [len(self.model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in outputs]
            prompts = task.prompts(self.model, with_instruction=True)
            texts = [text if count else "." for text, count in zip(outputs, counts, strict=True)]
            logprobs = score(self.model, prompts, texts, batch_size=self.batch_size).tolist()
            values = [-p / count if count else math.nan for p, count in zip(logprobs, counts, strict=True)]
            return pd.DataFrame({"surprise": values})

        return cell(self.folder, key, compute)["surprise"].tolist()
