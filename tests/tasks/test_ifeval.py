"""IFEval: reading the file, and lm-eval's checkers where they are installed."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.tasks import ifeval
from mechsteer.tasks.ifeval import IFEvalPrompt, check, followed, require_checkers

ROWS = [
    {
        "key": 1,
        "prompt": "Write about tea without commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
    {
        "key": 2,
        "prompt": "In English and lowercase, with the word tea.",
        "instruction_id_list": ["change_case:english_lowercase", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["tea"]}],
    },
]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", [json.dumps(row) for row in ROWS])


@pytest.fixture
def fake_checkers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Modules in the place of nltk, langdetect and lm-eval: an instruction is followed when the output has its id."""

    def following(places: Callable[[str], list[str]]) -> Callable[..., SimpleNamespace]:
        def run(example: Any, output: str) -> SimpleNamespace:
            each = [any(name in text for text in places(output)) for name in example.instruction_id_list]
            return SimpleNamespace(follow_all_instructions=all(each), follow_instruction_list=each)

        return run

    fake = SimpleNamespace(
        InputExample=lambda **values: SimpleNamespace(**values),
        instructions_registry=SimpleNamespace(INSTRUCTION_DICT={"a": None, "b": None}),
        test_instruction_following_strict=following(lambda output: [output.split("\n")[0]]),
        test_instruction_following_loose=following(lambda output: output.split("\n")),
        DetectorFactory=SimpleNamespace(seed=None),
        data=SimpleNamespace(find=lambda name: name),
    )
    for name in ("nltk", "langdetect", "lm_eval.tasks.ifeval.utils"):
        monkeypatch.setitem(sys.modules, name, fake)  # pyright: ignore[reportArgumentType]
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))  # pyright: ignore[reportArgumentType]
    return fake


def test_reading(file: Path) -> None:
    task = ifeval(file)
    assert task.name == "ifeval:data.jsonl" and [sample.key for sample in task.samples] == [1, 2]
    assert task.samples[1].kwargs[1] == {"keywords": ["tea"]}
    assert task.data_hash == ifeval(file).data_hash != replace(task, samples=task.samples[:1]).data_hash


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "line 2: not JSON"),
        ("3", "not a JSON object"),
        (json.dumps(ROWS[0] | {"prompt": None}), "'prompt' must be a str"),
        (json.dumps({k: v for k, v in ROWS[0].items() if k != "kwargs"}), "'kwargs' must be a list"),
        (json.dumps(ROWS[0] | {"prompt": " "}), "empty"),
        (json.dumps(ROWS[0] | {"kwargs": []}), "1 instructions, but 0 kwargs"),
        (json.dumps(ROWS[0] | {"kwargs": [3]}), "must be an object"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, named: str) -> None:
    with pytest.raises(MechsteerError, match=named):
        ifeval(write(tmp_path / "data.jsonl", [json.dumps(ROWS[0]), line]))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match="No such file"):
        ifeval(tmp_path / "none.jsonl")
    with pytest.raises(MechsteerError, match="no prompts"):
        ifeval(write(tmp_path / "empty.jsonl", [""]))


@pytest.mark.parametrize("module", ["nltk", "langdetect", "lm_eval.tasks.ifeval.utils"])
def test_missing_extra(fake_checkers: SimpleNamespace, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MechsteerError, match=r"pip install 'mechsteer\[eval\]'"):
        require_checkers()


def test_missing_data(fake_checkers: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        raise LookupError(name)

    monkeypatch.setattr(fake_checkers.data, "find", find)
    with pytest.raises(MechsteerError, match="punkt_tab"):
        require_checkers()


def test_scores(fake_checkers: SimpleNamespace) -> None:
    sample = IFEvalPrompt(7, "Do both.", ("a", "b"), ({}, {}))
    expected = {"strict": False, "loose": True, "n_instructions": 2, "n_strict": 1, "n_loose": 2}
    assert check(sample, "has a\nand b") == expected
    assert followed(sample, "has a\nand b") == ([True, False], [True, True])
    assert fake_checkers.DetectorFactory.seed == 0
    with pytest.raises(MechsteerError, match=r"Prompt 7.*'c'"):
        check(replace(sample, instructions=("c",)), "")


def test_run(fake_checkers: SimpleNamespace, tiny: Callable[..., Any], tmp_path: Path) -> None:
    lines = [json.dumps({"key": i, "prompt": "the cat", "instruction_id_list": ["a"], "kwargs": [{}]}) for i in (4, 9)]
    task = replace(ifeval(write(tmp_path / "small.jsonl", lines)), max_new_tokens=3)
    rows = ms.evaluate(tiny("llama"), task)
    assert list(rows["key"]) == [4, 9] and rows["strict"].dtype == bool and (rows["n_instructions"] == 1).all()


def test_checkers_of_lm_eval(file: Path) -> None:
    pytest.importorskip("langdetect")
    pytest.importorskip("lm_eval.tasks.ifeval.utils")
    try:
        require_checkers()
    except MechsteerError as error:
        pytest.skip(str(error))
    first, second = ifeval(file).samples
    assert check(first, "Tea is a drink")["strict"] and not check(first, "Tea, a drink")["loose"]
    text = "we like to drink a cup of hot tea in the morning before work"
    assert check(second, text) == {"strict": True, "loose": True, "n_instructions": 2, "n_strict": 2, "n_loose": 2}
    assert check(second, text.upper())["n_strict"] == 1
