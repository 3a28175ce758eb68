"""Where each token's text is among the characters of a text.

Fast tokenizers say it themselves. ByT5's is slow, but its tokens are the text's UTF-8 bytes, so it can be counted: the
bytes of one character all have that character's place.
"""

from typing import Any

from mechsteer.errors import MechsteerError, foreign, shown

Offsets = list[tuple[int, int]]


def has_offsets(tokenizer: Any) -> bool:
    """Whether spans can be found: with a fast tokenizer, or one of bytes."""
    return bool(getattr(tokenizer, "is_fast", False)) or _of_bytes(tokenizer)


def encode(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], Offsets]:
    """The ids of a text and each one's characters ``[start, end)``; ``(0, 0)`` for special tokens that were added.

    Args:
        tokenizer: One that :func:`has_offsets`.
        text: The text.
        special: Add the tokenizer's special tokens.

    Raises:
        MechsteerError: if the bytes of ByT5's tokens are not those of the text, or the tokenizer cannot take the text:
            one with half a character (a lone surrogate), say.
    """
    of_bytes = _of_bytes(tokenizer)
    with foreign(f"This tokenizer cannot take the text {shown(text)}"):
        options = {} if of_bytes else {"return_offsets_mapping": True}
        encoding = tokenizer(text, add_special_tokens=special, **options)
    ids = encoding["input_ids"]
    if not of_bytes:
        return ids, [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
    return ids, _byte_offsets(tokenizer.convert_ids_to_tokens(ids), text)


def _of_bytes(tokenizer: Any) -> bool:
    return type(tokenizer).__name__ == "ByT5Tokenizer"


def _byte_offsets(tokens: list[str], text: str) -> Offsets:
    offsets: Offsets = []
    at, left = 0, b""  # the next character, and what is left of the bytes of the one before it
    for token in tokens:
        if len(token) > 1:  # a special token: written in the text, or added
            written = text.find(token, at)
            written = written if written >= 0 and not text[at:written].strip() else -1
            offsets.append((written, written + len(token)) if written >= 0 else (0, 0))
            at = written + len(token) if written >= 0 else at
            continue
        if not left:
            while at < len(text) and text[at].encode()[:1] != token.encode("latin-1") and text[at].isspace():
                at += 1  # eaten by a special token beside it
            left, at = text[at : at + 1].encode(), at + 1
        if not left or left[:1] != token.encode("latin-1"):
            raise MechsteerError(f"The bytes of this tokenizer's tokens are not those of the text {shown(text)}.")
        offsets.append((at - 1, at))
        left = left[1:]
    return offsets
