"""What a tuning is said to take."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tuning.estimate import ARMS, BESIDE, SLOWER, Estimate, Seen, Work, estimate
from mechsteer.tuning.halves import halves
from mechsteer.tuning.ladders import families_of


def test_answers_are_counted(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    samples = [{"prompt": text, "instruction": "answer"} for text in "the a on red blue house mat cat".split()]
    choosing, reporting = halves(ms.task(samples, "uppercase", max_new_tokens=6))
    aside = ms.task(["the cat", "a dog"], "lowercase", max_new_tokens=5)
    one, two, gate = (
        estimate(model, choosing, reporting, aside, families_of(methods), 2.5, 4)
        for methods in ("guide", ("guide", "vector"), "directer")
    )
    assert one.answers == 10 + 4 + 4 * ARMS and two.answers == one.answers + 10 and one.longest == 6
    assert one.fixed > BESIDE and one.each > 0 and one.megabytes > 0
    assert one.work == Work(own=4 + 4 * ARMS, steered=12.0, side=10, readings=12)
    assert two.work == Work(own=4 + 4 * ARMS, steered=24.0, side=20, readings=12 + 8 * 3)
    assert gate.work == Work(own=4 + 4 * ARMS, steered=10 * SLOWER["gate"], side=10, writings=12 * SLOWER["gate"])


def test_what_was_timed_is_counted_for_all_that_remains() -> None:
    work = Work(own=10, steered=20, side=100, readings=5, writings=2)
    said = Estimate(answers=30, longest=40, fixed=1.0, each=1.0, megabytes=9.0, work=work)
    after = said.after(Seen(token=0.1, reading=0.5, writing=1.0))
    assert (after.each, after.fixed) == (pytest.approx(3.0), pytest.approx(10 + 2.5 + 2 + BESIDE))
    assert said.after(Seen(token=0.001, reading=0.5, writing=1.0)) == said  # its answers had been kept


def test_shorter_answers_take_less() -> None:
    said = Estimate(answers=100, longest=128, fixed=60.0, each=6.0, megabytes=700.0)
    assert said.minutes(128) == pytest.approx(13.8)
    assert str(said).startswith("At most 12,800 new tokens: about 13.8 minutes on this machine")
    assert "have 40 tokens on average: about 5.0 minutes" in said.of_length(40.2)
