"""Measures of texts against hand-worked cases, and by what must not matter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechsteer.quality.texts import compressibility, copied, has_content, is_empty, is_loop, repetition, words


def test_repetition_by_hand() -> None:
    # a b c d a b c d: runs abcd bcda cdab dabc abcd: four different of five
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("one two three") == repetition("") == 0
    assert repetition("The cat sat down. " * 10) == pytest.approx(1 - 4 / 37)
    assert repetition("猫猫猫猫猫猫") == pytest.approx(2 / 3)


@given(st.text(max_size=200))
def test_measures_are_shares_whatever_the_text(text: str) -> None:
    for measure in (repetition, compressibility):
        assert 0 <= measure(text) <= 1
    assert repetition(text.upper().lower()) == repetition(text.lower())
    assert copied(text, text) in (0, 1)


def test_compressibility() -> None:
    assert compressibility("") == compressibility("a quick one") == 0
    prose = "Rain forms when warm air rises, cools down and gives off the water that it carries."
    assert compressibility("again " * 50) > 0.9 > 0.3 > compressibility(prose)


def test_copies_are_counted_within_sentences() -> None:
    prompt = "Use the word tea. What do you like to drink at home?"
    assert copied("What do you like to drink at home? What do you like to drink at home?", prompt) == 1
    assert copied("I like to drink tea at home.", prompt) == pytest.approx(0)
    assert copied("What do you like to eat", prompt) == pytest.approx(2 / 3)


def test_contents() -> None:
    assert words("Élan, 3 x!") == ["élan", "3", "x"] and words("猫です") == ["猫", "で", "す"]
    assert words("cafe\u0301 नीला می\u200cشود ❤\ufe0f 1\ufe0f") == ["cafe\u0301", "नीला", "می\u200cشود", "1"]
    thai = "ท้องฟ้าเป็นสีฟ้าเพราะแสงอาทิตย์กระเจิงในชั้นบรรยากาศและสีน้ำเงินกระเจิงมาก"  # 24 different letters of 60
    assert has_content(thai) and len(words(thai)) == 60 and is_loop("ชา" * 4) and is_loop("ชา" * 30)
    assert words("ชา tea") == ["ช", "า", "tea"]
    hindi = "आसमान नीला है और पानी नीला है और पेड़ हरा है।"  # of letters and vowels apart, few would be different
    assert has_content(hindi) and len(words(hindi)) == 11 and repetition(hindi) == pytest.approx(0)
    assert is_empty(" \n.,!") and not is_empty("7")
    assert has_content("ok") and has_content("7") and not has_content("l") and not has_content("- -")
    assert is_loop("no no no") and is_loop("la le la le la le") and not is_loop("one two two")
