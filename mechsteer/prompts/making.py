"""``prompt``: a text, or the turns of a conversation, with named spans."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mechsteer.errors import MechsteerError, listed, not_a_model, one_of, shown
from mechsteer.prompts.offsets import encode, has_offsets
from mechsteer.prompts.record import Messages, Prompt
from mechsteer.prompts.tags import Pieces, parse_tags
from mechsteer.prompts.templates import Rendered, Turn, check_role, render, trimmed
from mechsteer.prompts.vocabulary import once, token_names

PARTS = ("instruction", "context", "task")
"""The parts of a prompt, in their default order."""


def prompt(
    model: Any,
    text: str | Messages,
    *,
    instruction: str | None = None,
    context: str | None = None,
    order: Sequence[str] = PARTS,
    separator: str = "\n\n",
    system: str | None = None,
    chat: bool | None = None,
    template: Mapping[str, Any] | None = None,
) -> Prompt:
    """Make a :class:`Prompt` from its parts, or from the turns of a conversation.

    Args:
        model: A loaded model; only its ``tokenizer`` is used.
        text: The task. It may carry GUIDE's tags; then the tagged text is the span ``instruction`` as well as
            ``level1``, ``level2`` or ``level3``, and the rest is ``task``. Or messages, ``[{"role": "user", "content":
            ...}, ...]``, tags included, for the chat template: ``task`` is then the last user message, and a last
            message of the assistant is left open, to be continued.
        instruction: Text of the span ``instruction``. Of messages: text that one of them has, the system's too.
        context: Text of the span ``context`` (a document, notes). Of messages: text that one of them has.
        order: The order of the parts of a text.
        separator: What stands between two parts of a text.
        system: A system message before a text; needs a chat template.
        chat: Use the tokenizer's chat template; default: when it has one. ``False`` takes a text as it is, also one
            that is templated already.
        template: Arguments of the chat template, e.g. ``{"enable_thinking": False}``; they are kept with the prompt.

    Returns:
        The prompt. Special tokens are added once: by the template, or else by the tokenizer.

    Raises:
        MechsteerError: for unbalanced or nested tags, an unknown part in ``order``, an empty text, a tokenizer without
            character offsets, ``chat=True``, ``system``, ``template`` or messages without a template, text that holds
            the template's own marks, a role that is nearly one that templates know, an instruction that no message or
            more than one place of them has, a template that fails, rewrites the messages or lacks an argument.

    Warns:
        UserWarning: if the instruction is in a longer part of the text as well.

    Example:
        >>> turns = [{"role": "user", "content": "Answer in capitals. Who wrote it?"}]
        >>> ms.prompt(model, turns, instruction="Answer in capitals.")
    """
    if not hasattr(model, "tokenizer"):
        raise not_a_model(model)
    tokenizer = model.tokenizer
    if not has_offsets(tokenizer):
        raise MechsteerError(
            f"Spans need a tokenizer with character offsets (a 'fast' one), got {type(tokenizer).__name__}."
        )
    wanted = {"instruction": instruction, "context": context}
    texts = {**wanted, "system message": system, "separator": separator}
    for name, value in texts.items():
        if not isinstance(value, str) and (value is not None or name == "separator"):
            raise MechsteerError(f"The {name} of a prompt is a text, got {shown(value)}.")
    if isinstance(text, str):
        turns = _from_parts(text, instruction, context, order, separator)
    else:
        turns = _from_messages(tokenizer, text, wanted, system, chat)
    use_chat = _use_chat(tokenizer, system, chat, template)
    if use_chat:
        first = [Turn("system", system)] if system is not None else []
        rendered = render(tokenizer, [*first, *turns], template or {})
    else:
        spans = {name: [trimmed(turns[0].content, *r) for r in found] for name, found in turns[0].spans.items()}
        rendered = Rendered(turns[0].content, spans, None)
    return tokenised(model, rendered, dict(template or {}) if use_chat else None)


def _use_chat(tokenizer: Any, system: str | None, chat: bool | None, template: Mapping[str, Any] | None) -> bool:
    """Whether the chat template is used.

    Raises:
        MechsteerError: for what needs a template where there is none.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    use_chat = has_template if chat is None else chat
    if use_chat and not has_template:
        raise MechsteerError("chat=True, but this tokenizer has no chat template.")
    if system is not None and not use_chat:
        raise MechsteerError("A system message needs a chat template; put it into the task text instead.")
    if template is not None and not use_chat:
        raise MechsteerError(f"Template arguments need a chat template, got template={shown(template)}.")
    if template is not None and not isinstance(template, Mapping):
        raise MechsteerError(f"template= takes arguments by name, e.g. {{'enable_thinking': False}}, got {template!r}.")
    return use_chat


def _from_parts(
    text: str, instruction: str | None, context: str | None, order: Sequence[str], separator: str
) -> list[Turn]:
    """The parts joined into one user message, with the character span of each and of each tagged stretch."""
    order = listed("order", order)
    for name in order:
        one_of("prompt part", name, PARTS)
    given = {"instruction": instruction, "context": context, "task": text}
    missing = [name for name, value in given.items() if value and name not in order]
    if missing:
        raise MechsteerError(f"order={tuple(order)} leaves out {missing}, which was given.")
    pieces: Pieces = []
    for name in order:
        if value := given[name]:
            pieces += [(separator, ())] if pieces else []
            pieces += parse_tags(value, name)
    turn = _turn("user", pieces, {})
    if not turn.content.strip():
        raise MechsteerError("The prompt is empty.")
    repeated = (instruction or "").strip()
    others = [(other or "").strip() for other in (context, text)]
    if repeated and any(repeated in other and repeated != other for other in others):  # one that is all of it is meant
        warnings.warn(
            f"The instruction {shown(repeated)} is in the text as well, so that the prompt has it twice; the span "
            "'instruction' is the one that was given. To mark it where it is, put it between <!-> and <-!>.",
            stacklevel=3,
        )
    return [turn]


def _from_messages(
    tokenizer: Any, messages: Any, wanted: Mapping[str, str | None], system: str | None, chat: bool | None
) -> list[Turn]:
    """The turns of a conversation.

    Raises:
        MechsteerError: for what is no list of messages, or a text that is not in them exactly once.
    """
    fix = '[{"role": "user", "content": "..."}, ...]'
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise MechsteerError(f"A prompt is made of a text or of messages, {fix}; got {shown(messages)}.")
    if system is not None or chat is False:
        raise MechsteerError("Messages go through the chat template, and hold the system's: leave out system and chat.")
    if not getattr(tokenizer, "chat_template", None):
        raise MechsteerError("Messages need a chat template, which this tokenizer lacks: give one text.")
    for message in messages:
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise MechsteerError(f"A message's {key} must be a text, as in {fix}; got {shown(message)}.")
        check_role(tokenizer, message["role"])
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    parsed = [
        parse_tags(message["content"], "task" if users and place == users[-1] else None)
        for place, message in enumerate(messages)
    ]
    for name, text in wanted.items():
        if text:
            parsed = _located(parsed, name, text.strip())
    turns = []
    for message, pieces in zip(messages, parsed, strict=True):
        other = {key: value for key, value in message.items() if key not in ("role", "content")}
        turns.append(_turn(message["role"], pieces, other))
    if not any(turn.content.strip() for turn in turns):
        raise MechsteerError("The prompt is empty.")
    return turns


def _located(parsed: list[Pieces], name: str, text: str) -> list[Pieces]:
    """The pieces, with a text of theirs as a piece of its own.

    Raises:
        MechsteerError: if it is not there exactly once.
    """
    count = sum(piece.count(text) for pieces in parsed for piece, _ in pieces) if text else 0
    if count != 1:
        where = "is in none of the messages" if not count else f"is in the messages {count} times"
        fix = "give it as it stands there" if not count else "mark the one that is meant with <!-> and <-!>"
        raise MechsteerError(f"The {name} {shown(text)} {where}: {fix}.")
    found: list[Pieces] = []
    for pieces in parsed:
        split: Pieces = []
        for piece, names in pieces:
            before, middle, after = piece.partition(text)
            others = tuple(other for other in names if other != "task")
            split += [(before, names), (middle, (*others, name)), (after, names)] if middle else [(piece, names)]
        found.append([(piece, names) for piece, names in split if piece])
    return found


def _turn(role: str, pieces: Pieces, other: Mapping[str, Any]) -> Turn:
    content, spans = "", {}
    for piece, names in pieces:
        start = len(content)
        content += piece
        if piece.strip():
            for name in dict.fromkeys(names):
                spans.setdefault(name, []).append((start, len(content)))
    return Turn(role, content, spans, other)


def tokenised(model: Any, rendered: Rendered, template: Mapping[str, Any] | None) -> Prompt:
    """Tokens and token spans of a text; a template has written the special tokens already."""
    tokenizer = model.tokenizer
    text = rendered.text
    ids, places = encode(tokenizer, text, special=template is None)
    ids = once(ids, tokenizer.bos_token_id)
    if not ids:
        raise MechsteerError(f"The prompt {shown(text)} has no tokens.")
    offsets = tuple(places[-len(ids) :])
    spans = {name: merged for name, found in rendered.spans.items() if (merged := token_ranges(found, offsets))}
    return Prompt(
        text,
        torch.tensor(ids, dtype=torch.long),
        spans,
        tuple(token_names(tokenizer, ids)),
        encoder_decoder=hasattr(model, "encoder"),
        offsets=offsets,
        template=template,
        answer_lead=rendered.answer_lead,
    )


def token_ranges(found: list[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Token ranges of character ranges: a token belongs when it overlaps one."""
    inside = [any(max(a, s) < min(b, e) for a, b in found) for s, e in offsets]
    ranges: list[tuple[int, int]] = []
    for index, flag in enumerate(inside):
        if flag and ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        elif flag:
            ranges.append((index, index + 1))
    return ranges
