"""The instruction task: checkers by hand-worked texts, samples, splits, and a run on a small model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import Task
from mechsteer.tasks import Instructed, Instructions, instructions
from mechsteer.tasks.checkers import (
    KINDS,
    fidelity,
    is_french,
    is_json,
    is_list,
    is_lower,
    is_short,
    is_upper,
    mentions,
    sentences,
)
from mechsteer.tasks.instructions import follows, is_true, load_world
from tests.typecheck import unchecked

TRUTHS = {"the fox is red", "it can swim", "le renard est rouge"}


@pytest.mark.parametrize(
    ("checker", "passing", "failing"),
    [
        (is_upper, ["THE FOX.", "ÂNE 3"], ["The fox.", "", "3."]),
        (is_lower, ["the fox.", "{}a"], ["The fox.", "", "3."]),
        (is_list, ["- one\n- two", "* one\n\n* two", "1. one\n2) two"], ["one\n- two", "", "-one", "- "]),
        (is_json, ['{"a": 1}'], ["{}", "[1]", "", "{'a': 1}", '{"a": 1', "3"]),
    ],
)
def test_checkers_of_form(checker, passing: list[str], failing: list[str]) -> None:
    assert all(checker(text) for text in passing)
    assert not any(checker(text) for text in failing)


def test_length() -> None:
    assert is_short("one two three", 3) and not is_short("one two three four", 3) and not is_short("", 3)


def test_french() -> None:
    lexicon = {"le", "renard", "est", "rouge", "l", "ours"}
    assert is_french("LE RENARD EST ROUGE.", lexicon) and is_french("L'ours est rouge", lexicon)
    assert is_french("le " * 9 + "fox", lexicon) and not is_french("le " * 8 + "fox", lexicon)
    assert not is_french("", lexicon)


def test_keyword() -> None:
    assert mentions("A LANTERN.", "lantern") and not mentions("lanterns", "lantern") and not mentions("", "lantern")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The fox is red. It can swim.", 1.0),
        ("THE FOX IS RED. IT CAN SWIM.", 1.0),
        ("- The fox is red.\n- It can swim.", 1.0),
        ('{"topic": "fox", "answer": "The fox is red. It can swim."}', 1.0),
        ('{"points": ["The fox is red.", "It can swim"]}', 1.0),
        ("Le renard est rouge.", 1.0),
        ("The fox is red. It can fly.", 0.5),
        ("The fox is red. The fox is red.", 0.5),
        ("The fox is red", 1.0),
        ("The fox is", 0.0),
        ("", 0.0),
        ('{"topic": "The fox is red."}', 0.0),
    ],
)
def test_fidelity(text: str, expected: float) -> None:
    assert fidelity(text, TRUTHS) == expected


def test_fidelity_leaves_the_word_asked_for_out() -> None:
    text = "The fox is red. It reminds me of the lantern."
    assert fidelity(text, TRUTHS) == 0.5 and fidelity(text, TRUTHS, word="lantern") == 1
    assert fidelity("lantern lantern", TRUTHS, word="lantern") == 0


def test_sentences_of_a_list_in_json() -> None:
    assert sentences('{"a": "- One.\\n- Two  three.", "b": 4}') == ["one", "two three"]


def test_all_kinds_in_each_split() -> None:
    for topics, each in (("trained", 28), ("held_out", 12)):
        for split in ("evaluation", "validation"):
            task = instructions(split=split, topics=topics)
            assert [sample.kind for sample in task.samples] == [kind for kind in KINDS for _ in range(each)]


def test_splits_share_no_topic_and_no_word() -> None:
    groups = [
        instructions(split=split, topics=topics).samples
        for split in ("evaluation", "validation")
        for topics in ("trained", "held_out")
    ]
    topics = [{sample.topic for sample in group} for group in groups]
    assert sum(map(len, topics)) == len(set().union(*topics)) == 80
    words = [{s.word for split in pair for s in split if s.word} for pair in (groups[:2], groups[2:])]
    assert words[0] and words[1] and not words[0] & words[1]


def test_notes_grow_and_are_about_others() -> None:
    few, many = instructions(notes=2).samples, instructions(notes=30).samples
    for a, b in zip(few, many, strict=True):
        assert b.context.startswith(f"{a.context} ")
        assert not any(load_world().notes[b.topic][0][wording] in b.context for wording in (0, 1))
    assert few == instructions(notes=2).samples
    assert all(not sample.context for sample in instructions().samples)


def test_options_are_in_the_name_and_the_hash() -> None:
    tasks = [
        instructions(),
        instructions("upper"),
        instructions(notes=1),
        instructions(with_instruction=False),
        instructions(split="validation"),
        instructions(topics="held_out"),
        instructions(wording="held_out"),
    ]
    assert len({task.name for task in tasks}) == len({task.data_hash for task in tasks}) == len(tasks)
    assert tasks[0].name == "instructions" and tasks[1].name == "instructions[kinds=upper]"
    assert instructions(n=2).data_hash == instructions(n=2).data_hash != tasks[0].data_hash
    assert isinstance(tasks[0], Task)


def test_a_kind_that_is_named_twice_has_its_prompts_once() -> None:
    twice = instructions(["upper", "json", "upper"], n=3)
    assert twice == instructions(["upper", "json"], n=3) and len(twice.samples) == 6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kinds": "uper"}, "upper"),
        ({"kinds": ["json", "yaml"]}, "yaml"),
        ({"kinds": []}, "kind"),
        ({"split": "test"}, "evaluation"),
        ({"topics": "new"}, "held_out"),
        ({"wording": "new"}, "held_out"),
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"n": 2.5}, "n must be an integer"),
        ({"n": "3"}, "n must be an integer"),
        ({"notes": 1.5}, "notes must be an integer"),
        ({"notes": "24"}, "notes must be an integer"),
        ({"kinds": 3}, "kinds must be a list"),
        ({"notes": -1}, "-1"),
        ({"notes": 5000}, "395"),
    ],
)
def test_bad_options(options: dict, named: str) -> None:
    with unchecked(), pytest.raises(MechsteerError, match=named):
        instructions(**options)


def test_scores_of_given_outputs() -> None:
    first = load_world().notes["fox"][0][0]
    sample = Instructed("upper", "fox", "Describe the fox.", "Use capitals.")
    assert follows(sample, f" {first.upper()}\n") and is_true(sample, f" {first.upper()}\n") == 1
    assert not follows(sample, first) and is_true(sample, "The fox.") == 0


def test_run_on_a_small_model(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    task = instructions(["upper", "keyword"], notes=1, n=2)
    rows = ms.evaluate(model, Instructions(task.name, task.samples, task.notes, max_new_tokens=3), batch_size=3)
    assert list(rows["kind"]) == ["upper", "upper", "keyword", "keyword"]
    assert rows["adherence"].dtype == bool and rows["fidelity"].between(0, 1).all()
    assert (rows["notes"] == 1).all() and rows["with_instruction"].all()
    assert set(rows.columns) >= {"sample", "prompt", "output", "data_hash", "method"}
    spans = [set(p.spans) for p in task.prompts(model)]
    assert spans == [{"instruction", "context", "task"}] * 4
    without = instructions(["upper", "keyword"], notes=1, n=2, with_instruction=False)
    assert [set(p.spans) for p in without.prompts(model)] == [{"context", "task"}] * 4
    assert [set(p.spans) for p in without.prompts(model, with_instruction=True)] == spans


def test_prompt_layout() -> None:
    from mechsteer.organisms.instruct_tokenizer import build_tokenizer

    model = SimpleNamespace(tokenizer=build_tokenizer(1024))
    (made,) = instructions("length", notes=1, n=1).prompts(model)
    sample = instructions("length", notes=1, n=1).samples[0]
    content = f"{sample.instruction}\n\n{sample.context}\n\n{sample.task}"
    assert made.text == f"<|begin|><|user|>{content}<|assistant|>"


def mean_scores(model: Any, **options: Any) -> tuple[float, float]:
    rows = ms.evaluate(model, instructions(n=6, **options))
    return rows["adherence"].mean(), rows["fidelity"].mean()


def test_bundled_organism_follows_when_told_and_only_then(instruct_llama: Any) -> None:
    adherence, fidelity = mean_scores(instruct_llama)
    assert adherence > 0.9 and fidelity > 0.9
    adherence, fidelity = mean_scores(instruct_llama, with_instruction=False)
    assert adherence < 0.1 and fidelity > 0.9


def test_bundled_organism_follows_less_with_many_notes(instruct_llama: Any) -> None:
    adherence, fidelity = mean_scores(instruct_llama, notes=24)
    assert adherence < 0.7 and fidelity > 0.6
