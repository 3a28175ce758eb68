"""Other ways to ask: where the instruction goes, for every form in which a sample can have it."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks import instructions, recall
from mechsteer.tuning.asking import WORDINGS, example_text, question_of, reworded, uninstructed, with_examples

ASK = "answer in capitals"
FORMS: dict[str, Any] = {
    "before": {"prompt": "the cat sat", "instruction": ASK},
    "inside": {"prompt": f"the cat . {ASK} . a dog", "instruction": ASK},
    "tagged": f"the cat <!!-> {ASK} <-!!> a dog",
    "beyond base": {"prompt": f"the cat sat {ASK}", "base": "the cat sat"},
    "messages": {"prompt": [{"role": "user", "content": "the cat sat"}], "instruction": ASK},
    "in a message": {
        "prompt": [{"role": "system", "content": f"the task . {ASK}"}, {"role": "user", "content": "the cat sat"}],
        "instruction": ASK,
    },
}


@pytest.fixture
def model(tiny: Callable[..., Any]) -> Any:
    return tiny("llama-gqa", chat=True)


def asked(model: Any, form: str, ask: Any) -> str:
    task = reworded(ms.task([FORMS[form]], "uppercase"), "other", ask)
    assert task is not None
    return task.prompts(model)[0].text


@pytest.mark.parametrize("form", FORMS)
def test_the_instruction_goes_where_the_name_says(form: str, model: Any) -> None:
    text = {name: asked(model, form, ask) for name, ask in WORDINGS.items()}
    assert text["in capitals"].count(ASK.upper()) == 1 and ASK not in text["in capitals"]
    assert text["instruction last"].count(ASK) == 1
    assert text["instruction last"].index(ASK) > text["instruction last"].index("cat")
    assert text["said twice"].count(ASK) == 2
    assert ASK not in asked(model, form, uninstructed)
    for one in text.values():
        assert "<!!->" not in one and "the cat" in one


TURNS: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    "all of the last message": (
        [("user", "the cat"), ("assistant", "a dog"), ("user", ASK)],
        [("user", "the cat"), ("assistant", "a dog"), ("user", ASK)],
    ),
    "an answer that is begun": (
        [("user", f"{ASK} the cat"), ("assistant", "a dog")],
        [("user", f"the cat {ASK}"), ("assistant", "a dog")],
    ),
    "no message of the user": (
        [("system", f"{ASK} the cat"), ("assistant", "a dog")],
        [("system", "the cat"), ("assistant", "a dog"), ("user", ASK)],
    ),
}


@pytest.mark.parametrize("case", TURNS)
def test_the_instruction_comes_last_in_a_conversation(case: str) -> None:
    given, wanted = TURNS[case]
    turns = [{"role": role, "content": text} for role, text in given]
    task = reworded(ms.task([{"prompt": turns, "instruction": ASK}], "uppercase"), "last", WORDINGS["instruction last"])
    assert task is not None
    body, *rest = task.asked[0]
    assert [(turn["role"], " ".join(turn["content"].split())) for turn in body] == wanted  # type: ignore[union-attr,index]
    assert rest == ["", ""]


@pytest.mark.parametrize("form", FORMS)
def test_worked_examples_go_before(form: str, model: Any, tiny: Callable[..., Any]) -> None:
    task = ms.task([FORMS[form]], "uppercase")
    examples = [("a house ?", "RED"), ("a mat ?", "BLUE")]
    made = with_examples(task, {"": examples})
    assert made is not None
    plain = form not in ("messages", "in a message")
    for which in [model, *([tiny("llama-gqa")] if plain else [])]:
        text = made.prompts(which)[0].text
        places = [text.index(part) for part in ("a house ?", "RED", "a mat ?", "BLUE", "the cat")]
        assert places == sorted(places) and text.count(ASK) == 1
    assert ASK in example_text(task.samples[0]) and "<!!->" not in example_text(task.samples[0])


def test_scores_are_the_tasks_own(tiny: Callable[..., Any]) -> None:
    model, task = tiny("llama-gqa"), instructions(("upper", "french"), n=2, notes=1)
    made = reworded(task, "last", WORDINGS["instruction last"])
    assert made is not None
    rows = ms.evaluate(model, made, quality=True)
    scored = ms.score_outputs(task, list(rows["output"]))
    assert rows["adherence"].tolist() == scored["adherence"].tolist() and "n_tokens" in rows and "collapsed" in rows
    assert rows["prompt"].tolist() == [p.text for p in made.prompts(model)]
    assert made.data_hash != reworded(task, "last", uninstructed).data_hash  # type: ignore[union-attr]


def test_what_has_no_parts_is_left_as_it_is(model: Any) -> None:
    finished = ms.task([ms.prompt(model, "the cat", instruction=ASK)], "uppercase")
    assert question_of(finished.samples[0]) is None and reworded(finished, "x", uninstructed) is None
    assert reworded(recall(), "x", uninstructed) is None
