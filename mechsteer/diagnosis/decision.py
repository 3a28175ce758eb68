"""The first answer tokens that decide: where an answer that follows and one that does not part.

Of a prompt for which both are known, the model's own where it has been seen to give them: the tokens that they share,
then the one that leads to following and the one that leads away. An answer that ends where the other goes on has the
end token there. The margin is the log-probability of the first minus that of the second, at that place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.decoding.score import score_ids
from mechsteer.errors import MechsteerError
from mechsteer.models import continuation_ids, loaded_info
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention

FIRST = 8
"""How many tokens of an answer are its first ones."""


@dataclass(frozen=True)
class Decision:
    """Where two answers part.

    Attributes:
        shared: The tokens of both.
        follow: The token that leads to following.
        ignore: The one that does not.
    """

    shared: tuple[int, ...]
    follow: int
    ignore: int


def answer_ids(model: Any, prompt: Prompt, answer: str, *, ended: bool = True) -> list[int]:
    """The tokens of an answer behind its prompt, with the end token where it ended.

    Of a text without tokens, or that cannot stand behind the prompt, the end token alone.
    """
    end = list(loaded_info(model).eos_ids[:1])
    try:
        ids = continuation_ids(model, answer, prompt)
    except MechsteerError:
        return end
    return ids + end if ended or not ids else ids


def decision(follow: Sequence[int], ignore: Sequence[int]) -> Decision | None:
    """Where two answers part; None if they do not."""
    for place, (one, other) in enumerate(zip(follow, ignore, strict=False)):
        if one != other:
            return Decision(tuple(follow[:place]), one, other)
    return None


def margins(
    model: Any,
    prompts: Sequence[Prompt],
    decisions: Sequence[Decision | None],
    *,
    steer: Intervention | None = None,
    batch_size: int = 32,
) -> list[float]:
    """The margin of each prompt, nats; NaN where there is no decision."""
    known = [place for place, one in enumerate(decisions) if one is not None]
    found = [math.nan] * len(prompts)
    if known:
        choices = [[[*d.shared, d.follow], [*d.shared, d.ignore]] for d in map(decisions.__getitem__, known) if d]
        scores, _ = score_ids(model, [prompts[p] for p in known], choices, steer=steer, batch_size=batch_size)
        for place, (follow, ignore) in zip(known, scores.tolist(), strict=True):
            found[place] = follow - ignore
    return found
