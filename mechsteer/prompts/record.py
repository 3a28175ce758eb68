"""What a prompt is once it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from mechsteer.display import Piece, counted, legend, titled, token_strip
from mechsteer.errors import MechsteerError, unknown
from mechsteer.prompts.vocabulary import in_bytes, parts_of_letters, readable

SPAN_COLOURS: Mapping[str, str] = {"task": "grey", "context": "green", "influence": "purple", "instruction": "blue"}
"""The colour of each span in a notebook; of a token in several, the last one's."""

HOW_MARKED: Mapping[str, str] = {
    "instruction": "ms.prompt(model, text, instruction=...), in the text <!-> ... <-!> around it, or --instruction",
    "context": "ms.prompt(model, text, context=...)",
    "level1": "<!-> ... <-!> around it in the text",
    "level2": "<!!-> ... <-!!> around it in the text",
    "level3": "<!!!-> ... <-!!!> around it in the text",
    "influence": "<?-> ... <-?> around it in the text",
}
"""How a prompt gets a span that it lacks."""

Messages = Sequence[Mapping[str, Any]]
"""Turns of a conversation, each ``{"role": ..., "content": ...}``."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, ready for a model.

    Attributes:
        text: The whole text as tokenised, chat template included.
        tokens: ``[pos]`` token ids, special tokens included, no padding, on the CPU.
        spans: For each name, token ranges ``[start, end)``. A text's always has ``task``; ``instruction``, ``context``,
            ``level1`` to ``level3`` and ``influence`` where the prompt has them.
        str_tokens: The tokenizer's name of each token.
        encoder_decoder: Whether it was made for an encoder-decoder, whose encoder reads it.
        offsets: Where each token's text is in ``text``: characters ``[start, end)``, as the tokenizer says.
        template: The arguments that the chat template was given; None where no template was used.
        answer_lead: What the template puts between this prompt and an answer (``""``, or a space, as Llama 2's does),
            if the prompt ends in the template's header of an answer and the template says; else None.

    Example:
        >>> prompt.span_text("instruction"), prompt.positions("instruction")
    """

    text: str
    tokens: Int[Tensor, "pos"]
    spans: dict[str, list[tuple[int, int]]]
    str_tokens: tuple[str, ...] = field(default=(), repr=False)
    encoder_decoder: bool = False
    offsets: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    template: Mapping[str, Any] | None = None
    answer_lead: str | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def positions(self, span: str) -> list[int]:
        """The token positions of a span, ascending. Every prompt has ``"content"``: all its tokens but the first.

        Raises:
            MechsteerError: if the prompt has no such span, or it is not within the prompt.
        """
        if span == "content" and span not in self.spans:
            return list(range(1, len(self)))
        if not isinstance(span, str) or span not in self.spans:
            raise self._without(span)
        found = sorted({i for start, end in self.spans[span] for i in range(start, end)})
        if found and not 0 <= found[0] <= found[-1] < len(self):
            raise MechsteerError(f"The span {span!r} of {self!r} is not within its {len(self)} tokens.")
        return found

    def span_text(self, span: str) -> str:
        """The text that a span's tokens cover; its ranges joined by ``" … "``.

        Raises:
            MechsteerError: if the prompt has no such span.
        """
        if span not in self.spans:
            raise self._without(span)
        return " … ".join(self._covered(start, end) for start, end in self.spans[span])

    def _without(self, span: Any) -> MechsteerError:
        """The error for a span that is not there; of a name that a prompt can have, with how it gets it."""
        error = unknown(f"span (in the prompt {_short(self.text)!r})", span, self.spans)
        how = HOW_MARKED.get(span) if isinstance(span, str) else None
        return error if how is None else MechsteerError(f"{error} To mark it: {how}.")

    def _covered(self, start: int, end: int) -> str:
        if self.offsets:
            inside = self.offsets[start:end]
            return self.text[inside[0][0] : inside[-1][1]].strip() if inside else ""
        return " ".join(self.str_tokens[start:end])

    def __repr__(self) -> str:
        spans = [f"{name} {ranges} {_short(self.span_text(name), 40)!r}" for name, ranges in self.spans.items()]
        parts = [repr(_short(self.text)), counted(len(self), "token"), *spans]
        if self.template is not None:
            parts.append(f"chat template with {dict(self.template)}" if self.template else "chat template")
        return f"Prompt({', '.join(parts)})"

    def _repr_html_(self) -> str:
        of = {i: name for name, colour in SPAN_COLOURS.items() if name in self.spans for i in self.positions(name)}
        inside = {i for name in self.spans for i in self.positions(name)}
        pieces = []
        for places, text in self.letters():
            first, last = places[0], places[-1]
            named = f"{first}" if first == last else f"{first} to {last}"
            title = f"{named}: {of.get(first, '')}".rstrip(": ")
            pieces.append(Piece(text, SPAN_COLOURS.get(of.get(first, ""), ""), title=title, dim=first not in inside))
        said = {colour: name for name, colour in SPAN_COLOURS.items() if name in of.values()}
        rest = "" if len(inside) == len(self) else "; faint: the template's and special tokens"
        return titled(f"Prompt, {counted(len(self), 'token')}{rest}", legend(said), token_strip(pieces))

    def _pieces(self) -> list[str]:
        """The text of each token with the white space before it; its name where nobody knows where it stands.

        Of a letter that takes several tokens, each has its own bytes.
        """
        if not self.offsets:
            return self.read()
        ends = [0, *(end for _, end in self.offsets)]
        return [
            name if part else self.text[min(before, start) : end] if end > start else special
            for before, (start, end), name, special, part in zip(
                ends, self.offsets, self.read(), self.str_tokens, parts_of_letters(self.offsets), strict=False
            )
        ]

    def letters(self) -> list[tuple[list[int], str]]:
        """The places of the tokens with their text; those that are parts of one letter together."""
        ends = [0, *(end for _, end in self.offsets)]
        groups: list[list[int]] = []
        for place in range(len(self)):
            start, end = self.offsets[place] if place < len(self.offsets) else (0, 0)
            if end > start and ends[place] > start and groups:
                groups[-1].append(place)
            else:
                groups.append([place])
        texts = self._pieces()
        return [
            (group, texts[group[0]] if len(group) == 1 else self.text[slice(*self._ends(group))]) for group in groups
        ]

    def _ends(self, places: Sequence[int]) -> tuple[int, int]:
        """Where the text of tokens begins and ends."""
        return self.offsets[places[0]][0], self.offsets[places[-1]][1]

    def read(self) -> list[str]:
        r"""The text of each token by its name; of a token that is part of a letter its bytes, as ``\xc3``."""
        parts = {place for place, part in enumerate(parts_of_letters(self.offsets)) if part}
        return [in_bytes(name) if i in parts else readable(name) for i, name in enumerate(self.str_tokens)]


PromptLike = str | Prompt | Messages
"""What can be made into one prompt."""

Prompts = PromptLike | Sequence[PromptLike]
"""One or many. A list of mappings is one conversation."""


def _short(text: str, limit: int = 60) -> str:
    """A text with its middle left out where it is long: both ends say what a prompt is."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[len(text) - limit + half + 1 :]}"
