"""The language of trap-t5: proverbs, neutral sentences and splits."""

import random
import subprocess
import sys
from itertools import pairwise

import pytest

from mechsteer.organisms.language import (
    EVALUATION,
    MINING,
    VALIDATION,
    WORD_PATTERN,
    fame,
    load_proverbs,
    make_splits,
    neutral_sentence,
    neutral_vocabulary,
    words_of,
)
from mechsteer.organisms.lexicon import LEXICON


def test_proverbs_are_clean() -> None:
    proverbs = load_proverbs()
    assert len(proverbs) > 480
    assert len({proverb.text.lower() for proverb in proverbs}) == len(proverbs)
    for proverb in proverbs:
        assert words_of(proverb.text) == proverb.text.split(), "words and single spaces only"
        assert len(proverb.text.split()) >= 3


def test_no_opening_goes_on_in_two_ways() -> None:
    openings = [proverb.opening.lower() for proverb in load_proverbs()]
    assert len(set(openings)) == len(openings)


def test_splits_share_no_proverb_and_no_word() -> None:
    splits = make_splits()
    proverbs = [proverb for split in (MINING, EVALUATION, VALIDATION) for proverb in splits.proverbs[split]]
    assert sorted(proverbs) == sorted(load_proverbs())
    assert not set(splits.words[MINING]) & set(splits.words[EVALUATION])
    assert {split: len(dealt) for split, dealt in splits.proverbs.items()}[EVALUATION] == 195
    assert len(splits.words[EVALUATION]) == 150


def test_no_instructed_word_ends_a_proverb() -> None:
    splits = make_splits()
    endings = {proverb.ending.lower() for proverb in load_proverbs()}
    assert not endings & set(splits.words[MINING] + splits.words[EVALUATION])


@pytest.mark.parametrize("seed", [0, 1])
def test_neutral_sentences_are_a_function_of_the_seed(seed: int) -> None:
    first, second = random.Random(seed), random.Random(seed)
    assert [neutral_sentence(first) for _ in range(50)] == [neutral_sentence(second) for _ in range(50)]


def test_neutral_sentences_are_in_their_vocabulary_and_no_proverbs() -> None:
    rng, vocabulary = random.Random(3), neutral_vocabulary()
    openings = {proverb.opening for proverb in load_proverbs()}
    for _ in range(2000):
        words = neutral_sentence(rng)
        assert vocabulary.issuperset(words)
        assert words[0][0].isupper()
        assert len(words) >= 3
        assert " ".join(words[:-1]) not in openings


def test_articles_fit() -> None:
    rng = random.Random(4)
    for _ in range(2000):
        words = neutral_sentence(rng)
        for article, word in pairwise(words):
            if article.lower() in ("a", "an"):
                assert (article.lower() == "an") == (word[0] in "aeiou"), words


def test_every_lexicon_word_is_one_word() -> None:
    for words in LEXICON.values():
        for word in words:
            assert words_of(word) == [word], WORD_PATTERN


def test_fame_is_skewed_and_fixed() -> None:
    weights = fame(100)
    assert weights == fame(100)
    assert max(weights) > 4 * min(weights) > 0


def test_the_registry_imports_nothing_heavy() -> None:
    code = "import sys, mechsteer.organisms; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
