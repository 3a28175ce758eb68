"""What a tokenizer says about single tokens."""

from collections.abc import Sequence
from typing import Any


def token_names(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The tokenizer's name of each token, for tables and figures.

    A vocabulary may be larger than its tokenizer (rows added for speed); tokens without a name are shown by their id,
    as ``<683>``.
    """
    named = tokenizer.convert_ids_to_tokens(list(ids)) if len(ids) else []
    return [f"<{token}>" if name is None else str(name) for token, name in zip(ids, named, strict=True)]


def token_text(tokenizer: Any, token: int) -> str:
    """The text that a token stands for; its id, as ``<683>``, where the tokenizer has none."""
    return tokenizer.decode([token]) if tokenizer.convert_ids_to_tokens(token) is not None else f"<{token}>"


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
