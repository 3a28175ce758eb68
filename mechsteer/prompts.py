"""Prompts: text to tokens with named spans, and batches with padding.

A span is where a part of the prompt (the instruction, the task, an emphasised stretch) lies among the tokens. Spans are
computed from the tokenizer's own character offsets while the text is put together, never by searching for the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from jinja2 import TemplateError
from torch import Tensor

from mechsteer.errors import MechsteerError, not_a_model, one_of, shown, unknown

PARTS = ("instruction", "context", "task")
"""The parts of a prompt, in their default order."""

LEVELS = {"!": "level1", "!!": "level2", "!!!": "level3", "?": "influence"}
"""GUIDE's tags: ``<!-> text <-!>``, ``<!!-> text <-!!>``, ``<!!!-> text <-!!!>`` emphasise; ``<?-> text <-?>`` marks
the
text whose Influence is measured. Source: the pay-attention-pipeline package of arXiv 2409.19001."""

_OPEN, _CLOSE = re.compile(r"<(!{1,3}|\?)->\s?"), re.compile(r"\s?<-(!{1,3}|\?)>")
_SLOT = "\ue000mechsteer\ue001"  # private-use characters: in no tokenizer's template

CharSpans = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Prompt:
    """One prompt, ready for a model.

    Attributes:
        text: The whole text as tokenised, chat template included.
        tokens: ``[pos]`` token ids, special tokens included, no padding, on the CPU.
        spans: For each name, token ranges ``[start, end)``. Always has ``task``; ``instruction``, ``context``,
            ``level1`` to ``level3`` and ``influence`` where the prompt has them.
        str_tokens: The text of each token, for tables and figures.
        encoder_decoder: Whether it was made for an encoder-decoder, whose encoder reads it.
    """

    text: str
    tokens: Int[Tensor, "pos"]
    spans: dict[str, list[tuple[int, int]]]
    str_tokens: tuple[str, ...] = field(default=(), repr=False)
    encoder_decoder: bool = False

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def positions(self, span: str) -> list[int]:
        """The token positions of a span, ascending.

        Raises:
            MechsteerError: if the prompt has no such span, or it is not within the prompt.
        """
        if not isinstance(span, str) or span not in self.spans:
            raise unknown(f"span (in the prompt {_short(self.text)!r})", span, self.spans)
        found = sorted({i for start, end in self.spans[span] for i in range(start, end)})
        if found and not 0 <= found[0] <= found[-1] < len(self):
            raise MechsteerError(f"The span {span!r} of {self!r} is not within its {len(self)} tokens.")
        return found

    def __repr__(self) -> str:
        return f"Prompt({_short(self.text)!r}, {len(self)} tokens, spans={self.spans})"


def prompt(
    model: Any,
    text: str,
    *,
    instruction: str | None = None,
    context: str | None = None,
    order: Sequence[str] = PARTS,
    separator: str = "\n\n",
    system: str | None = None,
    chat: bool | None = None,
) -> Prompt:
    """Make a :class:`Prompt` from its parts.

    Args:
        model: A loaded model; only its ``tokenizer`` is used.
        text: The task. It may carry GUIDE's tags; then the tagged text is the span ``instruction`` as well as
            ``level1``, ``level2`` or ``level3``, and the rest is ``task``.
        instruction: Text of the span ``instruction``.
        context: Text of the span ``context`` (a document, notes).
        order: The order of the parts.
        separator: What stands between two parts.
        system: A system message; needs a chat template.
        chat: Use the tokenizer's chat template; default: when it has one.

    Returns:
        The prompt. Special tokens are added once: by the template, or else by the tokenizer.

    Raises:
        MechsteerError: for unbalanced or nested tags, an unknown part in ``order``, an empty text, a tokenizer without
            character offsets, ``chat=True`` or ``system`` without a template, a template that refuses the messages.
    """
    if not hasattr(model, "tokenizer"):
        raise not_a_model(model)
    for name in order:
        one_of("prompt part", name, PARTS)
    given = {"instruction": instruction, "context": context, "task": text}
    for name, value in given.items():
        if not isinstance(value, str | None):
            raise MechsteerError(f"The {name} of a prompt is a text, got {shown(value)}.")
    parts = [(name, value) for name in order if (value := given[name])]
    missing = [name for name, value in given.items() if value and name not in order]
    if missing:
        raise MechsteerError(f"order={tuple(order)} leaves out {missing}, which was given.")
    content, spans = _assemble(parts, separator)
    if not content.strip():
        raise MechsteerError("The prompt is empty.")
    made = _tokenise(model.tokenizer, content, spans, system=system, chat=chat)
    return replace(made, encoder_decoder=hasattr(model, "encoder"))


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _assemble(parts: list[tuple[str, str]], separator: str) -> tuple[str, CharSpans]:
    """Join the parts and note the character span of each, and of each tagged stretch in it."""
    content, spans = "", {}
    for name, value in parts:
        if content:
            content += separator
        for piece, names in _parse_tags(value, name):
            start = len(content)
            content += piece
            if piece.strip():
                for span in names:
                    spans.setdefault(span, []).append((start, len(content)))
    return content, spans


def _parse_tags(text: str, part: str) -> list[tuple[str, tuple[str, ...]]]:
    """Split a part at GUIDE's tags into (text, span names), the tags and one space inside them removed."""
    pieces: list[tuple[str, tuple[str, ...]]] = []
    position = 0
    while opening := _OPEN.search(text, position):
        closing = _CLOSE.search(text, opening.end())
        if closing is None or closing[1] != opening[1]:
            found = "nothing" if closing is None else repr(closing[0].strip())
            raise MechsteerError(f"Tag {opening[0].strip()!r} needs <-{opening[1]}> to close it, found {found}.")
        inner = text[opening.end() : closing.start()]
        if _OPEN.search(inner):
            raise MechsteerError(f"Tags cannot be nested: {_short(opening[0] + inner + closing[0])!r}.")
        _add_plain(pieces, text[position : opening.start()], part)
        level = LEVELS[opening[1]]
        names = (level,) if level == "influence" else tuple(dict.fromkeys(("instruction", level)))
        pieces.append((inner, names))
        position = closing.end()
    _add_plain(pieces, text[position:], part)
    return pieces


def _add_plain(pieces: list[tuple[str, tuple[str, ...]]], text: str, part: str) -> None:
    if stray := _CLOSE.search(text):
        raise MechsteerError(f"Closing tag {stray[0].strip()!r} has no opening tag before it.")
    if text:
        pieces.append((text, (part,)))


def _tokenise(tokenizer: Any, content: str, spans: CharSpans, *, system: str | None, chat: bool | None) -> Prompt:
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise MechsteerError(
            f"Spans need a tokenizer with character offsets (a 'fast' one), got {type(tokenizer).__name__}."
        )
    has_template = bool(getattr(tokenizer, "chat_template", None))
    use_chat = has_template if chat is None else chat
    if use_chat and not has_template:
        raise MechsteerError("chat=True, but this tokenizer has no chat template.")
    if system is not None and not use_chat:
        raise MechsteerError("A system message needs a chat template; put it into the task text instead.")
    if use_chat:
        text, shift = _apply_template(tokenizer, content, system)
    else:
        text, shift = content, 0
    encoding = tokenizer(text, add_special_tokens=not use_chat, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    if not ids:
        raise MechsteerError(f"The prompt {_short(text)!r} has no tokens.")
    token_spans = {
        name: merged
        for name, ranges in spans.items()
        if (merged := _token_ranges([_trim(content, a, b, shift) for a, b in ranges], offsets))
    }
    strings = tuple(tokenizer.convert_ids_to_tokens(ids))
    return Prompt(text, torch.tensor(ids, dtype=torch.long), token_spans, strings)


def _apply_template(tokenizer: Any, content: str, system: str | None) -> tuple[str, int]:
    """The templated text, and where in it the content starts."""

    def render(user: str) -> str:
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": user})
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            roles = " and ".join(message["role"] for message in messages)
            raise MechsteerError(f"This chat template refuses {roles} messages: {error}.") from error

    frame = render(_SLOT)
    start = frame.find(_SLOT)
    if start < 0 or frame.count(_SLOT) != 1:
        raise MechsteerError("This chat template does not hold the user's message exactly once; pass chat=False.")
    text = frame.replace(_SLOT, content)
    if text != render(content):
        trimmed = content.strip()
        if frame.replace(_SLOT, trimmed) != render(content):
            raise MechsteerError(
                "This chat template rewrites the user's message, so that spans would be lost; pass chat=False."
            )
        return frame.replace(_SLOT, trimmed), start - (len(content) - len(content.lstrip()))
    return text, start


def _token_ranges(char_ranges: list[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Token ranges of character ranges: a token belongs when it overlaps one."""
    inside = [any(max(a, s) < min(b, e) for a, b in char_ranges) for s, e in offsets]
    ranges: list[tuple[int, int]] = []
    for index, flag in enumerate(inside):
        if flag and ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        elif flag:
            ranges.append((index, index + 1))
    return ranges


def _trim(text: str, start: int, end: int, shift: int) -> tuple[int, int]:
    """A character range without the white space at its ends, shifted."""
    piece = text[start:end]
    return shift + start + len(piece) - len(piece.lstrip()), shift + end - len(piece) + len(piece.rstrip())


@dataclass(frozen=True)
class Batch:
    """Prompts padded to one length.

    Attributes:
        prompts: The prompts, in order.
        tokens: ``[batch, pos]`` token ids.
        mask: ``[batch, pos]``, True where a token is real.
        starts: For each row, the index of its first real token (0 when padded on the right).
    """

    prompts: tuple[Prompt, ...]
    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def length(self) -> int:
        """The padded length."""
        return int(self.tokens.shape[1])


def batch(prompts: Sequence[Prompt], *, side: str, pad_id: int = 0) -> Batch:
    """Pad prompts to the longest one.

    Args:
        prompts: At least one.
        side: ``"left"`` for decoder-only models, so that the last position is the last token of every row; ``"right"``
            for the encoder of encoder-decoders.
        pad_id: The id at padded positions. It is never seen: the mask goes with it everywhere.

    Raises:
        MechsteerError: if there are no prompts.
    """
    if not prompts:
        raise MechsteerError("No prompts were given.")
    one_of("padding side", side, ("left", "right"))
    length = max(len(p) for p in prompts)
    tokens = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    starts = []
    for row, p in enumerate(prompts):
        start = length - len(p) if side == "left" else 0
        tokens[row, start : start + len(p)] = p.tokens
        mask[row, start : start + len(p)] = True
        starts.append(start)
    return Batch(tuple(prompts), tokens, mask, tuple(starts))
