"""What is diagnosed: each prompt with and without its instruction, and whether the model can read it whole."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mechsteer.diagnosis.editing import without_span
from mechsteer.errors import MechsteerError, file_as_task, shown
from mechsteer.models import check_model, is_encoder_decoder
from mechsteer.prompts import Prompt
from mechsteer.prompts.making import token_ranges
from mechsteer.tasks.spans import standing, untagged

SPAN = "instruction"

UNMARKED = "no instruction is marked in them"
NO_ROOM = "the context has no room behind them for the most new tokens, so give a smaller max_new_tokens"
NOT_CUT = (UNMARKED, NO_ROOM)
"""Why prompts are left out whose instruction is not missing."""


@dataclass(frozen=True)
class Case:
    """One prompt.

    Attributes:
        number: Its place in the task.
        prompt: With the instruction, as the task has it.
        without: Without; None where it cannot be made.
        missing: Why the model cannot read the instruction in it; empty where it can.
    """

    number: int
    prompt: Prompt
    without: Prompt | None
    missing: str = ""


@dataclass(frozen=True)
class Cases:
    """A task's prompts.

    Attributes:
        task: The task.
        all: Every prompt.
        max_new_tokens: The most new tokens for an answer.
    """

    task: Any
    all: tuple[Case, ...]
    max_new_tokens: int

    @property
    def readable(self) -> tuple[Case, ...]:
        """Those whose instruction the model can read."""
        return tuple(case for case in self.all if not case.missing)

    def score(self, number: int, text: str) -> dict[str, Any]:
        """What the task's check says of an answer to one of its prompts."""
        return self.task.scores(self.task.samples[number], text)


def cases_of(model: Any, task: Any) -> Cases:
    """The prompts of a task.

    Raises:
        MechsteerError: for what is no such task, or one whose prompts have no instruction.
    """
    check_model(model)
    if not all(hasattr(task, name) for name in ("prompts", "scores", "samples", "data_hash", "max_new_tokens")):
        raise MechsteerError(
            f"diagnose needs a task with an instruction in its prompts and a check of answers, e.g. ms.task(...), got "
            f"{shown(task)}.{file_as_task(task)}"
        )
    if not task.samples:
        raise MechsteerError(f"The task {task.name!r} has no samples.")
    if hasattr(task, "ready"):
        task.ready()
    found = [
        Case(number, prompt, _without(model, task, number, prompt), _missing(model, task, number, prompt))
        for number, prompt in enumerate(_prompts(model, task))
    ]
    if all(SPAN not in case.prompt.spans and not _told(task, case.number) for case in found):
        raise MechsteerError(
            f"No prompt of {task.name!r} has an instruction that is marked: give 'instruction' or 'base', or put it "
            "between <!!-> and <-!!>."
        )
    return Cases(task, tuple(found), task.max_new_tokens)


def _prompts(model: Any, task: Any) -> list[Prompt]:
    """Its prompts, with the instruction marked where a sample says what it is and its prompt does not say where."""
    made = []
    for number, prompt in enumerate(task.prompts(model)):
        places = [] if SPAN in prompt.spans else standing(prompt.text, _told(task, number))
        whole = [(start, _past_marks(prompt.text, end)) for start, end in places]
        spans = {SPAN: token_ranges(whole, prompt.offsets)} if places else {}
        made.append(replace(prompt, spans={**prompt.spans, **spans}) if spans.get(SPAN) else prompt)
    return made


def _past_marks(text: str, end: int) -> int:
    """Behind the colon or full stop that ends an instruction, which nothing else needs."""
    return end + len(text[end:]) - len(text[end:].lstrip(":;,.!"))


def _without(model: Any, task: Any, number: int, prompt: Prompt) -> Prompt | None:
    """The prompt without its instruction: the task's, else the same text with it cut out."""
    alone = replace(task, samples=(task.samples[number],))
    makers: list[Callable[[], Prompt]] = [lambda: without_span(model, prompt, SPAN)]
    if "with_instruction" in inspect.signature(task.prompts).parameters:
        makers.insert(0, lambda: alone.prompts(model, with_instruction=False)[0])
    for make in makers:
        try:
            return make()
        except MechsteerError:
            continue
    return None


def _told(task: Any, number: int) -> str:
    """The instruction as the sample was given it, where it was."""
    given = getattr(task.samples[number], "given", {})
    text = given.get(SPAN) or getattr(task.samples[number], SPAN, "")
    return untagged(text).strip() if isinstance(text, str) else ""


def _missing(model: Any, task: Any, number: int, prompt: Prompt) -> str:
    told = _told(task, number)
    if SPAN not in prompt.spans or not prompt.spans[SPAN]:
        return "the instruction is not in the prompt" if told else UNMARKED
    start = min(a for a, _ in prompt.spans[SPAN])
    end = max(b for _, b in prompt.spans[SPAN])
    if start < 0 or end > len(prompt) or (told and not standing(prompt.text, told)):
        return "the instruction is not whole in the prompt"
    if is_encoder_decoder(model) or len(prompt) + task.max_new_tokens <= model.cfg.n_ctx:
        return ""
    return (
        NO_ROOM if len(prompt) <= model.cfg.n_ctx else f"{len(prompt)} tokens exceed the context of {model.cfg.n_ctx}"
    )
