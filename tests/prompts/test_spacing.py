"""Where people write a space between a text and the word that goes on after it, and where they write none."""

import pytest

from mechsteer.prompts.spacing import joined

APART = [
    ("The capital of France is", "Paris"),
    ("The Chinese name of Paris is", "巴黎"),
    ("서울은 한국의", "수도"),
    ('He said "yes"', "and"),
    ("He said (yes)", "and"),
    ("Answer:", "Paris"),
    ("it is,", "no"),
    ("one -", "two"),
    ("it's the dogs'", "house"),
    ("5 %", "of"),
    ("written in", ".NET"),
    ("###", "Response"),
    ("we say", "'tis"),
    ("عاصمة فرنسا هي", "باريس"),
]
TOGETHER = [
    ('The answer is "', "Paris"),
    ('"', "Paris"),
    ("She said '", "yes"),
    ("The answer (", "Paris"),
    ("la capitale est «", "Paris"),
    ("he said “", "yes"),
    ('the so-called ("', "Paris"),
    ("well-", "known"),
    ("and/", "or"),
    ("written by @", "someone"),
    ("it is #", "one"),
    ("It costs $", "12"),
    ("¿", "Dónde"),
    ("法国的首都是", "巴黎"),
    ("法国的首都是：", "巴黎"),
    ("フランスの首都は", "パリ"),
    ("เมืองหลวงคือ", "ปารีส"),
    ("the end", "."),
    ("the end", "..."),
    ("really", "?!"),
    ("the end)", ","),
    ("the writer", "'s"),
    ("the writer", "’s"),
    ("(yes", ")"),
    ("e", "\u0301"),
    ("a line\n", "Paris"),
]


@pytest.mark.parametrize(("before", "word"), APART)
def test_a_space(before: str, word: str) -> None:
    assert not joined(before, word)


@pytest.mark.parametrize(("before", "word"), TOGETHER)
def test_no_space(before: str, word: str) -> None:
    assert joined(before, word)
