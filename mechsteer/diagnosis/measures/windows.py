"""The instruction's tokens and, as controls, as many tokens elsewhere in the same prompt."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mechsteer.diagnosis.cases import SPAN
from mechsteer.prompts import Prompt

CONTROLS = ("control 1", "control 2", "control 3")
SPANS = (SPAN, *CONTROLS)
FIRST_TOKEN = "first token"


def windowed(prompt: Prompt, seed: int) -> Prompt | None:
    """The prompt with the spans :data:`SPANS` alone: the instruction, and stretches of the same length elsewhere.

    (And :data:`FIRST_TOKEN`, for what a sink takes.)

    The sequence's first position is in none of them, for it may be an attention sink, without which nothing works.
    Controls lie in the prompt's named text (task, context) where it has some, else anywhere but in its last token, and
    may be shorter than the instruction where the rest of the prompt is.

    Args:
        prompt: The prompt.
        seed: Decides where the controls lie.

    Returns:
        None where there is nothing beside the instruction.
    """
    first = 0 if prompt.encoder_decoder else 1
    inside = [place for place in prompt.positions(SPAN) if place >= first]
    named = {place for name in prompt.spans if name != SPAN for place in prompt.positions(name)}
    anywhere = range(first, len(prompt) - 1)
    outside = [place for place in anywhere if place in named and place not in inside]
    outside = outside or [place for place in anywhere if place not in inside]
    if not inside or not outside:
        return None
    size, rng = min(len(inside), len(outside)), random.Random(seed)
    starts = [rng.randrange(len(outside) - size + 1) for _ in CONTROLS]
    chosen = {SPAN: inside} | {
        name: outside[start : start + size] for name, start in zip(CONTROLS, starts, strict=True)
    }
    chosen[FIRST_TOKEN] = [0]
    return replace(prompt, spans={name: _ranges(places) for name, places in chosen.items()})


def _ranges(places: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for place in places:
        if ranges and ranges[-1][1] == place:
            ranges[-1] = (ranges[-1][0], place + 1)
        else:
            ranges.append((place, place + 1))
    return ranges
