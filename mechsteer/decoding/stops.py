"""Texts that end a row.

They are looked for in what a row has written without special tokens, as a person reads it; a stop text that names one,
such as ``<|im_end|>``, with them.
"""

from collections.abc import Sequence
from typing import Any

from mechsteer.prompts.vocabulary import specials


def naming_specials(tokenizer: Any, stop: Sequence[str]) -> list[str]:
    """The stop texts that have a special token's text in them."""
    known = specials(tokenizer) if stop else ()
    return [text for text in stop if any(mark in text for mark in known)]


def completed(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str], special: Sequence[str] = ()) -> bool:
    """Whether one of the texts has just been completed; ``special`` are those that name special tokens."""
    tail = tokens[-(4 * max(map(len, stop)) + 4) :]  # no character takes more than four tokens
    text = tokenizer.decode(tail, skip_special_tokens=True)
    if any(end in text for end in stop):
        return True
    return bool(special) and any(end in tokenizer.decode(tail, skip_special_tokens=False) for end in special)


def text_before(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str], special: Sequence[str] = ()) -> str:
    """What tokens say, without special tokens, up to the first stop text."""
    kept, cut = len(tokens), ""
    if special:
        whole = tokenizer.decode(tokens, skip_special_tokens=False)
        first = min((place for end in special if (place := whole.find(end)) >= 0), default=len(whole))
        while kept and len(tokenizer.decode(tokens[:kept], skip_special_tokens=False)) > first:
            kept -= 1
        # A stop text may begin within a token, of which the text keeps what is before it.
        cut = whole[len(tokenizer.decode(tokens[:kept], skip_special_tokens=False)) : first]
    text = tokenizer.decode(tokens[:kept], skip_special_tokens=True) + cut
    return text[: min((place for end in stop if (place := text.find(end)) >= 0), default=len(text))]
