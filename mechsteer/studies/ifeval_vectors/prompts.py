"""Which prompts a vector comes from, and which it is chosen and reported on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mechsteer.errors import listed, one_of
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks import IFEval, IFEvalPrompt
from mechsteer.tasks.ifeval.arguments import ARGUMENTS

FORMATS = (
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "detectable_format:constrained_response",
    "detectable_format:json_format",
    "detectable_format:multiple_sections",
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
    "detectable_format:title",
    "language:response_language",
    "punctuation:no_comma",
    "startend:end_checker",
    "startend:quotation",
)
"""The paper's format instructions; each language has a vector of its own."""

EXCLUDED = "keywords:forbidden_words"
"""Words to leave out, which have a vector each."""

Pairs = list[tuple[Prompt, Prompt]]


def kinds_of(sample: IFEvalPrompt) -> list[str]:
    """What a prompt asks for, one vector each: instructions, languages told apart."""
    return [
        f"{name}:{arguments['language']}" if arguments.get("language") else name
        for name, arguments in zip(sample.instructions, sample.kwargs, strict=True)
    ]


def instruction_of(sample: IFEvalPrompt) -> str:
    """The words of its instruction."""
    assert sample.asked is not None
    return " ".join(sample.asked.instructions)


def of_kind(task: IFEval, kind: str) -> IFEval:
    """The prompts that ask for this alone."""
    return replace(task, samples=tuple(s for s in task.samples if kinds_of(s) == [kind]))


def together(task: IFEval) -> dict[tuple[str, ...], IFEval]:
    """The prompts with more than one instruction, those that ask for the same kinds together."""
    found: dict[tuple[str, ...], list[IFEvalPrompt]] = {}
    for sample in task.samples:
        if len(sample.instructions) > 1:
            found.setdefault(tuple(kinds_of(sample)), []).append(sample)
    return {kinds: replace(task, samples=tuple(samples)) for kinds, samples in found.items()}


def without_instruction(task: IFEval) -> IFEval:
    """The same prompts without their instruction; the answers are still scored by it."""

    def bare(sample: IFEvalPrompt) -> IFEvalPrompt:
        assert sample.asked is not None
        return replace(sample, asked=replace(sample.asked, asked=sample.base or "", instruction="", marked=False))

    return replace(task, name=f"{task.name}, without instruction", samples=tuple(map(bare, task.samples)))


def excluded_words(sample: IFEvalPrompt) -> list[str]:
    """The words that a prompt asks to leave out, each once."""
    asked = zip(sample.instructions, sample.kwargs, strict=True)
    return list(dict.fromkeys(word for name, kwargs in asked if name == EXCLUDED for word in kwargs["forbidden_words"]))


def validated(task: IFEval, kind: str, count: int) -> IFEval:
    """The prompts that a kind's layer is chosen on: those that ask for it alone.

    Where no prompt asks to leave words out alone, as in the paper's file of two instructions: those that ask for it
    beside others.
    """
    chosen = of_kind(task, kind)
    if kind == EXCLUDED and not chosen.samples:
        chosen = replace(task, samples=tuple(s for s in task.samples if kind in s.instructions))
    return replace(chosen, samples=chosen.samples[:count])


def pairs(model: Any, task: IFEval, kind: str, count: int) -> Pairs:
    """Questions with and without an instruction of a kind, which was never their own, as in the paper.

    Args:
        model: A loaded model.
        task: The prompts that may be used.
        kind: The kind.
        count: The most pairs. Wordings of the instruction are used in turn.
    """
    wordings = [instruction_of(sample) for sample in of_kind(task, kind).samples]
    others = [sample.base for sample in task.samples if kind not in kinds_of(sample) and sample.base]
    questions = list(dict.fromkeys(others))[:count]
    if not wordings:
        return []
    return [
        (prompt(model, f"{question} {wordings[place % len(wordings)]}"), prompt(model, question))
        for place, question in enumerate(questions)
    ]


def kinds_in(task: IFEval, kinds: str | Sequence[str] | None) -> list[str]:
    """The kinds that get vectors, of some instructions (default: the paper's formats and words to leave out), in order.

    Those that prompts ask for alone; and words to leave out, whose vectors come from the words.

    Raises:
        MechsteerError: for an instruction that IFEval does not have.
    """
    wanted = (*FORMATS, EXCLUDED)
    if kinds is not None:
        given = [kinds] if isinstance(kinds, str) else listed("kinds", kinds)
        wanted = tuple(one_of("kind", kind, ARGUMENTS) for kind in given)
    alone = [kinds_of(s)[0] for s in task.samples if len(s.instructions) == 1 and s.instructions[0] in wanted]
    words = [EXCLUDED for s in task.samples if EXCLUDED in wanted and EXCLUDED in s.instructions]
    return sorted({*alone, *words})
