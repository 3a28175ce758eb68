"""Chat templates: turns to one text, and where in it each turn's content lies.

The template is rendered with a placeholder for each turn, which says what stands around the contents; the text itself
is the template's rendering of the contents, so that it is the one that Hugging Face's ``apply_chat_template`` makes.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mechsteer.errors import MechsteerError, nearest, shown
from mechsteer.prompts.rendering import apply_template
from mechsteer.prompts.vocabulary import specials

CharSpans = dict[str, list[tuple[int, int]]]
"""Name -> character ranges ``[start, end)``."""

OWN_ARGUMENTS = {"messages", "add_generation_prompt", "continue_final_message", "tokenize", "return_tensors",
                 "return_dict", "padding", "truncation", "max_length", "chat_template", "conversation"}  # fmt: skip
"""What ``apply_chat_template`` takes and mechsteer decides."""

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles that most templates know. Each has its own beside these, and many take whatever they are given."""

_OPEN, _CLOSE = "\ue000mechsteer", "\ue001"  # private-use characters: in no tokenizer's template
_MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")


@dataclass(frozen=True)
class Turn:
    """One message.

    Attributes:
        role: ``"system"``, ``"user"``, ``"assistant"`` or what else the template knows.
        content: Its text, tags taken out.
        spans: Character ranges in the content.
        other: The message's other keys, for the template.
    """

    role: str
    content: str
    spans: CharSpans = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendered:
    """A templated text.

    Attributes:
        text: The text.
        spans: Character ranges in it.
        answer_lead: What the template puts before an answer's first word; None where the text ends in no header, or the
            template does not say.
    """

    text: str
    spans: CharSpans
    answer_lead: str | None


def render(tokenizer: Any, turns: Sequence[Turn], arguments: Mapping[str, Any]) -> Rendered:
    """Put turns into the tokenizer's chat template; a last turn of the assistant is left open, to be continued.

    Raises:
        MechsteerError: for a template that fails, leaves out or rewrites a turn, for arguments that it does not have,
            or for turns that hold the template's own marks.
    """
    if arguments:
        check_arguments(tokenizer, arguments)
    continued = turns[-1].role == "assistant"
    slots = [f"{_OPEN}{place}{_CLOSE}" for place in range(len(turns))]
    frame = _apply(tokenizer, turns, slots, arguments, continued=continued)
    places = [frame.find(slot) for slot in slots]
    for turn, slot in zip(turns, slots, strict=True):
        if frame.count(slot) != 1:
            raise MechsteerError(
                f"This chat template does not hold the {turn.role}'s message exactly once; "
                + ("pass chat=False." if len(turns) == 1 else "leave it out, or write the text and pass chat=False.")
            )
    order = sorted(range(len(turns)), key=places.__getitem__)
    literals = re.split("|".join(map(re.escape, slots)), frame)
    _check_unmarked(tokenizer, turns, literals)
    text = _apply(tokenizer, turns, [turn.content for turn in turns], arguments, continued=continued)
    last = turns[-1].content
    if continued and not last.strip() and not text.endswith((literals[-2], literals[-2] + last)):
        raise MechsteerError("The assistant's last message is empty, and this chat template trims it: leave it out.")
    spans = _placed(text, [turns[place] for place in order], literals)
    return Rendered(text, spans, None if continued else _lead(tokenizer, turns, slots, arguments, frame))


def check_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the template does not read, or that a file could not record.

    Raises:
        MechsteerError: with the nearest name in the template.
    """
    source = str(tokenizer.chat_template)
    names = set(re.findall(r"[A-Za-z_]\w*", source))
    for name, value in arguments.items():
        if not isinstance(name, str) or name in OWN_ARGUMENTS:
            raise MechsteerError(f"{name!r} is no argument of a chat template that can be set here.")
        if name not in names:
            close = nearest(name, {other for other in names if len(other) > 3})
            hint = close if "Did you mean" in close else ""
            raise MechsteerError(f"This chat template has no argument {name!r}.{hint}")
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise MechsteerError(f"The template argument {name!r} must be plain data, got {shown(value)}.") from None


def check_role(tokenizer: Any, role: str) -> None:
    """Refuse a role that is likely misspelt: nearly one of :data:`ROLES`, and not named in the template.

    A role that is like none of them is left to the template, for models are trained with roles of their own.

    Raises:
        MechsteerError: with the nearest role.
    """
    if role in ROLES or re.search(rf"""(["']){re.escape(role)}\1""", str(tokenizer.chat_template)):
        return
    if close := difflib.get_close_matches(role.strip().lower(), ROLES, n=1, cutoff=0.75):
        raise MechsteerError(
            f"Unknown role {shown(role)}, which the chat template does not name. Did you mean {close[0]!r}?"
        )


def _apply(
    tokenizer: Any, turns: Sequence[Turn], contents: Sequence[str], arguments: Mapping[str, Any], *, continued: bool
) -> str:
    messages = [
        {**turn.other, "role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)
    ]
    try:
        return apply_template(
            tokenizer, messages, add_generation_prompt=not continued, continue_final_message=continued, **arguments
        )
    except MechsteerError as error:
        roles = " and ".join(dict.fromkeys(turn.role for turn in turns))
        raise MechsteerError(f"This chat template refuses {roles} messages: {error}.") from error


def _placed(text: str, turns: Sequence[Turn], literals: Sequence[str]) -> CharSpans:
    """The turns' spans in the whole text. A template may strip the ends of a content; nothing else.

    Raises:
        MechsteerError: if it does more than that.
    """
    spans: CharSpans = {}
    position = len(literals[0])
    ok = text.startswith(literals[0])
    for turn, literal in zip(turns, literals[1:], strict=True):
        content = turn.content
        forms = [content, content.strip(), content.lstrip(), content.rstrip()]
        form = next((one for one in forms if text.startswith(one + literal, position)), None)
        if not ok or form is None:
            raise MechsteerError(
                f"This chat template rewrites the {turn.role}'s message, so that spans would be lost; pass chat=False."
            )
        start = position if content.startswith(form) else position - (len(content) - len(content.lstrip()))
        for name, ranges in turn.spans.items():
            kept = [trimmed(content, a, b) for a, b in ranges]
            spans.setdefault(name, []).extend((start + a, start + b) for a, b in kept)
        position += len(form) + len(literal)
    if position != len(text):
        raise MechsteerError("This chat template writes another text for other messages; pass chat=False.")
    return spans


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A character range without the white space at its ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _lead(
    tokenizer: Any, turns: Sequence[Turn], slots: Sequence[str], arguments: Mapping[str, Any], frame: str
) -> str | None:
    """The spaces that the template puts between its header and an answer: most have none, Llama 2's one.

    None where the template does not say: it writes no answers, or no header.
    """
    answer = f"{_OPEN}answer{_CLOSE}"
    try:
        whole = _apply(tokenizer, [*turns, Turn("assistant", "")], [*slots, answer], arguments, continued=True)
    except MechsteerError:
        return None
    before, written, _ = whole.partition(answer)
    between = before.removeprefix(frame)
    return between if written and before.startswith(frame) and not between.strip(" ") else None


def _check_unmarked(tokenizer: Any, turns: Sequence[Turn], literals: Sequence[str]) -> None:
    """Refuse turns that hold what the template itself writes: it would be there twice, and mean another turn.

    Marks are the special tokens and the words in brackets around the turns; where a template has none, its text before
    and after a turn, both of them.

    Raises:
        MechsteerError: with the mark and the fix.
    """
    around = "\n".join(literals)
    ends_of_text = (tokenizer.bos_token, tokenizer.eos_token)
    marks = {token for token in specials(tokenizer) if token in around or token in ends_of_text} | set(
        _MARK.findall(around)
    )
    ends = [lines[-1] if (lines := literals[0].split("\n")) else "", literals[-1]]
    before, after = (re.escape(end.strip()) for end in ends)
    plain = re.compile(f"{before}.*{after}", re.DOTALL) if before and after else None
    for turn in turns:
        held = sorted((mark for mark in marks if mark in turn.content), key=turn.content.find)
        if plain is not None and not held and plain.search(turn.content):
            held = [ends[0].strip()]
        if held:
            raise MechsteerError(
                f"The {turn.role}'s message already holds {held[0]!r}, a mark of the chat template: make it a prompt "
                "with chat=False, which takes a text as it is, or give the turns as messages."
            )
