"""Tasks with one right answer: what counts as right, and what the bundled ones ask."""

from dataclasses import replace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks import Answers, Question, copying, memotrap, recall


def test_recall_asks_for_the_proverbs_of_the_evaluation_traps() -> None:
    traps = memotrap()
    answers = {trap.stem: trap.trap for trap in traps.samples}
    questions = {q.prompt.partition(": ")[2]: q.answer for q in recall().samples}
    assert questions == answers
    assert not any(trap.stem in questions for trap in traps.mining)


def test_copying_asks_for_the_word_that_its_instruction_quotes() -> None:
    proverbs = {trap.stem for trap in (*memotrap().mining, *memotrap().samples)}
    assert len(copying().samples) >= 30
    for question in copying().samples:
        assert f'"{question.answer}"' in question.prompt
        assert question.prompt.partition(": ")[2] not in proverbs


@pytest.mark.parametrize("make", [recall, copying])
def test_the_organism_knows_the_answers_unsteered(trap_t5: Any, make: Any) -> None:
    task = replace(make(), samples=make().samples[:20])
    assert ms.evaluate(trap_t5, task)["correct"].mean() > 0.8


def test_a_row_holds_the_question_the_output_and_whether_it_is_right(trap_t5: Any) -> None:
    prompt = recall().samples[0].prompt
    output = ms.generate(trap_t5, prompt, max_new_tokens=8).texts[0]
    cased = output.upper().replace(" ", "  ") + " ."
    task = Answers("mine", (Question(prompt, output), Question(prompt, cased), Question(prompt, output + "x")))
    table = task.run(trap_t5)
    assert list(table.columns) == ["sample", "prompt", "answer", "output", "correct"]
    assert table["output"].tolist() == [output] * 3
    assert table["correct"].tolist() == [True, True, False]


def test_the_data_hash_depends_on_questions_and_answers() -> None:
    hashes = {Answers("n", (Question(p, a),)).data_hash for p, a in (("p", "a"), ("p", "b"), ("q", "a"))}
    assert len(hashes) == 3
