"""No output that is no answer passes a strict form, answers do, and the published forms keep what they accepted."""

from dataclasses import replace

import pytest

import mechsteer as ms
from mechsteer.tasks.checkers import count_true, fidelity
from mechsteer.tasks.instructions import Instructed, load_world
from mechsteer.tasks.json_schema import JsonSchema, Structured
from mechsteer.tasks.memotrap import Trap
from mechsteer.tasks.needle import ANSWER, NEEDLE, QUESTION, Hidden
from tests.tasks.adversarial import outputs

KINDS = {
    "upper": (
        outputs.UPPER,
        [
            "HE IS FAMOUS FOR HIS BOATS.",
            "THE WRITER IS A GENTLE PERSON. HE WORKS IN THE THEATER.",
            "HE IS UNABLE TO SWIM, AND CAN'T CLIMB.",
            "ÉCRIVAIN CÉLÈBRE",
        ],
    ),
    "lower": (
        outputs.LOWER,
        [
            "he is famous for his boats.",
            "the writer is gentle. he often uses a ladder.",
            "he's sorry for the boats, writes at night and isn't famous.",
            "писатель добрый.",
        ],
    ),
    "list": (
        outputs.LIST,
        [
            "- He is gentle.\n- He works in the theater.",
            "1. boats\n2. a ladder",
            "- **Gentle**: he cannot swim.\n\n- Famous: for 12 boats.",
        ],
    ),
    "json": (
        outputs.JSON,
        [
            '{"topic": "writer", "answer": "He is gentle."}',
            '{"topic": "writer", "answer": {"facts": ["He is gentle.", "He often uses a ladder."]}}',
            '{"boats": 12}',
            '{"boats": true, "job": "sailor"}',
        ],
    ),
    "length": (
        outputs.LENGTH,
        ["He is famous for his boats.", "Gentle.", "boats and a ladder", "12", "He can't swim.", "Yes, he sleeps."],
    ),
    "french": (outputs.FRENCH, ["L'écrivain est doux et silencieux. Il se repose le matin.", "Il se repose le matin."]),
    "keyword": (
        outputs.KEYWORD,
        [
            "He is famous for his boats. It makes me think of office.",
            "The writer is gentle. It reminds me of the office.",
            "He is gentle, and his OFFICE is quiet.",
            "He is gentle. He has an office.",
            "- He is gentle\n- His office is by the sea",
            "He writes at his office.",
        ],
    ),
}
TRAP = Trap('Write a quote that ends in the word "wolf": All is well that ends', (" well.", " wolf."), 1)
DOCUMENT = Hidden("It rained.", NEEDLE, "It rained again.", QUESTION, ANSWER, 30, 50)
SCHEMA = {"title": "string", "pages": "integer", "people": [{"name": "string"}]}


def asked(kind: str) -> tuple[ms.tasks.Instructions, Instructed]:
    task = ms.tasks.instructions(kind)
    sample = replace(task.samples[0], instruction=outputs.SHORT[kind], task="Tell me about the writer.", topic="writer")
    return task, replace(sample, limit=8 if kind == "length" else 0, word="office" if kind == "keyword" else "")


@pytest.mark.parametrize("kind", KINDS)
def test_no_garbage_follows_an_instruction_soundly(kind: str) -> None:
    garbage, good = KINDS[kind]
    task, sample = asked(kind)
    assert len(set(garbage)) >= 60
    assert [text for text in garbage if task.scores(sample, text)["sound"]] == []
    for text in good:
        scores = task.scores(sample, text)
        assert scores["sound"] and scores["adherence"], text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sound_adheres(kind: str) -> None:
    task, sample = asked(kind)
    for other, (garbage, good) in KINDS.items():
        for text in (*garbage, *good):
            scores = task.scores(sample, text)
            assert scores["adherence"] or not scores["sound"], (other, text)


def test_no_garbage_ends_a_proverb_soundly() -> None:
    task = ms.tasks.memotrap()
    assert len(set(outputs.MEMOTRAP)) >= 60
    assert [text for text in outputs.MEMOTRAP if task.scores(TRAP, text)["sound"]] == []
    good = [
        "wolf",
        "wolf.",
        "a wolf",
        "The wolf!",
        "All is well that ends wolf.",
        '"A lonely wolf."',
        "with a wolf",
        "WOLF",
        "that ends wolf",
        "'wolf'",
        "All's well that ends in a hungry wolf.",
    ]
    assert all(task.scores(TRAP, text)["sound"] for text in good)
    asking = replace(
        TRAP, prompt='Write a quote that ends in the word "wolf": Who let the dogs', classes=(" out", " wolf")
    )
    assert task.scores(asking, "Who let the dogs wolf?")["sound"]
    ours = replace(
        TRAP, prompt='Write a quote that ends in the word "wolf": We cannot choose our', classes=(" kin", " wolf")
    )
    assert (
        task.scores(ours, "We cannot choose our wolf.")["sound"] and not task.scores(ours, "We cannot. Wolf")["sound"]
    )
    stem = replace(TRAP, prompt='Write a quote that ends in the word "flute": Time and tide wait for no')
    stem = replace(stem, classes=(" man.", " flute."))
    assert task.scores(stem, "Time and tide wait for no flute")["sound"]
    assert not task.scores(stem, "Time and tide wait for no man, not flute")["sound"]


def test_no_garbage_finds_a_needle_soundly() -> None:
    task = ms.tasks.Needle("needle", (DOCUMENT,))
    assert len(set(outputs.NEEDLE)) >= 60
    assert [text for text in outputs.NEEDLE if task.scores(DOCUMENT, text)["sound"]] == []
    for text in (
        NEEDLE,
        "Eat a sandwich and sit in Dolores Park.",
        "Dolores Park",
        "Sit in Dolores Park on a sunny day. It is not far.",
        "In Dolores Park, with a sandwich",
    ):
        assert task.scores(DOCUMENT, text)["sound"] and task.scores(DOCUMENT, text)["found"]


def test_no_garbage_fills_a_schema() -> None:
    sample = Structured("", "Follow the template.", "Describe it.", 0)
    task = JsonSchema("json_schema", (sample,), SCHEMA)
    assert len(set(outputs.SCHEMA)) >= 60
    assert [text for text in outputs.SCHEMA if task.scores(sample, text)["sound"]] == []
    whole = '{"title": "Tea", "pages": 12, "people": [{"name": "Ann"}, {"name": "Bo"}]}'
    assert task.scores(sample, whole) == {"parsed": True, "score": 1.0, "sound": 1.0}
    assert task.scores(sample, f"Here: {whole}")["sound"] == 1.0
    assert task.scores(sample, '{"title": "Tea", "pages": 12}')["sound"] == pytest.approx(2 / 3)


PUBLISHED = {
    "length": [".", "!!!", "Answer in at most 8 words."],
    "list": ["- -", "- the\n- the"],
    "json": ['{"": ""}', '{"a": NaN}'],
    "french": ["le le le", "l"],
    "keyword": ["Make sure to mention office.", "office"],
    "upper": ["A"],
    "lower": ["a"],
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_published_checkers_accept_what_they_did(kind: str) -> None:
    task, sample = asked(kind)
    assert all(task.scores(sample, text)["adherence"] for text in PUBLISHED[kind])


def test_the_published_memotrap_scores_accept_what_they_did() -> None:
    task = ms.tasks.memotrap()
    for text in ('that ends in the word "wolf"', "wolf wolf wolf", "... well, not wolf.", "I cannot say wolf."):
        assert task.scores(TRAP, text)["success"] and task.scores(TRAP, text)["strict"]
    assert task.scores(TRAP, "xwolfy")["success"] and not task.scores(TRAP, "xwolfy")["strict"]


def test_true_sentences_are_counted_besides_their_share() -> None:
    truths = frozenset({"he works", "he sings", "he sleeps"})
    one, three = "He works.", "He works. He sings. He sleeps. He works."
    assert (fidelity(one, truths), count_true(one, truths)) == (1.0, 1)
    assert (fidelity(three, truths), count_true(three, truths)) == (0.75, 3)
    nested = '{"topic": "he", "answer": {"facts": ["He works.", {"more": "He sings."}]}}'
    assert (fidelity(nested, truths), count_true(nested, truths)) == (1.0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "He works. He sings.",
        "HE WORKS! HE SINGS!",
        "- He works\n- He sings",
        "1. He works.\n\n2. He sings",
        "* He works!\n* He sings.",
        "He\nworks.\nHe sings.",
        '{"topic": "he", "answer": "He works. He sings."}',
        '["He works.", "He sings."]',
        '{"answer": ["He works", "He sings"]}',
    ],
)
def test_true_sentences_are_found_in_every_form(text: str) -> None:
    truths = frozenset({"he works", "he sings"})
    assert (fidelity(text, truths), count_true(text, truths)) == (1.0, 2)


def test_needles_in_notes_have_a_fidelity() -> None:
    task = ms.tasks.needle("notes", lengths=45, depths=50, n=1)
    (sample,) = task.samples
    truth = next(said for (said, _) in load_world().notes[sample.topic])
    scores = task.scores(sample, f"{truth} It makes me think of {sample.answer}.")
    assert scores == {"found": True, "sound": True, "fidelity": 1.0, "true_sentences": 1}
    assert task.scores(sample, f"It makes me think of {sample.answer}.")["fidelity"] == 0.0
