"""Splits that share questions are refused; topics of one's own have no fidelity."""

import math
from dataclasses import replace

import pytest

from mechsteer.errors import MechsteerError
from mechsteer.tasks import Instructions, instructions
from mechsteer.tasks.instructions import is_true
from mechsteer.tasks.splits import check_disjoint


def test_the_bundled_splits_share_nothing() -> None:
    check_disjoint(instructions(split="validation"), instructions())
    check_disjoint(instructions(split="validation"), instructions(topics="held_out"))


def test_shared_questions_are_counted_under_whatever_instruction() -> None:
    test = instructions("upper", n=4)
    other = instructions("lower", split="validation", n=3)
    asked = replace(other.samples[0], task=test.samples[2].task)
    validation = Instructions("mine", (asked, *other.samples[1:]))
    with pytest.raises(MechsteerError, match=r"^1 of 4 test prompts ask"):
        check_disjoint(validation, test)
    with pytest.raises(MechsteerError, match=r"^4 of 4 test prompts ask"):
        check_disjoint(test, test)


def test_nothing_is_known_about_ones_own_topics() -> None:
    sample = replace(instructions("upper", n=1).samples[0], topic="unicorn")
    assert math.isnan(is_true(sample, "The unicorn is white."))
