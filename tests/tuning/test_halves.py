"""Halves share no question, hold all kinds, and depend on what is asked and the seed alone."""

import random
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks import instructions
from mechsteer.tuning.halves import asked, blocks, halves


def own(count: int, kinds: int = 1) -> Any:
    rows = [
        {"prompt": f"Question {i}?", "instruction": wish, "kind": f"k{i % kinds}"}
        for i in range(count)
        for wish in ("Be short.", "Be brief.")
    ]
    return ms.task(rows, "max_words:3", name="own")


@pytest.mark.parametrize("make", [lambda: own(9), lambda: own(12, 3), lambda: instructions(n=6, notes=2)])
def test_halves_share_no_question_and_lose_none(make: Any) -> None:
    task = make()
    first, second = halves(task)
    mine, theirs = ({asked(s) for s in one.samples} for one in (first, second))
    assert not mine & theirs
    together = sorted(map(repr, (*first.samples, *second.samples)))
    assert together == sorted(map(repr, task.samples))
    assert abs(len(mine) - len(theirs)) <= 1
    kinds = [{s.kind for s in one.samples} for one in (first, second)]
    assert kinds[0] == kinds[1] == {s.kind for s in task.samples}


def test_one_question_about_several_texts_is_several() -> None:
    texts = [{"prompt": "Sum it up.", "instruction": wish, "context": f"Text {i}."} for i in range(8) for wish in "ab"]
    task = ms.task(texts, "lowercase")
    for first, second in (halves(task), (task.on("validation"), task.on("evaluation"))):
        mine, theirs = ({s.context for s in one.samples} for one in (first, second))
        assert len(mine) == len(theirs) == 4 and not mine & theirs and len(first.samples) == len(second.samples) == 8


def test_order_of_the_samples_does_not_matter_but_the_seed_does() -> None:
    task = own(10)
    moved = list(task.samples)
    random.Random(0).shuffle(moved)
    from dataclasses import replace

    other = replace(task, samples=tuple(moved))
    sets = [{s.text for s in halves(one, seed=seed)[0].samples} for one in (task, other) for seed in (0, 1)]
    assert sets[0] == sets[2] and sets[1] == sets[3] and sets[0] != sets[1]


def test_every_beginning_has_all_kinds() -> None:
    first, _ = halves(own(24, 3))
    assert {s.kind for s in first.samples[:3]} == {"k0", "k1", "k2"}


def test_a_validation_task_is_taken_whole_and_must_be_of_other_questions() -> None:
    task, validation = instructions("upper", n=5), instructions("upper", n=4, split="validation")
    first, second = halves(task, validation)
    assert second is task and sorted(s.topic for s in first.samples) == sorted(s.topic for s in validation.samples)
    with pytest.raises(ms.MechsteerError, match="5 questions are in both"):
        halves(task, instructions("lower", n=5))


@pytest.mark.parametrize(("count", "said"), [(2, "too few"), (1, "too few")])
def test_too_few_prompts_are_named(count: int, said: str) -> None:
    with pytest.raises(ms.MechsteerError, match=said):
        halves(own(count))


def test_that_prompts_ask_the_same_is_said_where_they_are_too_few() -> None:
    def same(*questions: str) -> Any:
        asked = [{"prompt": one, "instruction": f"Say {word}."} for one in questions for word in ("a", "b", "c")]
        return ms.task(asked, "lowercase")

    for task, said in (
        (same("Why?"), r"^0 prompts to choose on .* has 3, which ask one question: what asks the same is on one side"),
        (same("Why?"), r"one side\.$"),
    ):
        with pytest.raises(ms.MechsteerError, match=said):
            halves(task)
    assert [len(half.samples) for half in halves(same("Why?", "Who?"))] == [3, 3]
    with pytest.raises(ms.MechsteerError, match=r"The task 'lowercase' has 3\.$"):
        halves(ms.task(["a", "b", "c"], "lowercase"))


def test_a_task_that_writes_nothing_is_refused() -> None:
    with pytest.raises(ms.MechsteerError, match="whose answers are generated"):
        halves(ms.tasks)


@pytest.mark.parametrize("count", [3, 4, 7, 10, 42, 270])
def test_blocks_are_the_prompts_in_order(count: int) -> None:
    found = blocks(count)
    assert [place for first, end in found for place in range(first, end)] == list(range(count))
    sizes = [end - first for first, end in found]
    assert len(found) <= 8 and min(sizes) >= 3 and len(set(sizes[:-1])) <= 1
