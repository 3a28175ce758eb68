"""Samples of one's own: from texts, messages and dicts to prompts with spans."""

import difflib
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from mechsteer.errors import MechsteerError, shown, whole_text
from mechsteer.identity import LEFT_OUT
from mechsteer.prompts import Prompt
from mechsteer.prompts import prompt as make_prompt
from mechsteer.prompts.tags import parse_tags
from mechsteer.tasks.checks import Spec
from mechsteer.tasks.spans import added, is_tagged, mark, standing, tagged, tagged_texts, untagged, without_tagged

TEXTS = ("instruction", "context", "base", "kind")
KNOWN = ("prompt", *TEXTS)


@dataclass(frozen=True)
class OwnSample:
    """One sample.

    Attributes:
        where: What it is called in errors: its number, or file and line.
        asked: The prompt: a text (the instruction in tags where it holds it), messages, or a finished prompt.
        instruction: An instruction that is not in the text; goes before it. Empty for none.
        context: A text between the two.
        base: The text without the instruction; None where nobody knows it.
        kind: Its group.
        given: What was given, for the check.
        check: A check of its own.
        marked: Whether the tags in the text are ours, not the user's.
    """

    where: str = field(metadata=LEFT_OUT)
    asked: str | tuple[Mapping[str, Any], ...] | Prompt
    instruction: str = ""
    context: str = ""
    base: str | tuple[Mapping[str, Any], ...] | None = None
    kind: str = ""
    given: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False, repr=False)
    check: Spec | None = None
    marked: bool = False

    @property
    def text(self) -> str:
        """The prompt as text, as a file of responses would have it: without tags, messages by their contents."""
        if isinstance(self.asked, Prompt):
            return self.asked.text
        if not isinstance(self.asked, str):
            return "\n\n".join(untagged(str(message["content"])) for message in self.asked)
        parts = (self.instruction, self.context, self.asked)
        return "\n\n".join(untagged(part) for part in parts if part)

    @property
    def instructions(self) -> list[str]:
        """What it is told to do: the text that goes before it, then the stretches that are in tags."""
        before = [self.instruction] if self.instruction else []
        if isinstance(self.asked, Prompt):
            return before
        parts = [self.asked] if isinstance(self.asked, str) else [str(turn["content"]) for turn in self.asked]
        return before + [text for part in parts for text in tagged_texts(part)]

    @property
    def asks(self) -> Any:
        """What it asks without its instruction: two samples of which that is equal ask the same."""
        if self.base is None:
            return self.text
        return [self.base, self.context] if self.context else self.base

    def described(self) -> list[Any]:
        """All that decides its prompt and its scores, as JSON values."""
        asked = self.asked
        if isinstance(asked, Prompt):
            asked = [asked.text, asked.tokens.tolist(), {k: list(v) for k, v in asked.spans.items()}]  # type: ignore[assignment]
        given = {key: value for key, value in self.given.items() if key not in KNOWN}
        arguments = {key: sorted(map(repr, value)) if isinstance(value, Set) else value for key, value in given.items()}
        return [asked, self.instruction, self.context, self.base, self.kind, arguments]

    def prompt(self, model: Any, *, with_instruction: bool = True) -> Prompt:
        """The prompt for a model, with its spans, or the same without its instruction.

        Raises:
            MechsteerError: if it cannot be made.
        """
        if with_instruction:
            return self._asked(model)
        if self.base is None and self.instructions:
            raise MechsteerError("nothing is left of this prompt without its instruction; give 'base'.")
        if self.base is None:
            raise MechsteerError(
                "nobody knows this prompt without its instruction; give 'instruction' or 'base', or mark the "
                "instruction with tags: <!!-> Answer in capitals. <-!!>."
            )
        if not isinstance(self.asked, Prompt) and not self.instructions:
            raise MechsteerError("this prompt says nothing beyond its 'base', so it has no instruction to leave out.")
        return make_prompt(model, _messages(self.base), context=self.context or None)

    def _asked(self, model: Any) -> Prompt:
        if isinstance(self.asked, Prompt):
            return self.asked
        made = make_prompt(
            model, _messages(self.asked), instruction=self.instruction or None, context=self.context or None
        )
        if self.marked:
            made = replace(made, spans={name: at for name, at in made.spans.items() if name != "level2"})
        return made


def _messages(value: Any) -> Any:
    return value if isinstance(value, str) else [dict(message) for message in value]


def read_sample(value: Any, where: str) -> OwnSample:
    """A sample of what was given.

    Raises:
        MechsteerError: for what is none; the message begins with ``where``.
    """

    def wrong(why: str) -> MechsteerError:
        return MechsteerError(f"{where}: {why}")

    row = dict(value) if isinstance(value, Mapping) else {"prompt": value}
    row = {name: cell for name, cell in row.items() if not _absent(cell)}
    if "prompt" not in row:
        close = [name for name in map(str, row) if name not in TEXTS and difflib.get_close_matches(name, KNOWN, 1, 0.7)]
        hint = f" Is {shown(close[0])} misspelt?" if close else f" It has {', '.join(map(shown, row)) or 'nothing'}."
        raise wrong(f"a sample needs 'prompt'.{hint}")
    for name in row:
        if isinstance(name, str) and name not in KNOWN and difflib.get_close_matches(name, KNOWN[:3], 1, 0.85):
            raise wrong(
                f"unknown name {shown(name)}; did you mean {difflib.get_close_matches(name, KNOWN[:3], 1)[0]!r}?"
            )
    texts = {name: row[name] for name in TEXTS if row.get(name) is not None}
    if isinstance(kind := texts.get("kind"), Real):  # a table numbers its groups, as 2.0 where some have none
        texts["kind"] = str(int(kind)) if isinstance(kind, Integral) else f"{float(kind):.15g}"
    for name, text in texts.items():
        if not isinstance(text, str) and not (name == "base" and is_conversation(text)):
            raise wrong(f"{name!r} must be a text, got {shown(text)}.")
        if isinstance(text, str):
            whole_text(f"{where}: {name!r}", text)
    texts = dict.fromkeys(TEXTS, "") | texts
    asked = row["prompt"]
    if isinstance(asked, Prompt):
        # An instruction that is nowhere in the prompt may have been cut off, which a diagnosis says.
        for name in ("instruction", "context"):
            lost = name == "instruction" and texts[name] not in asked.text
            if texts[name] and name not in asked.spans and not lost:
                raise wrong(
                    f"this prompt is finished, and has no span {name!r}: give it to ms.prompt(model, text, "
                    f"{name}={shown(texts[name])})."
                )
        return OwnSample(where, asked, base=row.get("base"), kind=texts["kind"], given=MappingProxyType(row))
    if not (isinstance(asked, str) and asked.strip()) and not is_conversation(asked):
        raise wrong(
            f"'prompt' must be a text that is not empty, or messages with role and content, got {shown(asked)}."
        )
    try:
        made = _with_spans(where, asked if isinstance(asked, str) else tuple(asked), texts, row.get("base"))
    except MechsteerError as error:
        raise wrong(str(error)) from None
    return replace(made, given=MappingProxyType(row))


def _absent(value: Any) -> bool:
    """Whether a value is how a table says that there is none: NaN, or pandas' own."""
    return (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, each with the texts ``role`` and ``content``."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return False
    wanted = ("role", "content")
    return all(isinstance(m, Mapping) and all(isinstance(m.get(key), str) for key in wanted) for m in value)


def _with_spans(where: str, asked: Any, texts: Mapping[str, Any], base: Any) -> OwnSample:
    """The sample with its instruction marked where it stands, and its form without."""
    instruction, context, kind = texts["instruction"].strip(), texts["context"], texts["kind"]
    base = tuple(base) if base is not None and not isinstance(base, str) else base
    for text in [asked] if isinstance(asked, str) else [turn["content"] for turn in asked]:
        parse_tags(text, None)  # refuses tags that are not closed
    if not isinstance(asked, str):
        return _of_messages(where, asked, instruction, context, base, kind)
    outside, marked = "" if standing(asked, instruction) else instruction, False
    if tagged_texts(asked):
        if instruction and not outside:
            raise MechsteerError("the instruction is given and marked with tags too; do one of them.")
        left = without_tagged(asked) if not outside else untagged(asked)
    elif instruction and not outside:
        asked = tagged(asked, instruction)
        left, marked = without_tagged(asked), True
    elif isinstance(base, str) and base.strip() and not instruction:
        asked, left, marked = _beyond(asked, base), base, True
    else:
        left = untagged(asked) if outside else ""
    return OwnSample(where, asked, outside, context, base or left or None, kind, marked=marked)


def _beyond(text: str, base: str) -> str:
    """The text with what it says beyond its base in tags.

    Raises:
        MechsteerError: for one with tags of another meaning, which would lie inside of these.
    """
    if is_tagged(text):
        raise MechsteerError(
            "beside the tags that are there, mark the instruction with tags too: 'base' cannot say it."
        )
    return mark(text, added(text, base))


def _of_messages(where: str, asked: Any, instruction: str, context: str, base: Any, kind: str) -> OwnSample:
    """Messages: the instruction is in one of them, or goes before the last one of the user."""
    turns = [dict(turn) for turn in asked]
    exact = any(standing(turn["content"], instruction, alike=False) for turn in turns)
    holding = [i for i, turn in enumerate(turns) if standing(turn["content"], instruction, alike=not exact)]
    marked = [i for i, turn in enumerate(turns) if tagged_texts(turn["content"])]
    if len(holding) > 1:
        raise MechsteerError(
            f"the instruction {shown(instruction)} stands in {len(holding)} messages; mark one with tags."
        )
    beyond = base is not None and not (instruction or marked) and _mark_beyond(turns, base)
    _hold(turns, context)
    left = [dict(turn) for turn in turns]
    for i in marked:
        left[i]["content"] = without_tagged(turns[i]["content"])
    ours = beyond or bool(holding and not marked)
    if holding and not marked:
        (place,) = holding
        turns[place]["content"] = tagged(turns[place]["content"], instruction)
        left[place]["content"] = without_tagged(turns[place]["content"])
    elif instruction and not holding:
        ours = not marked
        _before(turns, tagged(instruction, instruction))
    if isinstance(base, tuple):
        base = [dict(turn) for turn in base]
        _hold(base, context)
        base = tuple(base)
    known = bool(holding or marked or instruction)
    kept = tuple(turn for turn in left if turn["content"].strip())
    return OwnSample(where, tuple(turns), "", context, base or (kept if known else None), kind, marked=ours)


def _hold(turns: list[dict[str, Any]], context: str) -> None:
    """Let the messages hold the context, where they do not."""
    if context and not any(context in turn["content"] for turn in turns):
        _before(turns, context)


def _mark_beyond(turns: list[dict[str, Any]], base: Any) -> bool:
    """Mark what messages say beyond their base: in the turns that both have, word by word; the others are all of it."""
    theirs = [{"role": "user", "content": base}] if isinstance(base, str) else base
    roles = [[turn["role"] for turn in one] for one in (turns, theirs)]
    if isinstance(base, str):  # of a text, the last turn of the user
        roles[0] = ["user" if i == _last_user(turns) else "" for i in range(len(turns))]
    found = False
    for kind, start, end, first, _ in difflib.SequenceMatcher(None, *roles, autojunk=False).get_opcodes():
        for i in range(start, end):
            text = turns[i]["content"]
            if kind == "equal":
                turns[i]["content"] = _beyond(text, theirs[first + i - start]["content"])
            elif not isinstance(base, str):
                turns[i]["content"] = mark(text, [(0, len(text))])
            found = found or turns[i]["content"] != text
    return found


def _last_user(turns: Sequence[Mapping[str, Any]]) -> int | None:
    return max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=None)


def _before(turns: list[dict[str, Any]], text: str) -> None:
    """Put a part before the last message of the user."""
    place = _last_user(turns)
    if place is None:
        raise MechsteerError(f"no message of the user could hold {shown(untagged(text))}.")
    turns[place]["content"] = f"{text}\n\n{turns[place]['content']}"
