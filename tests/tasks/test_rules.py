"""Rules: the prompt, which words are for learning, what counts as right, and files of one's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks.rules import Asked, bundled_rules, is_right, rules


def test_the_prompt_by_hand() -> None:
    sample = Asked("bridge", ("le pont",), (("cat", "le chat"), ("dog", "le chien")))
    assert sample.text == "Q: cat\nA: le chat\n\nQ: dog\nA: le chien\n\nQ: bridge\nA:"
    assert Asked("bridge", ("le pont",)).text == "Q: bridge\nA:"


@pytest.mark.parametrize(
    ("output", "right"),
    [(" le pont\n\nQ: x", True), ("le pont", True), (" Le pont\n", False), (" le pont neuf", False), ("", False)],
)
def test_the_first_line_must_be_exactly_right(output: str, right: bool) -> None:
    assert is_right(Asked("bridge", ("le pont", "pont")), output) is right


def test_a_word_is_on_one_side_in_every_rule() -> None:
    sides: dict[str, set[str]] = {}
    for rule in bundled_rules():
        if rule.startswith("antonym"):
            continue
        for split in ("train", "test"):
            for sample in rules(rule, split=split).samples:
                sides.setdefault(sample.question.lower(), set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    train, test = ({s.question for s in rules("capitalise", split=s).samples} for s in ("train", "test"))
    assert not train & test and len(train) + len(test) == 305 and 0.4 < len(test) / 305 < 0.6


def test_a_pair_both_ways_is_on_one_side() -> None:
    train, test = (rules("antonym", split=split).samples for split in ("train", "test"))
    assert len(train) + len(test) == 88
    words = {s.question for s in train} | {s.answers[0] for s in train}
    assert not words & {s.question for s in test}


def test_shots_are_training_words_and_never_the_question() -> None:
    train = {(s.question, s.answers[0]) for s in rules("antonym", split="train").samples}
    for split in ("train", "test"):
        for sample in rules("antonym", shots=3, split=split).samples:
            assert len(set(sample.shots)) == 3 and set(sample.shots) <= train
            assert sample.question not in {question for question, _ in sample.shots}
    first = rules("antonym", shots=3).samples
    assert first == rules("antonym", shots=3).samples != rules("antonym", shots=3, seed=1).samples


def test_the_seed_draws_words_and_leaves_the_split() -> None:
    every = {s.question for s in rules("english-french", split="train").samples}
    drawn = [[s.question for s in rules("english-french", split="train", n=8, seed=s).samples] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(words)) == 8 and set(words) <= every for words in drawn)


def test_a_file_in_the_public_format(tmp_path: Path, tiny: Callable) -> None:
    path = tmp_path / "colours.json"
    rows = [{"input": f"w{i}", "output": "red"} for i in range(20)] + [{"output": " blue ", "input": "w3"}]
    path.write_text(json.dumps(rows), encoding="utf-8")
    task = rules(path, shots=1)
    assert task.name.startswith("rules[colours") and task.data_hash != rules(path).data_hash
    both = [s for split in ("train", "test") for s in rules(str(path), split=split).samples]
    assert len(both) == 20 and next(s for s in both if s.question == "w3").answers == ("red", "blue")
    for family in ("gpt2", "t5"):
        table = ms.evaluate(tiny(family), task)
        assert {"rule", "shots", "question", "answer", "output", "correct"} <= set(table.columns)
        assert table["shots"].eq(1).all() and table["prompt"].tolist() == [s.text for s in task.samples]


def test_examples_are_what_a_vector_learns_from(tiny: Callable) -> None:
    model = tiny("gpt2", chat=True)
    task = rules("english-french", split="train", n=3)
    for (made, target), sample in zip(task.examples(model), task.samples, strict=True):
        assert made.text == sample.text and target == f" {sample.answers[0]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a list of"),
        ("[]", "is not a list of"),
        ('[{"input": "a", "output": "b"}, {"input": "a"}]', "entry 1"),
        ('[{"input": "a", "output": ["b"]}]', "entry 0"),
        ('[{"input": "a", "output": " "}]', "entry 0"),
        ('[{"input": "a\\nb", "output": "c"}]', "texts of one line"),
        ("[", "is not a JSON file"),
    ],
)
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ms.MechsteerError, match=message):
        rules(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name_or_path": "antonim"}, "Did you mean 'antonym'"),
        ({"name_or_path": "none.json"}, "No such file"),
        ({"name_or_path": "mine.jsonl"}, "name ends in .json, got 'mine.jsonl'"),
        ({"name_or_path": 3}, "is a name or a JSON file"),
        ({"split": "dev"}, "Unknown split"),
        ({"n": 0}, "n must be"),
        ({"n": 99}, "has 56 test words, 99 were asked for"),
        ({"shots": -1}, "shots must be"),
        ({"shots": 32, "split": "train"}, "32 shots were asked for; the rule 'antonym' has 31 training words"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str, unchecked: None) -> None:
    given: dict[str, Any] = {"name_or_path": "antonym"} | options
    with pytest.raises(ms.MechsteerError, match=message):
        rules(**given)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    text = json.dumps([{"input": word, "output": word.upper()} for word in ("été", "b", "c", "d", "e", "f")])
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / f"{encoding}.json").write_text(text, encoding=encoding)
    plain, marked = (ms.tasks.rules(tmp_path / f"{encoding}.json") for encoding in ("utf-8", "utf-8-sig"))
    assert plain.samples == marked.samples and len(plain.samples)
