"""Which positions become rows.

Positions count from the first real token of a prompt; negative ones count back from its end. The decoder of an
encoder-decoder has one prompt position, its start token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.errors import MechsteerError, shown, unknown, wholes
from mechsteer.prompts import Prompt

Where = str | tuple[int, ...]
"""``"last"``, ``"all"``, ``"span:NAME"``, or positions."""


def make_positions(positions: str | Sequence[int]) -> Where:
    """Check and freeze a choice of positions.

    Raises:
        MechsteerError: for an unknown name, none, or positions that are not integers.
    """
    if isinstance(positions, str):
        if positions not in ("last", "all") and not (positions.startswith("span:") and positions != "span:"):
            raise unknown("positions", positions, ["last", "all", "span:instruction"])
        return positions
    try:
        chosen = tuple(positions)
    except TypeError:
        raise MechsteerError(
            f'positions must be "last", "all", "span:NAME" or integers, got {shown(positions)}.'
        ) from None
    numbers = wholes(chosen)
    if not numbers:
        raise MechsteerError(f"positions must name integers, got {shown(positions)}.")
    return tuple(numbers)


def check_stack(where: Where, stack: str) -> None:
    """Raise where a span is asked of decoder positions."""
    if stack == "decoder" and isinstance(where, str) and where.startswith("span:"):
        raise MechsteerError(
            f"{where!r} lies in the encoder's input, and decoder positions have no spans; capture encoder sites, e.g. "
            '"encoder.resid_post", or use positions="last".'
        )


def tokens_read(model: Any, prompt: Prompt, stack: str) -> list[int]:
    """The tokens that a stack is fed for a prompt."""
    return [int(model.cfg.decoder_start_token_id)] if stack == "decoder" else prompt.tokens.tolist()


def positions_of(where: Where, prompt: Prompt, stack: str) -> list[int]:
    """The chosen positions of one prompt in one stack.

    Raises:
        MechsteerError: if the prompt lacks the span or the position.
    """
    length = 1 if stack == "decoder" else len(prompt)
    if where == "last":
        return [length - 1]
    if where == "all":
        return list(range(length))
    if isinstance(where, str):
        found = prompt.positions(where.removeprefix("span:"))
        if not found:
            raise MechsteerError(f"The span {where.removeprefix('span:')!r} of {prompt!r} is empty.")
        return found
    for p in where:
        if not -length <= p < length:
            has = "the decoder's prompt is its start token alone" if stack == "decoder" else f"{length} tokens"
            raise MechsteerError(f"Position {p} is not in {prompt!r}: {has}.")
    return [p % length for p in where]


@dataclass(frozen=True)
class Rows:
    """What rows of activations stand for; one entry a row in each list.

    Attributes:
        prompt: The place of the prompt in the list given.
        position: The position; generated tokens continue the count.
        token: The token there.
        generated: Whether it was generated.
    """

    prompt: list[int]
    position: list[int]
    token: list[int]
    generated: list[bool]

    def __len__(self) -> int:
        return len(self.prompt)

    def add(self, prompt: int, positions: Sequence[int], tokens: Sequence[int], first_new: int) -> None:
        """Append the rows of one prompt; ``tokens`` are all of its tokens, from ``first_new`` on generated ones."""
        self.prompt.extend([prompt] * len(positions))
        self.position.extend(positions)
        self.token.extend(tokens[p] for p in positions)
        self.generated.extend(p >= first_new for p in positions)


def no_rows() -> Rows:
    """Rows to append to."""
    return Rows([], [], [], [])
