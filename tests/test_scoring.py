"""Scores of outputs that something else wrote: the same as the task's own, and what cannot be found is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.scoring import levels, read_responses, score_outputs
from mechsteer.stats import share_interval
from mechsteer.tasks.ifeval import IFEval, IFEvalPrompt
from mechsteer.tasks.named import named_task
from tests.command_line import CommandLine

OWN = [
    {"prompt": "Why is it so?", "instruction": "Use small letters.", "kind": "a"},
    {"prompt": "<!!-> Use small letters. <-!!> Who is it?"},
    {"prompt": "What is it? Use small letters.", "instruction": "Use small letters."},
]
SAID = ["it is so because of the rain.", "It is he.", ""]


def test_an_own_task() -> None:
    rows = ms.score_outputs(ms.task(OWN, "lowercase"), SAID)
    assert rows["adherence"].tolist() == [True, False, False] and rows["kind"].tolist() == ["a", "", ""]
    assert rows["collapse_reason"].tolist() == ["", "", "empty"] and rows["empty"].tolist() == [False, False, True]
    assert rows["prompt"][1] == "Use small letters. Who is it?"


@pytest.mark.parametrize("name", ["instructions", "recall", "memotrap"])
def test_scores_are_the_tasks_own(name: str, organism: Any) -> None:
    from dataclasses import replace

    task = named_task(name)
    task = replace(task, samples=task.samples[:6])
    model = organism("instruct-llama" if name == "instructions" else "trap-t5")
    rows = ms.evaluate(model, task)
    found = ms.score_outputs(task, list(rows["output"]))
    shared = [column for column in found if column in rows and column != "prompt"]
    assert len(shared) >= 5 and found[shared].equals(rows[shared])


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_responses_are_found_by_their_prompts(tmp_path: Path) -> None:
    task = ms.task(OWN, "lowercase")
    rows = [
        {"prompt": "What is it? Use small letters.", "response": "third"},
        {"prompt": "Use small letters.\n\nWhy is it so?", "response": "first"},
        {"prompt": "Another?", "response": "x"},
        {"prompt": "Another?", "response": "y"},
    ]
    found = read_responses(task, write(tmp_path / "r.jsonl", rows))
    assert found.texts == ["first", "third"] and found.missing == ["Use small letters. Who is it?"]
    assert found.unknown == ["Another?"] and found.repeated == ["Another?"]
    assert ms.score_outputs(found.task, found.texts)["adherence"].tolist() == [True, True]
    mapping = {"Use small letters. Who is it?": "me", **{row["prompt"]: row["response"] for row in rows[:2]}}
    assert ms.score_outputs(task, mapping)["output"].tolist() == ["first", "me", "third"]


def test_prompts_that_differ_in_white_space_alone_have_their_own_responses(tmp_path: Path) -> None:
    asked = ["if a:\n  b", "if a:\n    b", "Say  it"]
    path = tmp_path / "answers.jsonl"
    given = [{"prompt": text, "response": str(place)} for place, text in enumerate([*asked[:2], "Say it"])]
    path.write_text("\n".join(map(json.dumps, given)))
    found = read_responses(ms.task(asked, "lowercase"), path)
    assert found.texts == ["0", "1", "2"] and not (found.missing or found.unknown or found.repeated)


def test_responses_are_found_by_the_parts_of_their_prompts(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Use small letters."}, {"role": "user", "content": "Where is it?"}]
    asked: list[dict[str, Any]] = [
        {"prompt": "Who is it?", "instruction": "Use small letters."},
        {"prompt": "Who is it?", "instruction": "Use capitals."},
        {"prompt": "Who is it?", "context": "It rains."},
        {"prompt": turns, "instruction": "Use small letters."},
        {"prompt": "Who is it, then?"},
    ]
    rows = [one | {"response": str(place), "model": "x"} for place, one in enumerate(asked)]
    rows[4]["instruction"] = "a note of theirs"
    task = ms.task(asked, "lowercase")
    found = read_responses(task, write(tmp_path / "r.jsonl", rows[::-1]))
    assert found.texts == list("01234") and not (found.missing or found.unknown or found.repeated)
    found = read_responses(task, write(tmp_path / "r.jsonl", [rows[1], {"prompt": turns, "response": "by turns"}]))
    assert found.texts == ["1", "by turns"] and len(found.missing) == 3


def test_numbers_that_are_no_shares_are_no_percents() -> None:
    task = ms.task(["Why?", "Who?"], lambda text, sample: {"share": "so" in text and 0.5, "words": len(text.split())})
    table = levels(ms.score_outputs(task, ["it is so", "he is it, as you know"])).set_index("measure")
    assert table.loc["share", "percent"] == 25 and table.loc["words (not in percent)", "percent"] == 4.5
    low, high = table.loc["words (not in percent)", ["low", "high"]]
    assert low < 3 and high > 6


def test_a_question_that_is_asked_with_two_instructions_is_none_of_their_prompts(tmp_path: Path) -> None:
    asked = [{"prompt": "Who is it?", "instruction": wish} for wish in ("Use small letters.", "Use capitals.")]
    task = ms.task([*asked, {"prompt": "Why?", "instruction": "Use capitals."}], "lowercase")
    rows = [{"prompt": "Who is it?", "response": "x"}, {"prompt": "Why?", "response": "so"}]
    found = read_responses(task, write(tmp_path / "r.jsonl", rows))
    assert found.texts == ["so"] and found.unknown == ["Who is it?"] and len(found.missing) == 2
    with pytest.raises(ms.MechsteerError, match="2 of 3 prompts have no response"):
        ms.score_outputs(task, {"Who is it?": "x", "Why?": "so"})


def test_a_prompt_that_is_missing_takes_no_response_to_one_with_other_spaces(tmp_path: Path) -> None:
    task = ms.task(["if a:\n  b", "if a:\n    b"], "lowercase")
    found = read_responses(task, write(tmp_path / "r.jsonl", [{"prompt": "if a:\n    b", "response": "second"}]))
    assert found.texts == ["second"] and found.missing == ["if a:\n  b"]


def test_samples_that_ask_the_same_have_their_own_responses(tmp_path: Path) -> None:
    task = ms.task(["Why?", "Who?", "Why?"], "lowercase")
    lines = [("Why?", "a"), ("Who?", "b"), ("Why?", "c"), ("Who?", "d")]
    rows = [{"prompt": prompt, "response": text} for prompt, text in lines]
    found = read_responses(task, write(tmp_path / "r.jsonl", rows))
    assert found.texts == ["a", "b", "c"] and found.repeated == ["Who?"] and not found.unknown
    found = read_responses(task, write(tmp_path / "r.jsonl", rows[:2]))
    assert found.texts == ["a", "b", "a"] and not found.repeated


def test_an_answer_may_quote_the_context() -> None:
    text = "The writer lives in the old house and drinks tea every day."
    turns = [{"role": "user", "content": f"Quote this. {text} Go."}]
    samples = [{"prompt": "Quote it.", "context": text}, {"prompt": turns, "context": text}, f"Quote it. {text}"]
    rows = ms.score_outputs(ms.task(samples, "contains:tea"), [text] * 3)
    assert rows["copied"].tolist() == [0, 0, 1] and rows["collapsed"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{\n", "line 1: not JSON"),
        ('{"prompt": "x"}\n', "line 1: needs the texts 'prompt' and 'response'"),
        ('{"prompt": "x", "response": 3}\n', "line 1: needs"),
        ('{"prompt": [{"role": "user"}], "response": "x"}\n', "line 1: needs"),
        ('{"prompt": "x", "response": "y"}\n', "has none of the 3 prompts"),
        ("", "has none of the 3 prompts"),
    ],
)
def test_broken_files(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(ms.MechsteerError, match=said):
        read_responses(ms.task(OWN, "lowercase"), tmp_path / "r.jsonl")


def test_what_cannot_be_scored() -> None:
    task = ms.task(OWN, "lowercase")
    for given, said in ((["x"], "3 samples, but there are 1"), ({"Another?": "x"}, "3 of 3 prompts have no response")):
        with pytest.raises(ms.MechsteerError, match=said):
            score_outputs(task, given)
    with pytest.raises(ms.MechsteerError, match="Outputs alone can be scored for OwnTask"):
        score_outputs(ms.tasks.opinion(), [])


def test_levels_of_ifeval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check(sample: Any, text: str) -> dict[str, Any]:
        strict, loose = (
            [name in text for name in sample.instructions],
            [name in text.lower() for name in sample.instructions],
        )
        return {
            "strict": all(strict),
            "loose": all(loose),
            "n_instructions": 2,
            "n_strict": sum(strict),
            "n_loose": sum(loose),
        }

    monkeypatch.setattr(IFEval, "scores", lambda task, sample, text: check(sample, text))
    monkeypatch.setattr("mechsteer.scoring.require_checkers", lambda: None)
    samples = tuple(IFEvalPrompt(i, f"prompt {i}", ("red", "blue"), ({}, {})) for i in range(4))
    rows = score_outputs(IFEval("ifeval:x", samples), ["red and blue", "red only", "RED and blue", ""])
    table = levels(rows).set_index("measure")
    assert table["percent"].to_dict() == {
        "prompt level, strict": 25.0,
        "prompt level, loose": 50.0,
        "instruction level, strict": 50.0,
        "instruction level, loose": 62.5,
    }
    assert table.loc["prompt level, loose", "percent_uncollapsed"] == pytest.approx(200 / 3)
    low, high = table.loc["instruction level, strict", ["low", "high"]]
    assert (low, high) == tuple(100 * end for end in share_interval(2, 4)), "as wide as of so many prompts"
    assert table.loc["prompt level, loose", ["n", "n_uncollapsed"]].tolist() == [4, 3]
    assert table.loc["instruction level, loose", "percent_uncollapsed"] == pytest.approx(500 / 6)


def test_the_command_scores_a_file(mechsteer: CommandLine, tmp_path: Path) -> None:
    task = write(tmp_path / "own.jsonl", OWN)
    outputs = write(tmp_path / "r.jsonl", [{"prompt": "Use small letters. Who is it?", "response": "It is he."}])
    code, out, err = mechsteer("score", task, outputs, "--check", "lowercase", "--out", tmp_path / "rows.csv")
    assert (code, err) == (0, "") and "1 of 3 prompts of own.jsonl have a response" in out
    assert "2 prompts of the task were not found in the file" in out and "Why is it so?" in out
    assert (
        (tmp_path / "rows.csv")
        .read_text()
        .splitlines()[1]
        .startswith("0,,Use small letters. Who is it?,It is he.,False")
    )
    code, _, err = mechsteer("score", "memotrp", outputs)
    assert code == 2 and "Did you mean 'memotrap'" in err
    code, _, err = mechsteer("score", "memotrap", outputs, "--check", "lowercase")
    assert code == 2 and "has a check and a length of its own" in err


def test_the_command_compares(
    mechsteer: CommandLine, tmp_path: Path, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **options: tiny("llama-gqa"))
    asked = [{"prompt": prompt, "instruction": "answer in capitals"} for prompt in ("the cat", "the dog", "a house")]
    task = write(tmp_path / "own.jsonl", asked)
    given = ("compare", task, "--check", "lowercase", "--model", "x", "--out", tmp_path / "out", "--max-new-tokens", 3)
    code, out, _ = mechsteer(*given, "--n", 2, "--methods", "guide:1", "spotlight:0.2")
    assert code == 0 and [line.split()[0] for line in out.splitlines()[2:5]] == [
        "unsteered",
        "guide:1",
        "spotlight:0.2",
    ]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"report.html", "comparison.pdf", "comparison.png", "summary.csv", "summary.parquet"}
