"""IFEval: reading the file, and lm-eval's checkers where they are installed."""

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.tasks import ifeval
from mechsteer.tasks.ifeval import IFEvalPrompt, check, followed, require_checkers
from mechsteer.tasks.ifeval.arguments import ARGUMENTS, LANGUAGES, problem

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
    name = "punctuation:no_comma"
    fake_checkers.instructions_registry.INSTRUCTION_DICT[name] = None
    lines = [json.dumps({"key": i, "prompt": "the cat", "instruction_id_list": [name], "kwargs": [{}]}) for i in (4, 9)]
    task = replace(ifeval(write(tmp_path / "small.jsonl", lines)), max_new_tokens=3)
    rows = ms.evaluate(tiny("llama"), task)
    assert list(rows["key"]) == [4, 9] and rows["strict"].dtype == bool and (rows["n_instructions"] == 1).all()


BASE = "prompt_without_instruction"
SAID = {
    "tags": {"prompt": "Write about tea. <!!-> Use no commas. <-!!> Be kind."},
    "instruction": {"prompt": "Write about tea. Use no commas. Be kind.", "instruction": "Use no commas."},
    "base": {"prompt": "Write about tea. Use no commas. Be kind.", BASE: "Write about tea. Be kind."},
    "outside": {"prompt": "Write about tea. Be kind.", "instruction": "Use no commas."},
    "a misprint in the base": {"prompt": "Write about tea. Use no commas. Be kind.", BASE: "Wrote about tea. Be kind."},
    "a base that says as much": {"prompt": "Use no commas.", BASE: "use no commas"},
}


@pytest.mark.parametrize("how", SAID)
def test_where_the_instruction_stands(tiny: Callable[..., Any], tmp_path: Path, how: str) -> None:
    model = tiny("llama")
    row = ROWS[0] | SAID[how]
    task = ifeval(write(tmp_path / "data.jsonl", [json.dumps(row)]))
    (sample,) = task.samples
    assert "<!!->" not in sample.prompt and "Use no commas." in sample.prompt  # what the checkers get
    (made,) = task.prompts(model)
    assert made.span_text("instruction").split() == ["Use", "no", "commas."]
    assert made.tokens.tolist() == ms.prompt(model, made.text).tokens.tolist()
    assert set(made.spans) <= {"instruction", "task", "level2"}


def test_pairs_kinds_and_halves(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny("llama")
    rows = [
        ROWS[number % 2]
        | {"key": number, "prompt": f"Write about {word}. Use no commas.", BASE: f"Write about {word}."}
        for number, word in enumerate(["tea", "bees", "rain", "bread"])
    ]
    file = write(tmp_path / "data.jsonl", [json.dumps(row) for row in rows])
    task = ifeval(file)
    for with_it, without in task.pairs(model):
        assert "Use no commas." in with_it.text and "commas" not in without.text and "instruction" not in without.spans
    halves = [{s.key for s in task.on(split).samples} for split in ("evaluation", "validation")]
    assert halves[0] | halves[1] == {0, 1, 2, 3} and not halves[0] & halves[1] and all(halves)
    assert {s.key for s in task.of_kind("punctuation:no_comma").samples} == {0, 2}
    assert [s.key for s in ifeval(file, kinds=["keywords:existence"], n=1).samples] == [1]
    assert ifeval(file, max_new_tokens=7).max_new_tokens == 7
    with pytest.raises(MechsteerError, match="kind"):
        ifeval(file, kinds=["punctuation:no_coma"])
    with pytest.raises(MechsteerError, match=r"Prompt 1: nobody knows it without.*prompt_without_instruction"):
        ifeval(write(tmp_path / "plain.jsonl", [json.dumps(ROWS[0])])).pairs(model)


def test_attention_methods_find_the_instruction(
    fake_checkers: SimpleNamespace, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    fake_checkers.instructions_registry.INSTRUCTION_DICT["punctuation:no_comma"] = None
    file = write(tmp_path / "data.jsonl", [json.dumps(ROWS[0] | SAID["base"])])
    model, task = tiny("llama"), ifeval(file, max_new_tokens=3)
    plain = ms.evaluate(model, task)
    assert ms.evaluate(model, task, steer=ms.attention_bias(delta=0.0))["output"].equals(plain["output"])
    with pytest.raises(MechsteerError, match="span"):
        plain_file = write(tmp_path / "plain.jsonl", [json.dumps(ROWS[0])])
        ms.evaluate(model, ifeval(plain_file, max_new_tokens=3), steer=ms.attention_bias(delta=1.0))


def test_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub

    def offline(*args: Any, **options: Any) -> str:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(MechsteerError, match=r"google/IFEval could not be had.*give the file"):
        ifeval()


def line(name: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"key": 1, "prompt": "Tell me.", "instruction_id_list": [name], "kwargs": [arguments]})


WORDS_LINE = "length_constraints:number_words"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("detectable_format:titel", {}, "no checker.*'detectable_format:title'"),
        (WORDS_LINE, {}, "lacks the argument 'num_words'.*at random"),
        (WORDS_LINE, {"num_words": 5}, "lacks the argument 'relation'"),
        (WORDS_LINE, {"num_wordz": 5, "relation": "at least"}, "no argument 'num_wordz'.*'num_words'"),
        (WORDS_LINE, {"num_words": None, "relation": "at least"}, "lacks the argument 'num_words'"),
        (WORDS_LINE, {"num_words": 0, "relation": "at least"}, "'num_words'.*at least 1, got 0"),
        (WORDS_LINE, {"num_words": "5", "relation": "at least"}, "integer"),
        (WORDS_LINE, {"num_words": True, "relation": "at least"}, "integer"),
        (WORDS_LINE, {"num_words": 5.0, "relation": "at least"}, "integer"),
        (WORDS_LINE, {"num_words": 5, "relation": "about"}, "'less than', 'at least', got 'about'"),
        ("punctuation:no_comma", {"num_words": 5}, "takes no argument 'num_words'"),
        ("keywords:existence", {"keywords": "tea"}, "list of words, got 'tea'"),
        ("keywords:existence", {"keywords": []}, "list of words"),
        ("keywords:forbidden_words", {"forbidden_words": ["a", ""]}, "list of words"),
        ("keywords:frequency", {"keyword": " ", "frequency": 1, "relation": "at least"}, "a text"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "one character",
        ),
        ("keywords:existence", {"keywords": ["tea", "a**"]}, "a list of words, and each a regular expression.*a[*]{2}"),
        ("keywords:frequency", {"keyword": "(", "frequency": 1, "relation": "at least"}, "regular expression.*got"),
        ("keywords:forbidden_words", {"forbidden_words": ["[a"]}, "regular expression.*got"),
        ("detectable_content:postscript", {"postscript_marker": "*"}, "regular expression"),
        ("detectable_format:multiple_sections", {"section_spliter": "(?P<", "num_sections": 2}, "regular expression"),
        ("language:response_language", {"language": "French"}, "language code.*'French'"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "paragraph 3 of 2",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "two words"},
            "one word",
        ),
    ],
)
def test_arguments_that_cannot_be_scored(tmp_path: Path, name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(MechsteerError, match=f"line 2: .*{said}"):
        ifeval(write(tmp_path / "data.jsonl", [json.dumps(ROWS[0]), line(name, arguments)]))


def test_names_without_a_value_are_accepted(tmp_path: Path) -> None:
    nulls = {"num_words": None, "keywords": None, "letter": None}
    lines = [line("punctuation:no_comma", nulls), line("keywords:existence", nulls | {"keywords": ["tea"]})]
    for one in lines:
        assert len(ifeval(write(tmp_path / "data.jsonl", [one])).samples) == 1


def test_what_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match="line 3: repeats line 1"):
        ifeval(write(tmp_path / "data.jsonl", [json.dumps(ROWS[0]), json.dumps(ROWS[1]), json.dumps(ROWS[0])]))
    other = {**ROWS[0], "kwargs": [dict(one) for one in ROWS[0]["kwargs"]], "comment": "the same prompt"}
    with pytest.raises(MechsteerError, match="line 2: repeats line 1"):
        ifeval(write(tmp_path / "data.jsonl", [json.dumps(ROWS[0]), json.dumps(other)]))
    twice = line(WORDS_LINE, {"num_words": 5, "relation": "at least"}).replace("5,", '5, "num_words": 300,')
    with pytest.raises(MechsteerError, match=r"line 1: .*'num_words' is there twice"):
        ifeval(write(tmp_path / "data.jsonl", [twice]))


@pytest.fixture
def real_checkers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's own, of which those that split no sentences need no data of nltk's."""
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    return pytest.importorskip("lm_eval.tasks.ifeval.utils")


def test_arguments_are_those_of_lm_eval(real_checkers: Any) -> None:
    known = real_checkers.instructions_registry.INSTRUCTION_DICT
    described = {n: set(inspect.signature(c.build_description).parameters) - {"self"} for n, c in known.items()}
    assert described == {name: set(arguments) for name, arguments in ARGUMENTS.items()}
    codes = import_module("lm_eval.tasks.ifeval.instructions_util").LANGUAGE_CODES
    assert set(LANGUAGES) == set(codes)


def test_a_prompt_made_by_hand_is_not_scored_at_random(real_checkers: Any) -> None:
    with pytest.raises(MechsteerError, match=r"Prompt 1: .*lacks the argument 'num_words'"):
        check(IFEvalPrompt(1, "Write.", (WORDS_LINE,), ({},)), "word")


@pytest.mark.parametrize("text", ["[" * 20_000, '{"a": ' * 20_000])
def test_brackets_without_end_are_no_json(real_checkers: Any, text: str) -> None:
    sample = IFEvalPrompt(1, "In JSON.", ("detectable_format:json_format",), ({},))
    assert followed(sample, text) == ([False], [False])
    assert followed(sample, "[[1]]") == ([True], [True])


def test_what_is_read_is_what_the_checkers_can_use(real_checkers: Any) -> None:
    for word in ("tea (hot)?", "a|b", "[ab", "*", "c++", "a{99999999999}", "a\\", "(?i)x", "P.S."):
        for name, arguments in {
            "keywords:existence": {"keywords": [word]},
            "keywords:forbidden_words": {"forbidden_words": [word]},
            "keywords:frequency": {"keyword": word, "frequency": 1, "relation": "at least"},
            "detectable_content:postscript": {"postscript_marker": word},
            "detectable_format:multiple_sections": {"section_spliter": word, "num_sections": 1},
        }.items():
            checker = real_checkers.instructions_registry.INSTRUCTION_DICT[name](name)
            checker.build_description(**arguments)
            try:
                checker.check_following("tea")
                usable = True
            except (re.error, OverflowError):
                usable = False
            assert usable == (problem(name, arguments) == ""), (name, word)


@pytest.mark.parametrize("letter", ["!", "#", "*", "é"])
def test_a_character_that_is_no_letter_is_counted_itself(real_checkers: Any, letter: str) -> None:
    arguments = {"letter": letter, "let_frequency": 3, "let_relation": "at least"}
    sample = IFEvalPrompt(1, "Shout.", ("keywords:letter_frequency",), (arguments,))
    for text, right in (
        (f"well {letter}{letter} {letter.upper()} q", True),
        (f"well {letter} {letter} qqqq QQQ", False),
    ):
        assert {check(sample, text)["strict"] for _ in range(30)} == {right}


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
