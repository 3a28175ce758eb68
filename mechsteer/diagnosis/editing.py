"""Prompts with a part taken out or put elsewhere: edits of the text that the model reads, template included."""

import random
import re
from collections.abc import Sequence
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.prompts import Prompt
from mechsteer.prompts.making import tokenised
from mechsteer.prompts.templates import CharSpans, Rendered, trimmed

Range = tuple[int, int]


def char_ranges(prompt: Prompt, span: str) -> list[Range]:
    """Where a span's text is in the prompt's text, white space at the ends left out.

    Raises:
        MechsteerError: for a prompt without the span, or whose tokens have no places in its text.
    """
    if span not in prompt.spans or not prompt.offsets:
        raise MechsteerError(f"{prompt!r} has no span {span!r} with a place in its text.")
    ranges = [(prompt.offsets[a][0], prompt.offsets[b - 1][1]) for a, b in prompt.spans[span]]
    return [trimmed(prompt.text, a, b) for a, b in ranges]


def named_ranges(prompt: Prompt) -> CharSpans:
    """Every span of a prompt as ranges of characters."""
    return {name: char_ranges(prompt, name) for name in prompt.spans}


def remade(model: Any, prompt: Prompt, text: str, spans: CharSpans) -> Prompt:
    """Another text in the prompt's template.

    Raises:
        MechsteerError: if nothing is left of it.
    """
    return tokenised(model, Rendered(text, spans, prompt.answer_lead), prompt.template)


def without_span(model: Any, prompt: Prompt, span: str) -> Prompt:
    """The prompt with a span, and the white space behind it, cut out of its text."""
    cut = [_with_space(prompt.text, a, b) for a, b in char_ranges(prompt, span)]
    text, spans = _cut(prompt.text, named_ranges(prompt), cut)
    return remade(model, prompt, text, {name: found for name, found in spans.items() if found and name != span})


def with_last(model: Any, prompt: Prompt, instruction: str, *, span: str = "instruction") -> Prompt:
    """The prompt with an instruction behind its task, an empty line between.

    Raises:
        MechsteerError: for a prompt that does not say where its task is.
    """
    spans = named_ranges(prompt)
    end = max(b for _, b in char_ranges(prompt, "task"))
    added = f"\n\n{instruction}"
    text = prompt.text[:end] + added + prompt.text[end:]
    moved: CharSpans = {
        name: [(a + len(added) * (a >= end), b + len(added) * (b > end)) for a, b in found]
        for name, found in spans.items()
    }
    moved[span] = [*moved.get(span, []), (end + 2, end + len(added))]
    return remade(model, prompt, text, moved)


def with_words_shuffled(model: Any, prompt: Prompt, span: str, seed: int) -> Prompt:
    """The prompt with the words of a span in another order; the white space stays where it is."""
    text, rng = prompt.text, random.Random(seed)
    for start, end in char_ranges(prompt, span):
        words, spaces = text[start:end].split(), re.findall(r"\s+", text[start:end])
        rng.shuffle(words)
        mixed = "".join(a + b for a, b in zip(words, [*spaces, ""], strict=True))
        text = text[:start] + mixed + text[end:]
    return remade(model, prompt, text, named_ranges(prompt))


def content_of(prompt: Prompt) -> tuple[str, CharSpans]:
    """What a template was put around, with its spans: from the first named span to the end of the last.

    Raises:
        MechsteerError: for a prompt without spans.
    """
    spans = named_ranges(prompt)
    places = [place for found in spans.values() for place in found]
    if not places:
        raise MechsteerError(f"{prompt!r} has no spans, so that nobody knows its content.")
    start, end = min(a for a, _ in places), max(b for _, b in places)
    return prompt.text[start:end], {name: [(a - start, b - start) for a, b in found] for name, found in spans.items()}


def _with_space(text: str, start: int, end: int) -> Range:
    rest = text[end:]
    return start, end + len(rest) - len(rest.lstrip())


def _cut(text: str, spans: CharSpans, cut: Sequence[Range]) -> tuple[str, CharSpans]:
    """The text and the spans without ranges of characters."""
    gone = {place for a, b in cut for place in range(a, b)}
    before = [0]  # characters kept before each place
    for place in range(len(text)):
        before.append(before[-1] + (place not in gone))
    kept = "".join(letter for place, letter in enumerate(text) if place not in gone)
    moved = {name: [(before[a], before[b]) for a, b in found] for name, found in spans.items()}
    return kept, {name: [(a, b) for a, b in found if b > a] for name, found in moved.items()}
