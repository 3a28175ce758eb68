"""Other ways to ask, without steering: what a method must be compared with.

The instruction in capitals, after everything else, said twice (at its place and at the end), with two worked examples
before it, and not at all.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from mechsteer.files import digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.answered import answered
from mechsteer.tasks.own_samples import OwnSample
from mechsteer.tasks.spans import change_tagged, untagged

if TYPE_CHECKING:
    import pandas as pd

Body = str | tuple[Mapping[str, Any], ...]
"""A text or messages."""

Example = tuple[str, str]
"""A worked example: what was asked, and an answer that follows the instruction."""


@dataclass(frozen=True)
class Question:
    """A prompt in its parts.

    Attributes:
        instruction: The instruction.
        context: What stands between instruction and question; may be empty.
        body: The question, without instruction and context.
        whole: Question and instruction in one, with the instruction in tags; None where it goes before the question.
    """

    instruction: str
    context: str
    body: Body
    whole: Body | None = None


def question_of(sample: Any) -> Question | None:
    """The parts of a sample; None where nobody knows them."""
    inner = getattr(sample, "asked", None)
    sample = inner if isinstance(inner, OwnSample) else sample  # IFEval's, where its file says where they are
    if not isinstance(sample, OwnSample):
        parts = [getattr(sample, name, None) for name in ("instruction", "context", "task")]
        return Question(*parts) if all(isinstance(part, str) for part in parts) and parts[0] else None  # type: ignore[arg-type]
    if isinstance(sample.asked, Prompt) or sample.base is None:
        return None
    if sample.instruction:
        body = sample.asked if isinstance(sample.asked, tuple) else untagged(sample.asked)
        return Question(untagged(sample.instruction), sample.context, body)
    said = " ".join(sample.instructions)
    return Question(said, sample.context, sample.base, sample.asked) if said else None


def capitals(q: Question) -> tuple[Body, str, str]:
    """The instruction in capitals, where it stands."""
    if q.whole is None:
        return q.body, q.instruction.upper(), q.context
    return _each(q.whole, lambda text: change_tagged(text, str.upper)), "", q.context


def last(q: Question) -> tuple[Body, str, str]:
    """The instruction after everything else."""
    return _after(q.body, q.instruction, q.whole), "", q.context


def repeated(q: Question) -> tuple[Body, str, str]:
    """The instruction where it stands, and once more after everything else."""
    if q.whole is None:
        return _after(q.body, f"Remember: {q.instruction}"), q.instruction, q.context
    return _after(q.whole, f"Remember: {untagged(q.instruction)}"), "", q.context


def uninstructed(q: Question) -> tuple[Body, str, str]:
    """Without the instruction."""
    return q.body, "", q.context


WORDINGS: Mapping[str, Callable[[Question], tuple[Body, str, str]]] = {
    "in capitals": capitals,
    "instruction last": last,
    "said twice": repeated,
}
"""Ways to ask, by name: of a question its text or messages, its instruction and its context."""


def _each(body: Body, change: Callable[[str], str]) -> Body:
    if isinstance(body, str):
        return change(body)
    return tuple({**turn, "content": change(str(turn["content"]))} for turn in body)


def _after(body: Body, text: str, whole: Body | None = None) -> Body:
    """With a text at the end of the question: of messages, of the user's last one, or as that where it is all of it."""
    if isinstance(body, str):
        return f"{body}\n\n{text}"
    place = max((i for i, turn in enumerate(body) if turn["role"] == "user"), default=None)
    answered = isinstance(whole, tuple) and whole[-1]["role"] == "user" and body[-1]["role"] == "assistant"
    if place is None or answered:
        return (*body, _turn("user", text))
    return tuple({**t, "content": f"{t['content']}\n\n{text}"} if i == place else t for i, t in enumerate(body))


@dataclass(frozen=True)
class Reworded:
    """A task asked in other words and scored as before.

    Attributes:
        name: Its name in result tables.
        task: The task that scores.
        samples: Its samples.
        asked: For each, a text or messages, the instruction before it and the context; both may be empty.
        examples: For each, worked examples before it; nothing at all where no sample has any.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    task: Any
    samples: tuple[Any, ...] = field(repr=False)
    asked: tuple[tuple[Body, str, str], ...] = field(repr=False)
    examples: tuple[tuple[Example, ...], ...] = ()
    max_new_tokens: int = 128

    @property
    def data_hash(self) -> str:
        """A hash of what is asked and of the task's own."""
        return digest([self.task.data_hash, self.asked, self.examples])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompts, with the spans that the new wording has."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The instruction .* is in the text as well")  # what saying it twice means
            return [
                _shown(model, body, instruction, context, shown)
                if shown
                else prompt(model, _given(body), instruction=instruction or None, context=context or None)
                for (body, instruction, context), shown in zip(self.asked, _examples(self), strict=True)
            ]

    def scores(self, sample: Any, text: str) -> dict[str, Any]:
        """What the task says of an answer."""
        return self.task.scores(sample, text)

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Answer, and score as the task does: sample, kind, prompt, output, and the scores."""
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Any, made: Prompt, output: str) -> dict[str, Any]:
        return {"kind": kind_of(sample), "prompt": made.text, "output": output} | self.scores(sample, output)


def _examples(one: Reworded) -> tuple[tuple[Example, ...], ...]:
    return one.examples or ((),) * len(one.asked)


def one_list(tasks: Sequence[Reworded]) -> Reworded:
    """Wordings of one task as one: all prompts of the first, then all of the second, and so on."""
    joined = [
        tuple(chain.from_iterable(parts))
        for parts in zip(*((t.samples, t.asked, _examples(t)) for t in tasks), strict=True)
    ]
    return replace(
        tasks[0], name=", ".join(t.name for t in tasks), samples=joined[0], asked=joined[1], examples=joined[2]
    )


def _shown(model: Any, body: Body, instruction: str, context: str, examples: Sequence[Example]) -> Prompt:
    """A prompt after worked examples: as turns where there is a chat template, else as text."""
    whole = "\n\n".join(part for part in (instruction, context, _plain(body)) if part)
    if getattr(model.tokenizer, "chat_template", None) is None:
        shown = "\n\n".join(f"{asked}\n\n{answer}" for asked, answer in examples)
        return prompt(model, f"{shown}\n\n{whole}")
    turns = [turn for asked, answer in examples for turn in (_turn("user", asked), _turn("assistant", answer))]
    if isinstance(body, str):
        return prompt(model, [*turns, _turn("user", whole)])
    system = [dict(turn) for turn in body if turn["role"] == "system"]
    return prompt(model, [*system, *turns, *(dict(turn) for turn in body if turn["role"] != "system")])


def _given(body: Body) -> Any:
    return body if isinstance(body, str) else [dict(turn) for turn in body]


def _plain(body: Body) -> str:
    return body if isinstance(body, str) else "\n\n".join(str(turn["content"]) for turn in body)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": untagged(content)}


def reworded(task: Any, name: str, ask: Callable[[Question], tuple[Body, str, str]]) -> Reworded | None:
    """The task asked in another way; None where the parts of its prompts are not known."""
    questions = [question_of(sample) for sample in task.samples]
    known = [q for q in questions if q is not None]
    if len(known) < len(questions) or not hasattr(task, "scores"):
        return None
    asked = tuple(ask(q) for q in known)
    return Reworded(f"{task.name}, {name}", task, tuple(task.samples), asked, (), task.max_new_tokens)


def with_examples(task: Any, examples: Mapping[str, Sequence[Example]]) -> Reworded | None:
    """The task with the worked examples of its kind before each prompt; None as for :func:`reworded`."""
    made = reworded(task, "two examples", _as_it_is)
    return None if made is None else replace(made, examples=tuple(tuple(examples[kind_of(s)]) for s in task.samples))


def kind_of(sample: Any) -> str:
    """The kind of a sample; empty where it has none."""
    return str(getattr(sample, "kind", ""))


def _as_it_is(q: Question) -> tuple[Body, str, str]:
    return (q.body, q.instruction, q.context) if q.whole is None else (q.whole, "", q.context)


def example_text(sample: Any) -> str:
    """What a worked example asks: instruction and question, without the context."""
    q = question_of(sample)
    if q is None:
        return ""
    parts = (q.instruction, _plain(q.body)) if q.whole is None else (_plain(q.whole),)
    return untagged("\n\n".join(part for part in parts if part))
