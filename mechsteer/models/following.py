"""What follows a prompt, as tokens: prompt and continuation are tokenised together, and the prompt's part is cut off.

On its own a continuation may have other tokens than behind a text: many tokenizers put a space (``▁``) before every
text, so that "Paris" alone looks like the word that begins with a space. A decoder reads the prompt and writes behind
it; what an encoder-decoder's decoder writes begins on its own, as Hugging Face tokenises a target.

A word, unlike a continuation, is given without its space. It gets one, unless people write none there
(:mod:`mechsteer.prompts.spacing`), it is a special token or follows one, or stands behind a chat template's header,
where it has what the template itself puts there.
"""

from typing import Any

from mechsteer.errors import MechsteerError, shown
from mechsteer.models.info import is_encoder_decoder
from mechsteer.prompts import Prompt, token_names
from mechsteer.prompts.spacing import joined
from mechsteer.prompts.vocabulary import specials

_SPACES = ("▁", "Ġ", " ")


def continuation_ids(model: Any, text: str, prompt: Prompt | None = None, *, written: str = "") -> list[int]:
    """The tokens of a text that follows a prompt.

    Args:
        model: A loaded model; only its ``tokenizer`` and its type are used.
        text: The continuation, its leading space included where there is one.
        prompt: What it follows; None for a text on its own.
        written: Text between the two, that the model has written already.

    Raises:
        MechsteerError: if it is no text, has no tokens, or would change the tokens of what it follows (a space at the
            prompt's end that belongs to the next word, a word that goes on).
    """
    if not isinstance(text, str):
        raise MechsteerError(f"A continuation must be a text, got {shown(text)}.")
    ids = _behind(model.tokenizer, _before(model, prompt, written), text)
    return _known(model, ids, f"The continuation {text!r}")


def word_ids(
    model: Any, word: str, prompt: Prompt | None = None, *, written: str = "", strip: str | None = None
) -> list[int]:
    """The tokens of a word that follows a prompt; the first of them is the one that it counts by.

    Args:
        model: A loaded model; only its ``tokenizer`` and its type are used.
        word: The word; white space at its ends does not count.
        prompt: What it follows; None for any text that ends in a word.
        written: Text between the two, that the model has written already.
        strip: Characters at its ends that do not count; default: white space.

    Raises:
        MechsteerError: if it is no text, has no tokens, or would change the tokens of what it follows.
    """
    if not isinstance(word, str):
        raise MechsteerError(f"A word must be a text, got {shown(word)}.")
    stripped = word.strip(strip)
    _refuse_name(model.tokenizer, stripped)
    before = _before(model, prompt, written)
    lead = _lead(model, prompt, before, written, stripped)
    ids = _behind(model.tokenizer, before, lead + stripped) if stripped else []
    return _known(model, ids, f"The word {word!r}")


def _known(model: Any, ids: list[int], what: str) -> list[int]:
    """Token ids, if there are any, and the model has all of them.

    Raises:
        MechsteerError: otherwise.
    """
    if not ids:
        raise MechsteerError(f"{what} has no tokens.")
    if max(ids) >= model.cfg.d_vocab:
        raise MechsteerError(
            f"{what} has token {max(ids)}, which the tokenizer knows and the model does not: its vocabulary has "
            f"{model.cfg.d_vocab}."
        )
    return ids


def spaced(model: Any, word: str, prompt: Prompt) -> str:
    """A word as a continuation of a prompt: with a space before it where it needs one, as :func:`word_ids` puts it."""
    before, stripped = _before(model, prompt, ""), word.strip()
    return _lead(model, prompt, before, "", stripped) + stripped


def word_id(model: Any, word: str, prompt: Prompt | None = None, *, written: str = "", strip: str | None = None) -> int:
    """The token that a word counts by: the first one of :func:`word_ids`."""
    return word_ids(model, word, prompt, written=written, strip=strip)[0]


def _before(model: Any, prompt: Prompt | None, written: str) -> str:
    """The text that the predicting stack has in front of it.

    Raises:
        MechsteerError: for a prompt whose tokens are not those that this model's tokenizer makes of its text.
    """
    if prompt is None or is_encoder_decoder(model):
        return written
    own, known = _encode(model.tokenizer, prompt.text), prompt.tokens.tolist()
    marks = set(model.tokenizer.all_special_ids)
    while known and known != own and known[-len(own) :] != own and known[-1] in marks:
        known.pop()  # some tokenizers end every text with a token of theirs
    if prompt.text and own[-len(known) :] != known[-len(own) :]:
        raise MechsteerError(
            f"The tokens of {prompt!r} are not this tokenizer's of its text, so that nothing can be put behind it: "
            "make it with ms.prompt and the model that reads it."
        )
    return prompt.text + written


def _refuse_name(tokenizer: Any, word: str) -> None:
    """Refuse a token's name, such as ``Ġword``, in the place of a word.

    Raises:
        MechsteerError: with the word and the token's number.
    """
    if len(word) > 1 and word.startswith(_SPACES) and (number := tokenizer.get_vocab().get(word)) is not None:
        raise MechsteerError(
            f"{word!r} is the name of a token, and no word: give {word[1:]!r}, or the token's number, {number}."
        )


def _lead(model: Any, prompt: Prompt | None, before: str, written: str, word: str) -> str:
    """What stands between a text and a word."""
    marks = specials(model.tokenizer)
    if word.startswith(marks):
        return ""
    if prompt is not None and prompt.answer_lead is not None and not written and before:
        return prompt.answer_lead
    if not before:
        return "" if is_encoder_decoder(model) else " "
    return "" if before.endswith(marks) or (word and joined(before, word)) else " "


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _behind(tokenizer: Any, before: str, text: str) -> list[int]:
    """The tokens that are left of both texts together when those of the first are taken away.

    Raises:
        MechsteerError: if the first text has other tokens then.
    """
    own, whole = _encode(tokenizer, before), _encode(tokenizer, before + text)
    if whole[: len(own)] == own:
        return whole[len(own) :]
    # To a tokenizer that drops spaces, one more is nothing but the end of a word.
    spaced, wider = (_encode(tokenizer, before + space + text) for space in (" ", "  "))
    if spaced == wider and spaced[: len(own)] == own:
        rest = spaced[len(own) :]
        if not token_names(tokenizer, rest[:1])[0].startswith(_SPACES):
            return rest
    same = next((i for i, (a, b) in enumerate(zip(own, whole, strict=False)) if a != b), min(len(own), len(whole)))
    old, new = (" ".join(token_names(tokenizer, ids[same : same + 3])) or "nothing" for ids in (own, whole))
    fix = (
        "leave out the white space at the end of the text before, and begin the continuation with it"
        if before[-1:].isspace()
        else "begin it with a space, or divide the text elsewhere"
    )
    raise MechsteerError(
        f"{shown(text, 40)} behind {shown(before[-20:])} changes the tokens before it ({old} becomes {new}), so that "
        f"it has none of its own: {fix}."
    )
