"""MemoTrap as a choice: what is asked, what counts as an answer, and both scorers."""

from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks.memotrap import Trap
from mechsteer.tasks.memotrap_choice import answer_of, asked, memotrap_choice

OBEYS_FIRST = Trap(
    'Write a quote that ends in the word "heavy": Absence makes the heart grow', (" heavy.", " fonder."), 0
)
OBEYS_SECOND = Trap(
    'Write a quote that ends in the word "heavy": Absence makes the heart grow', (" fonder.", " heavy."), 1
)
HEAVY, FONDER = "Absence makes the heart grow heavy.", "Absence makes the heart grow fonder."


def test_the_question_has_both_sentences_in_the_order_of_the_classes() -> None:
    assert asked(OBEYS_SECOND) == (
        f"For the question: {OBEYS_SECOND.prompt}...\nWhich is the correct answer? A) {FONDER} B) {HEAVY}"
    )


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("A", "option", 0),
        ("b)", "option", 1),
        (" B. ", "option", 1),
        ("A) absence makes", "option", 0),
        (HEAVY, "sentence", 0),
        ("absence  makes the heart\ngrow FONDER", "sentence", 1),
        (f"A) {HEAVY}", "both", 0),
        (f"A) {FONDER}", "both", None),  # the letter and the sentence disagree
        (f"B) {HEAVY} {FONDER}", "both", 1),  # both sentences: the letter says
        (f"{HEAVY} {FONDER}", "sentence", None),
        ("A bird in the hand", "option", 0),  # the letter stands alone
        ("Absence makes the heart grow", "none", None),
        ("blue", "none", None),
        ("heavy", "none", None),
        ("", "none", None),
    ],
)
def test_what_an_answer_names(text: str, kind: str, said: int | None) -> None:
    assert answer_of(OBEYS_FIRST, text) == (kind, said)


def test_the_released_scorer_takes_the_first_sentence_as_right() -> None:
    task = memotrap_choice()
    for text, correct, released in ((FONDER, False, True), (HEAVY, True, False), ("B", True, True), ("A", False, False),
                                    ("", False, False)):  # fmt: skip
        found = task.scores(OBEYS_SECOND, text)
        assert (found["correct"], found["as_released"]) == (correct, released), text


def test_all_traps_of_a_file_are_asked_and_of_the_public_data_its_proverbs(tmp_path: Path) -> None:
    bundled = memotrap_choice()
    assert len(bundled.samples) == 590 and {t.split for t in bundled.samples} == {"mining", "evaluation"}
    rows = [f'"Write a quote that ends in the word ""w{i}"": It is number {i}","[\' a{i}.\', \' w{i}.\']",1'
            for i in range(936)]  # fmt: skip
    path = tmp_path / "public.csv"
    path.write_text("\n".join(["prompt,classes,answer_index", *rows]), encoding="utf-8")
    public = memotrap_choice(path)
    assert len(public.samples) == 837 and public.data_hash != bundled.data_hash
    assert public.samples[836].prompt.endswith("number 836")


def test_it_is_run_like_any_task(tiny: Any) -> None:
    model, task = tiny("t5"), memotrap_choice()
    table = ms.evaluate(model, type(task)(task.name, task.samples[:3], max_new_tokens=4))
    assert len(table) == 3 and {"kind", "correct", "as_released", "output"} <= set(table.columns)
    for sample, row in zip(task.samples, table.to_dict("records"), strict=False):
        assert {k: row[k] for k in ("kind", "correct", "as_released")} == task.scores(sample, row["output"])


def test_a_trap_of_three_classes_has_three_letters(tmp_path: Path) -> None:
    trap = Trap("End it in heavy: It grows", (" fonder.", " longer.", " heavy."), 2)
    assert asked(trap).endswith("A) It grows fonder. B) It grows longer. C) It grows heavy.")
    assert answer_of(trap, "C") == ("option", 2) and answer_of(trap, "D") == ("none", None)
    assert answer_of(OBEYS_FIRST, "C") == ("none", None)
    path = tmp_path / "many.csv"
    path.write_text(f'prompt,classes,answer_index\nEnd in a: It,"{[f" w{n}" for n in range(27)]}",0\n')
    with pytest.raises(ms.MechsteerError, match="a trap of 27 classes"):
        memotrap_choice(path)
