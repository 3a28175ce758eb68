"""What a tuning is said to take."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tuning.estimate import ARMS, Estimate, estimate
from mechsteer.tuning.halves import halves
from mechsteer.tuning.ladders import families_of


def test_answers_are_counted(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    samples = [{"prompt": text, "instruction": "answer"} for text in "the a on red blue house mat cat".split()]
    choosing, reporting = halves(ms.task(samples, "uppercase", max_new_tokens=6))
    one, two = (
        estimate(model, choosing, reporting, families_of(methods), 2.5, 4) for methods in ("guide", ("guide", "vector"))
    )
    assert one.answers == 10 + 4 + 4 * ARMS and two.answers == one.answers + 10 and one.longest == 6
    assert one.fixed > 0 and one.each > 0 and one.megabytes > 0


def test_shorter_answers_take_less() -> None:
    said = Estimate(answers=100, longest=128, fixed=60.0, each=6.0, megabytes=700.0)
    assert said.minutes(128) == pytest.approx(13.8)
    assert str(said).startswith("At most 12,800 new tokens: about 13.8 minutes on this machine")
    assert "have 40 tokens on average: about 5.0 minutes" in said.of_length(40.2)
