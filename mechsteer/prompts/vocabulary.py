"""What a tokenizer says about single tokens."""

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any


def token_names(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The tokenizer's name of each token, for tables and figures.

    A vocabulary may be larger than its tokenizer (rows added for speed); tokens without a name are shown by their id,
    as ``<683>``.
    """
    named = tokenizer.convert_ids_to_tokens(list(ids)) if len(ids) else []
    return [f"<{token}>" if name is None else str(name) for token, name in zip(ids, named, strict=True)]


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    r"""What each token adds to a text, for people: with its leading space, accented letters as letters.

    A token that is part of a character (of several bytes) is shown by its bytes, as ``\xc3``.
    """
    return [piece.decode("utf-8", errors="backslashreplace") for piece in token_bytes(tokenizer, ids)]


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """The same in UTF-8: of a token that is part of a character, its bytes."""
    names = token_names(tokenizer, ids)
    if _is_of_bytes(tokenizer):
        return [name.encode("latin-1") if len(name) == 1 else name.encode() for name in names]
    if not _writes_bytes(tokenizer):
        return [_one_byte(name) or name.replace("\u2581", " ").encode() for name in names]
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    read = [name not in known and all(c in _bytes() for c in name) for name in names]
    return [bytes(_bytes()[c] for c in name) if r else name.encode() for name, r in zip(names, read, strict=True)]


def together(pieces: Sequence[bytes]) -> list[list[int]]:
    """The places of pieces of a text, those that are parts of one letter together."""
    groups: list[list[int]] = []
    waiting: list[int] = []
    raw = b""
    for place, piece in enumerate(pieces):
        waiting, raw = [*waiting, place], raw + piece
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                continue
            groups += [[one] for one in waiting]
        else:
            groups.append(waiting)
        waiting, raw = [], b""
    return groups + [[one] for one in waiting]


_ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _one_byte(name: str) -> bytes:
    """The byte of a token that stands for one, as ``<0x0A>`` (SentencePiece's way); none of other tokens."""
    found = _ONE_BYTE.fullmatch(name)
    return bytes.fromhex(found[1]) if found else b""


def _is_of_bytes(tokenizer: Any) -> bool:
    """Whether every token is a byte, named by the character of that number (ByT5's way)."""
    return type(tokenizer).__name__ == "ByT5Tokenizer"


def _writes_bytes(tokenizer: Any) -> bool:
    """Whether the tokens' names are bytes, each written as a character (GPT-2's way)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(backend.decoder)


@cache
def _bytes() -> dict[str, int]:
    """GPT-2's character for each byte: printable ones stand for themselves, the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def in_bytes(name: str) -> str:
    r"""The text of a token whose name is written in bytes; of part of a letter its bytes, as ``\xc3``."""
    if byte := _one_byte(name) or (name.encode("latin-1") if len(name) == 1 and name < "\u0100" else b""):
        return byte.decode("utf-8", errors="backslashreplace")
    if any(c not in _bytes() for c in name):
        return name
    return bytes(_bytes()[c] for c in name).decode("utf-8", errors="backslashreplace")


def parts_of_letters(offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token, of which is given where its text is, shares a letter with the one before or after it."""
    before = [0, *(end for _, end in offsets[:-1])]
    after = [*(start if end > start else math.inf for start, end in offsets[1:]), math.inf]
    return [
        end > start and (first > start or end > last)
        for first, (start, end), last in zip(before, offsets, after, strict=True)
    ]


def readable(name: str) -> str:
    """A token's name as text, where its tokenizer is not at hand: ``Ġété`` and ``▁été`` are both ``" été"``.

    A name whose characters all stand for bytes (GPT-2's way) is decoded where these bytes are a text in UTF-8: ``Ã©t``
    is ``ét``. What as bytes is no text, such as the letter ``é`` of another tokenizer, stays what it is, and so does
    text that was readable. ``<0x0A>`` is a line break.
    """
    if byte := _one_byte(name):
        return byte.decode("utf-8", errors="backslashreplace")
    spaced = name.replace("\u2581", " ")
    if spaced.isascii() or any(c not in _bytes() for c in spaced):
        return spaced
    try:
        text = bytes(_bytes()[c] for c in spaced).decode("utf-8")
    except UnicodeDecodeError:
        return spaced.replace("\u0120", " ").replace("\u010a", "\n").replace("\u0109", "\t")
    plain = text.replace("\r\n", "").replace("\n", "").replace("\t", "")
    return text if plain.isprintable() else spaced  # Czech's č would be a carriage return


def token_text(tokenizer: Any, token: int) -> str:
    """The text that a token stands for: of half a letter its bytes; its id, as ``<683>``, where it has no name."""
    text = tokenizer.decode([token]) if tokenizer.convert_ids_to_tokens(token) is not None else f"<{token}>"
    return token_pieces(tokenizer, [token])[0] if "\ufffd" in text else text


def specials(tokenizer: Any) -> tuple[str, ...]:
    """The texts of the tokenizer's marks, such as the start of a text or of a turn, which are no words."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(dict.fromkeys((*added, *tokenizer.all_special_tokens)))


def once(ids: list[int], start: int | None) -> list[int]:
    """Token ids with the start token at most once in front: text may have it, and the tokenizer puts another."""
    extra = 0
    while start is not None and ids[extra : extra + 2] == [start, start]:
        extra += 1
    return ids[extra:]
