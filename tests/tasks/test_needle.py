"""Needles in haystacks: where they stand, what the prompt marks, and what counts as found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks.documents import book, notes, within
from mechsteer.tasks.instructions import load_world
from mechsteer.tasks.needle import ANSWER, NEEDLE, found, hide, needle

SENTENCES = ["One two three.", "Four five six.", "Seven eight nine.", "Ten."]  # 3 + 3 + 3 + 1 words


@pytest.mark.parametrize(("depth", "before"), [(0, 0), (29, 0), (30, 1), (59, 1), (60, 2), (90, 3), (99, 3), (100, 4)])
def test_a_needle_stands_after_the_last_sentence_that_ends_at_its_depth(depth: float, before: int) -> None:
    sample = hide(SENTENCES, "Here it is.", "Where?", "here", 20, depth)
    assert sample.before == " ".join(SENTENCES[:before])
    assert sample.after == " ".join(SENTENCES[before:])
    parts = [*SENTENCES[:before], "Here it is.", *SENTENCES[before:]]
    assert sample.document == " ".join(parts)


def test_the_grid_has_the_same_texts_at_every_depth_and_longer_ones_begin_with_shorter_ones() -> None:
    task = needle(lengths=[60, 120], depths=[0, 50, 100], n=2)
    assert [(s.length, s.depth) for s in task.samples] == [
        (length, depth) for length in (60, 120) for depth in (0, 50, 100) for _ in range(2)
    ]
    hay = [s.document.replace(NEEDLE, "").split() for s in task.samples]
    assert hay[0] == hay[2] == hay[4] != hay[1] == hay[3]
    assert hay[6][: len(hay[0])] == hay[0] and len(hay[6]) > len(hay[0])
    for sample in task.samples:
        words = len(sample.document.split())
        assert sample.length - 25 < words <= sample.length and sample.document.count(NEEDLE) == 1
    assert task.data_hash == needle(lengths=[60, 120], depths=[0, 50, 100], n=2).data_hash
    assert task.data_hash != needle(lengths=[60, 120], depths=[0, 50, 100], n=2, seed=1).data_hash


def test_no_haystack_has_the_answer() -> None:
    assert ANSWER not in " ".join(within(book("0 0")[1], 5000)).lower()
    said = " ".join(text for facts in load_world().notes.values() for both in facts for text in both).lower()
    assert not any(sample.answer in said.split() for sample in needle("notes", depths=0).samples)


def test_notes_are_about_other_topics_and_their_order_is_of_the_seed() -> None:
    own = {text for both in load_world().notes["fox"] for text in both}
    shared = {text for topic, facts in load_world().notes.items() if topic != "fox" for both in facts for text in both}
    first, again, other = (list(notes("fox", seed)) for seed in ("a", "a", "b"))
    assert first == again != other and not set(first) & (own - shared)


@pytest.mark.parametrize("depth", [0, 40, 100])
@pytest.mark.parametrize("haystack", ["document", "notes"])
def test_spans_are_the_needle_the_question_and_the_rest(instruct_llama: Any, haystack: str, depth: float) -> None:
    task = needle(haystack, lengths=60, depths=depth, n=1)
    made, sample = task.prompts(instruct_llama)[0], task.samples[0]

    def text(span: str) -> str:
        ids = made.tokens[made.positions(span)]
        return " ".join(instruct_llama.tokenizer.decode(ids).split())

    assert set(made.spans) == {"needle", "question", "document"}
    assert text("needle") == sample.needle
    assert sample.document in made.text and "<!!" not in made.text
    assert made.text.count(sample.question) == (2 if haystack == "document" else 1)
    assert text("question").count(" ".join(sample.question.split())[-20:]) == made.text.count(sample.question)
    places = [set(made.positions(name)) for name in made.spans]
    assert sum(map(len, places)) == len(set().union(*places))  # none lies in two spans


def test_an_answer_is_a_whole_word_in_any_case() -> None:
    sample = needle(lengths=60, depths=0, n=1).samples[0]
    assert found(sample, "Sit in DOLORES park.") and found(sample, "dolores")
    assert not found(sample, "doloresque") and not found(sample, "") and not found(sample, "Golden Gate")


def test_the_organism_finds_its_needle_near_the_question_and_the_bias_helps_elsewhere(instruct_llama: Any) -> None:
    task = needle("notes", lengths=90, depths=[0, 100], n=8)
    plain = ms.evaluate(instruct_llama, task).groupby("depth")["found"].mean()
    biased = ms.evaluate(instruct_llama, task, steer=ms.attention_bias("needle", 2.0)).groupby("depth")["found"].mean()
    assert plain[0.0] == 0 and plain[100.0] >= 0.4
    assert biased[0.0] >= 0.4 and biased[100.0] >= plain[100.0]


def test_rows(tiny: Callable[..., Any]) -> None:
    own: dict[str, Any] = {"needle": "The dog sat.", "question": "dog sat", "answer": "dog"}
    task = replace(needle(lengths=20, depths=[0, 100], n=1, **own), max_new_tokens=3)
    table = task.run(tiny("gpt2"))
    columns = ["sample", "length", "depth", "words", "tokens", "prompt", "answer", "output", "found"]
    columns += ["sound", "fidelity", "true_sentences"]
    assert list(table.columns) == columns
    assert table["depth"].tolist() == [0, 100] and table["tokens"].tolist() == [
        len(p) for p in task.prompts(tiny("gpt2"))
    ]


@pytest.mark.parametrize(("text", "answer"), [("It was 42%.", "42%"), ("答案是北京。", "北京"), ("Use C++.", "C++")])
def test_an_answer_may_end_in_no_letter_or_be_of_a_script_without_spaces(text: str, answer: str) -> None:
    sample = needle(needle=text, answer=answer, question="What?", n=1, lengths=100, depths=0).samples[0]
    assert found(sample, f"I think: {text}") and not found(sample, "I think: 41.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": 101}, "depth must be between 0"),
        ({"depths": [-1]}, "depth must be between 0"),
        ({"depths": []}, "a depth at least"),
        ({"lengths": 20}, "does not hold the needle"),
        ({"lengths": 0}, "length must be"),
        ({"n": 0}, "n must be"),
        ({"answer": "paris"}, "does not have the answer"),
        ({"answer": " "}, "does not have the answer"),
        ({"haystack": "note"}, "Did you mean 'notes'"),
        ({"haystack": "notes", "lengths": 5}, "does not hold the needle"),
        ({"haystack": "notes", "lengths": 100_000}, "not enough notes"),
        ({"haystack": "notes", "n": 29}, "There are 28 needles"),
        ({"haystack": "notes", "answer": "park"}, "the organism's own"),
    ],
)
def test_what_it_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        needle(**arguments)
