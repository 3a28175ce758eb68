"""Where the instruction stands in a request of lm-eval, from the document that it was made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mechsteer.errors import MechsteerError, nearest, shown
from mechsteer.tasks.spans import mark

Instruction = str | Callable[[Any], str | Sequence[str] | None]
"""The name of the document's field that has it, or a function of the document; one text or several."""


def marked(context: str, doc: Mapping[str, Any], instruction: Instruction) -> str:
    """The context with its document's instruction in GUIDE's tags.

    Each text is marked where it stands last, behind all worked examples.

    Raises:
        MechsteerError: for a document without the field, what is no text, or a text that is not in the context.
    """
    ranges = []
    for text in _texts(doc, instruction):
        place = context.rfind(text)
        if place < 0:
            raise MechsteerError(
                f"The instruction {shown(text, 60)} of the document is not in its context, which ends in "
                f"{shown(context[-60:])}: the task's template may change it."
            )
        ranges.append((place, place + len(text)))
    return mark(context, ranges)


def _texts(doc: Mapping[str, Any], instruction: Instruction) -> list[str]:
    if callable(instruction):
        try:
            found: Any = instruction(doc)
        except Exception as error:
            raise MechsteerError(f"instruction= failed on the document {shown(doc)}: {shown(error)}.") from error
    elif instruction in doc:
        found = doc[instruction]
    else:
        raise MechsteerError(f"The document has no field {instruction!r}.{nearest(instruction, list(doc))}")
    texts = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise MechsteerError(f"An instruction must be a text or a list of texts, got {shown(found)}.")
    return [text.strip() for text in texts if text.strip()]
