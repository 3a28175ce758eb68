"""``ms.task``: every form of sample, both files, what is refused before anything is generated, and use as a task."""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import Task

SAID = "answer in capitals"
FORMS: dict[str, Any] = {
    "outside": {"prompt": "the cat sat", "instruction": SAID},
    "inside": {"prompt": f"{SAID} the cat sat", "instruction": SAID},
    "tags": f"<!!-> {SAID} <-!!> the cat sat",
    "base": {"prompt": f"{SAID} the cat sat", "base": "the cat sat"},
}


def spoken(prompt: ms.Prompt, span: str) -> list[str]:
    return [prompt.str_tokens[i] for i in prompt.positions(span)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("family", "chat"), [("llama-gqa", False), ("llama-gqa", True), ("t5", False)])
def test_every_form_has_the_spans_and_a_pair(form: str, family: str, chat: bool, tiny: Callable[..., Any]) -> None:
    model = tiny(family, chat=chat)
    ((with_it, without),) = ms.task([FORMS[form]], check="lowercase").pairs(model)
    plain = ms.prompt(model, "the cat sat")
    assert spoken(with_it, "instruction") == SAID.split() and spoken(with_it, "task") == "the cat sat".split()
    assert torch.equal(without.tokens, plain.tokens) and "instruction" not in without.spans
    assert ("level2" in with_it.spans) == (form == "tags")


def test_messages_hold_the_instruction_or_get_it_before_the_last_of_the_user(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa", chat=True)
    turns = [{"role": "system", "content": "the dog ."}, {"role": "user", "content": "the cat sat"}]
    outside = {"prompt": turns, "instruction": SAID, "context": "a red house"}
    inside = {"prompt": [turns[0] | {"content": f"the dog . {SAID}"}, turns[1]], "instruction": SAID}
    for sample in (outside, inside):
        ((with_it, without),) = ms.task([sample], check="lowercase").pairs(model)
        assert spoken(with_it, "instruction") == SAID.split() and spoken(with_it, "task") == "the cat sat".split()
        assert "instruction" not in without.spans and "level2" not in with_it.spans
        assert without.text.count("capitals") == 0 and with_it.text.count("capitals") == 1
        assert ("context" in with_it.spans) == ("context" in without.spans) == ("context" in sample)


def test_the_middle_and_the_context(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    said = {"prompt": "the cat , answer in capitals , sat on", "instruction": "answer in capitals ,"}
    noted = {"prompt": "the cat", "instruction": SAID, "context": "a red house"}
    (first, plain), (second, bare) = ms.task([said, noted], check="lowercase").pairs(model)
    assert spoken(first, "instruction") == "answer in capitals ,".split()
    assert plain.text == "the cat , sat on"
    assert spoken(second, "context") == spoken(bare, "context") == "a red house".split()
    assert torch.equal(bare.tokens, ms.prompt(model, "the cat", context="a red house").tokens)


TURNS = {
    "in the system's": [{"role": "system", "content": SAID}, {"role": "user", "content": "the cat sat"}],
    "in the user's": [{"role": "user", "content": f"{SAID} the cat sat"}],
    "in none": [{"role": "user", "content": "the cat sat"}],
    "in an earlier one": [
        {"role": "user", "content": f"a dog , {SAID}"},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "the cat sat"},
    ],
}


@pytest.mark.parametrize("where", TURNS)
def test_messages(where: str, tiny: Callable[..., Any]) -> None:
    model, turns = tiny("llama-gqa", chat=True), TURNS[where]
    task = ms.task([{"prompt": turns, "instruction": SAID}], check="lowercase")
    ((with_it, without),) = task.pairs(model)
    assert spoken(with_it, "instruction") == SAID.split() and "level2" not in with_it.spans
    assert "capitals" not in without.text and without.text.count("the cat sat") == 1
    assert SAID in task.samples[0].text and "<!!->" not in task.samples[0].text
    bare = [turn for turn in turns if turn["content"] != SAID]
    assert len(without.text.split("<s>")) == len(ms.prompt(model, bare).text.split("<s>"))
    tags = [turn | {"content": turn["content"].replace(SAID, f"<!!-> {SAID} <-!!>")} for turn in turns]
    if where != "in none":
        ((marked, plain),) = ms.task([tags], check="lowercase").pairs(model)
        assert torch.equal(marked.tokens, with_it.tokens) and torch.equal(plain.tokens, without.tokens)


@pytest.mark.parametrize("where", [where for where in TURNS if where != "in none"])
@pytest.mark.parametrize("context", [None, "a red house"])
def test_what_messages_say_beyond_their_base_is_the_instruction(
    where: str, context: str | None, tiny: Callable[..., Any]
) -> None:
    model, turns = tiny("llama-gqa", chat=True), TURNS[where]
    left = [turn | {"content": turn["content"].replace(SAID, "").strip(" ,")} for turn in turns]
    base = [turn for turn in left if turn["content"]]
    forms = [base, "the cat sat"] if where == "in the user's" else [base]
    for given in forms:
        task = ms.task([{"prompt": turns, "base": given, "context": context}], check="lowercase")
        ((with_it, without),) = task.pairs(model)
        assert spoken(with_it, "instruction")[-3:] == SAID.split() and "cat" not in spoken(with_it, "instruction")
        assert "capitals" not in without.text and without.text.count("the cat sat") == 1
        for made in (with_it, without):
            assert ("context" in made.spans) == (context is not None)


@pytest.mark.parametrize(
    ("prompt", "instruction", "marked", "left"),
    [
        ("Why? answer in one  sentence.", "Answer in one sentence.", "answer in one  sentence.", "Why?"),
        ("Why? Answer in one\nsentence", "Answer in one sentence.", "Answer in one\nsentence", "Why?"),
        ("Why? Answer in one sentence.", "Answer in one sentence", "Answer in one sentence.", "Why?"),
        ("Don’t use “tea”. Why?", 'Don\'t use "tea".', "Don’t use “tea”.", "Why?"),
        ("Où ? Réponds en français.", "Re\u0301ponds en franc\u0327ais.", "Réponds en français.", "Où ?"),
        ("Où ? Re\u0301ponds.", "Réponds.", "Re\u0301ponds.", "Où ?"),
        ("Answer briefly. What does ANSWER BRIEFLY. mean?", "Answer briefly.", None, "What does ANSWER BRIEFLY. mean?"),
        ("Run it:\n\n    if  x:\n        go()\n\nBe brief.", "Be brief.", None, "Run it:\n\n    if  x:\n        go()"),
        ("One.\n\nBe brief.\n\n    code", "Be brief.", None, "One.\n\n    code"),
    ],
)
def test_an_instruction_is_found_where_it_stands_whatever_its_case_and_spaces(
    prompt: str, instruction: str, marked: str | None, left: str
) -> None:
    turns = [{"role": "system", "content": prompt}, {"role": "user", "content": "Go."}]
    for given in (prompt, turns):
        (sample,) = ms.task([{"prompt": given, "instruction": instruction}], "lowercase").samples
        assert sample.instruction == "" and sample.instructions == [marked or instruction]
        base = sample.base if isinstance(sample.base, str) else sample.base and sample.base[0]["content"]
        assert base == left and prompt in sample.text


def test_an_instruction_is_no_part_of_a_word_and_not_guessed_between_two() -> None:
    for instruction in ("Lis", "Lis."):
        (sample,) = ms.task([{"prompt": "Listen to the list.", "instruction": instruction}], "lowercase").samples
        assert sample.instruction == instruction and sample.asked == "Listen to the list."
    with pytest.raises(MechsteerError, match="stands 2 times in the prompt"):
        ms.task([{"prompt": "be brief . Be Brief .", "instruction": "Be brief ."}], "lowercase")


def test_a_prompt_that_says_nothing_beyond_its_base_has_no_pair(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa", chat=True)
    for given in ("the cat sat", [{"role": "user", "content": "the cat sat"}]):
        task = ms.task([FORMS["outside"], {"prompt": given, "base": given}], "lowercase")
        assert len(task.prompts(model)) == 2
        with pytest.raises(MechsteerError, match="Sample 1: this prompt says nothing beyond its 'base'"):
            task.pairs(model)


def test_kinds_that_are_numbers_stay_apart() -> None:
    kinds = [20240101, 20240102, 2.0, 2.5, np.int64(7)]
    samples = ms.task([{"prompt": "a", "kind": kind} for kind in kinds], "lowercase").samples
    assert [sample.kind for sample in samples] == ["20240101", "20240102", "2", "2.5", "7"]


def test_tags_of_influence_are_no_instruction(tiny: Callable[..., Any]) -> None:
    model, asked = tiny("llama-gqa"), "<?-> the cat <-?> sat . answer in red"
    with pytest.raises(MechsteerError, match="nobody knows this prompt without"):
        ms.task([asked], "lowercase").pairs(model)
    ((made, bare),) = ms.task([{"prompt": asked, "instruction": "answer in red"}], "lowercase").pairs(model)
    assert spoken(made, "instruction") == "answer in red".split() and spoken(made, "influence") == ["the", "cat"]
    assert bare.text == "the cat sat ."
    with pytest.raises(MechsteerError, match="mark the instruction with tags too"):
        ms.task([{"prompt": asked, "base": "the cat sat ."}], "lowercase")


def test_what_is_all_instruction_has_no_form_without(tiny: Callable[..., Any]) -> None:
    task = ms.task([{"prompt": SAID, "instruction": SAID}], "lowercase")
    with pytest.raises(MechsteerError, match="nothing is left of this prompt without its instruction; give 'base'"):
        task.pairs(tiny("llama-gqa"))


def test_base_may_differ_in_small_things(tiny: Callable[..., Any]) -> None:
    text = "write a quote , in capitals , on the cat . answer in red , in blue ."
    (made,) = ms.task([{"prompt": text, "base": "write a quote on the cat ."}], check="lowercase").prompts(tiny("gpt2"))
    assert spoken(made, "instruction") == ", in capitals , answer in red , in blue .".split()


def test_a_finished_prompt_and_one_without_an_instruction(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    given = ms.prompt(model, "the cat", instruction=SAID)
    assert ms.task([given], check="lowercase").prompts(model) == [given]
    for sample in (given, "the cat"):
        with pytest.raises(MechsteerError, match="Sample 0: nobody knows this prompt without its instruction"):
            ms.task([sample], check="lowercase").pairs(model)
    for name, text in (("instruction", SAID), ("context", "a dog")):
        with pytest.raises(
            MechsteerError, match=f"Sample 0: this prompt is finished, and has no span {name!r}: give it"
        ):
            ms.task([{"prompt": ms.prompt(model, f"the cat {SAID}"), name: text}], check="lowercase")
    lost = ms.prompt(model, "the cat")
    for prompt in (given, lost):  # an instruction that was cut off is for a diagnosis to name
        assert ms.task([{"prompt": prompt, "instruction": SAID}], check="lowercase").prompts(model) == [prompt]


def test_rows_of_evaluate(tiny: Callable[..., Any]) -> None:
    model, seen = tiny("llama-gqa"), []

    def check(text: str, sample: dict[str, Any]) -> dict[str, Any]:
        seen.append(sample)
        return {"long": len(text.split()) > 2, "share": torch.tensor(0.25), "word": 1}

    task = ms.task([FORMS["outside"] | {"kind": "k", "word": "x"}, FORMS["tags"]], check, name="mine", max_new_tokens=4)
    assert isinstance(task, Task)
    rows = ms.evaluate(model, task, steer=ms.attention_bias(delta=1.0))
    assert seen == [FORMS["outside"] | {"kind": "k", "word": "x"}, {"prompt": FORMS["tags"]}]
    assert rows["kind"].tolist() == ["k", ""] and rows["task"].tolist() == ["mine"] * 2
    assert rows["long"].dtype == bool and rows["share"].tolist() == [0.25, 0.25] and rows["word"].dtype == float
    plain = ms.generate(model, task.prompts(model), max_new_tokens=4).texts
    assert ms.evaluate(model, task)["output"].tolist() == plain


def test_directions_come_from_its_pairs(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    pairs = ms.task([FORMS["outside"], FORMS["tags"]], check="lowercase").pairs(model)
    assert ms.difference_in_means(model, pairs, layer=1).norm > 0


def test_files_read_the_same(tmp_path: Path, tiny: Callable[..., Any]) -> None:
    rows = [
        {"prompt": "the cat , sat", "instruction": SAID, "max_words": 3},
        {"prompt": 'a "dog"', "base": "", "max_words": 2},
    ]
    listed, table = tmp_path / "own.jsonl", tmp_path / "own.csv"
    listed.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    table.write_text('prompt,instruction,max_words\n"the cat , sat",answer in capitals,3\n\n"a ""dog""",,2\n')
    tasks = [ms.task(given, "max_words") for given in (rows, listed, str(table))]
    model = tiny("llama-gqa")
    assert [task.name for task in tasks] == ["max_words", "own.jsonl", "own.csv"]
    for task in tasks[1:]:
        assert [p.text for p in task.prompts(model)] == [p.text for p in tasks[0].prompts(model)]
        assert [task.scores(s, "one two three") for s in task.samples] == [{"adherence": True}, {"adherence": False}]


def test_texts_that_look_like_numbers_stay_texts_where_a_check_takes_texts(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        'prompt,contains,regex,keyword,max_words,keywords\r\nWhen was it?,1905,[12],true,30,"[""a"", ""b""]"\r\n'
    )
    (sample,) = ms.task(path, "contains").samples
    assert dict(sample.given) == {
        "prompt": "When was it?",
        "contains": "1905",
        "regex": "[12]",
        "keyword": "true",
        "max_words": 30,
        "keywords": ["a", "b"],
    }
    assert ms.task(path, "contains").scores(sample, "It was in 1905.") == {"adherence": True}


def test_a_csv_file_has_messages_as_json(tmp_path: Path) -> None:
    turns, line = TURNS["in the system's"], "[1, 2] is a list"
    table = pd.DataFrame({"prompt": [json.dumps(turns), line], "base": [json.dumps(turns[1:]), ""]})
    table.to_csv(tmp_path / "own.csv", index=False)
    found = ms.task(tmp_path / "own.csv", "lowercase").samples
    assert found[1].asked == line and found[0].base == tuple(turns[1:])
    assert found[0].asked == ms.task([{"prompt": turns, "base": turns[1:]}], "lowercase").samples[0].asked


def test_a_file_that_is_not_utf_8_is_told_so(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "own.csv").write_text("prompt\nOù est-ce ?\n", encoding=encoding)
        with pytest.raises(MechsteerError, match="save it as UTF-8"):
            ms.task(tmp_path / "own.csv", "lowercase")


def test_each_line_may_name_its_check(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "check": "lowercase"}\n{"prompt": "b", "check": "uppercase"}\n')
    task = ms.task(path)
    assert [task.scores(s, "some words")["adherence"] for s in task.samples] == [True, False]
    path.write_text('{"prompt": "a", "check": "lowercase"}\n\n"b"\n')
    with pytest.raises(MechsteerError, match=r"own\.jsonl, line 3 names no check"):
        ms.task(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("3", "line 2: 'prompt' must be a text"),
        ('{"promt": "x"}', "line 2: a sample needs 'prompt'. Is 'promt' misspelt"),
        ('{"prompt": "x", "instrution": "y"}', "line 2: unknown name 'instrution'; did you mean 'instruction'"),
        ('{"prompt": " "}', "line 2: 'prompt' must be a text"),
        ('{"prompt": "x", "instruction": 3}', "line 2: 'instruction' must be a text, got 3"),
        ('{"prompt": "ab ab", "instruction": "ab"}', "line 2: the instruction 'ab' stands 2 times"),
        ('{"prompt": "x", "max_words": "few"}', "line 2: max_words needs a whole number"),
        ('{"prompt": "x"}', "line 2: The check 'max_words' needs an argument"),
    ],
)
def test_broken_lines_are_named_before_anything_is_generated(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"prompt": "ok", "max_words": 3}}\n{line}\n')
    with pytest.raises(MechsteerError, match=said):
        ms.task(path, check="max_words")


@pytest.mark.parametrize(
    ("samples", "check", "said"),
    [
        ([], "lowercase", "needs samples"),
        ("none.jsonl", "lowercase", "No such file"),
        (["x"], "lowercas", "Did you mean 'lowercase'"),
        (["x"], str.islower, "check must take an answer and its sample"),
        ({"prompt": "x"}, "lowercase", "samples must be a list"),
        ([{"role": "user", "content": "x"}], "lowercase", "Sample 0: a sample needs 'prompt'"),
        (["x", None], "lowercase", "Sample 1: 'prompt' must be"),
    ],
)
def test_what_makes_no_task(samples: Any, check: Any, said: str) -> None:
    with pytest.raises(MechsteerError, match=said):
        ms.task(samples, check)


def test_broken_csv_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    for text, said in (
        ("question\nx\n", "lacks the column 'prompt'"),
        ('prompt,kind\n"a\nb",k\nc\n', "line 4: 1 fields, but the header has 2"),
        ('prompt\n"open\n', "not readable as CSV"),
        ("", "lacks the column"),
    ):
        path.write_text(text)
        with pytest.raises(MechsteerError, match=said):
            ms.task(path, check="lowercase")
    (tmp_path / "own.txt").write_text("x")
    with pytest.raises(MechsteerError, match=r"must be a \.jsonl or \.csv file"):
        ms.task(tmp_path / "own.txt", check="lowercase")


@pytest.mark.parametrize("value", [None, "yes", float("inf"), {}, {"prompt": True}, {3: True}, [True]])
def test_what_is_no_score_is_refused(value: Any) -> None:
    task = ms.task(["x"], lambda text, sample: value)
    with pytest.raises(MechsteerError, match="Sample 0: "):
        task.scores(task.samples[0], "text")


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float32("nan"), torch.tensor(math.nan), 10**400])
def test_a_score_that_is_no_finite_number_is_refused_by_its_name(value: Any) -> None:
    for found, name in ((value, "adherence"), ({"sound": True, "share": value}, "share")):
        task = ms.task(["x", "y"], lambda text, sample, found=found: found)
        with pytest.raises(MechsteerError, match=f"Sample 1: the check's score '{name}' must be finite, got"):
            task.scores(task.samples[1], "text")


def test_a_task_shows_the_checks_of_its_samples() -> None:
    own = ms.task([{"prompt": "a", "check": f"max_words:{n}"} for n in (3, 3, 4)], name="own")
    assert repr(own) == "OwnTask(name='own', check=of each sample (max_words:3, max_words:4), max_new_tokens=128)"
    assert "check=Spec(name='lowercase'" in repr(ms.task(["a"], "lowercase"))


def test_a_check_that_fails_is_named_with_its_sample() -> None:
    task = ms.task(["x", {"prompt": "y", "word": "z"}], lambda text, sample: sample["word"] in text)
    with pytest.raises(MechsteerError, match="Sample 0: the check failed on 'text': KeyError"):
        task.scores(task.samples[0], "text")
    assert task.scores(task.samples[1], "z") == {"adherence": True}


def test_the_hash_is_of_prompts_arguments_and_check() -> None:
    def made(check: Any = "max_words", **sample: Any) -> str:
        return ms.task([{"prompt": "a", "max_words": 3} | sample], check).data_hash

    others = [made(prompt="b"), made(max_words=4), made(instruction="c"), made(kind="k"), made("max_words:3")]
    others += [made(lambda text, sample: True), made(lambda text, sample: False)]
    assert made() == made() and len({made(), *others}) == 1 + len(others)


JUDGE = """
def judge(text, sample):
    return all(letter.islower() or letter in {"1", "2"} for letter in text)
"""


class Most:
    def __init__(self, words: int) -> None:
        self.words = words

    def __call__(self, text: str, sample: Any) -> bool:
        return len(text.split()) <= self.words

    def least(self, text: str, sample: Any) -> bool:
        return len(text.split()) >= self.words


def at_most(text: str, sample: Any, words: int = 3) -> bool:
    return len(text.split()) <= words


def test_the_hash_of_a_function_is_of_its_code_wherever_that_lies() -> None:
    compiled: list[dict[str, Any]] = [{}, {}]
    for names in compiled:
        exec(JUDGE, names)
    first, second = (ms.task(["a"], names["judge"]).data_hash for names in compiled)
    assert first == second


def test_the_hash_of_a_function_is_of_the_values_that_it_holds() -> None:
    def within(words: Any) -> list[Any]:
        return [
            partial(at_most, words=words),
            lambda text, sample, words=words: at_most(text, sample, words),
            lambda text, sample: at_most(text, sample, words),
            Most(words),
            Most(words).least,
        ]

    hashes = [[ms.task(["a"], check).data_hash for check in within(words)] for words in (3, 4, 3)]
    assert hashes[0] == hashes[2] and len({*hashes[0], *hashes[1]}) == 10
    for values in (["a", "b"], {"a", "b"}, {"a": re.compile("b")}, [object()]):
        task = ms.task([{"prompt": "a", "words": values}], within(values)[0])
        assert task.data_hash == ms.task(list(map(dict, [task.samples[0].given])), within(values)[0]).data_hash


NOTEBOOK = """
import json
LIMIT, BANNED, seen, calls = 3, ["a"], [], 0
def count(text):
    return len(text.split()) - OFFSET
OFFSET = 0
def short(text, sample):
    return count(text) <= LIMIT and json is not None
def clean(text, sample):
    return not any(word in text for word in BANNED)
def watched(text, sample):
    global calls
    calls += 1
    seen.append(text)
    return True
"""


def test_the_hash_of_a_function_is_of_the_global_values_that_it_names() -> None:
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(NOTEBOOK, names)
    checks = ("short", "clean", "watched")

    def hashes() -> list[str]:
        return [ms.task(["b"], names[check]).data_hash for check in checks]

    before = hashes()
    ms.task(["b"], names["watched"]).scores(ms.task(["b"], "lowercase").samples[0], "b")
    assert hashes() == before  # what a check writes down is none of its settings
    changed = []
    for name, value in (("LIMIT", 4), ("OFFSET", 1), ("BANNED", ["a", "b"])):
        names[name], old = value, names[name]
        changed.append([check for check, one, two in zip(checks, before, hashes(), strict=True) if one != two])
        names[name] = old
    assert changed == [["short"], ["short"], ["clean"]] and hashes() == before


def test_a_table_of_pandas_is_read_by_row_and_nan_is_absent() -> None:
    table = pd.DataFrame(
        {
            "prompt": ["Why?", "Who?"],
            "instruction": ["Be brief.", None],
            "kind": ["a", np.nan],
            "max_words": [3, np.nan],
        }
    )
    with pytest.raises(MechsteerError, match="Sample 1: The check 'max_words' needs an argument"):
        ms.task(table, "max_words")
    first, second = ms.task(table, "lowercase").samples
    assert (first.text, first.kind, second.text, second.kind, second.instruction) == (
        "Be brief.\n\nWhy?",
        "a",
        "Who?",
        "",
        "",
    )
    assert ms.task(table[:1], "max_words").scores(first, "one two three four") == {"adherence": False}
    rows = table.assign(kind=pd.array(["a", None], dtype="string")).to_dict("records")
    assert [s.kind for s in ms.task(rows, "lowercase").samples] == ["a", ""]
    numbered = ms.task(table.assign(kind=[2, np.nan]), "lowercase")
    assert [s.kind for s in numbered.samples] == ["2", ""] and len(numbered.of_kind("2").samples) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_tokens": 1.0}, "n_tokens is a column of every result"),
        ({"collapsed": True, "fine": 1.0}, "collapsed is a column"),
        ({"model_name": 1.0, "version_torch": 1}, "model_name, version_torch are columns"),
        ({"method": 1, "task": 0}, "method, task are columns"),
        ({}, "there are none"),
        (10**400, "score 'adherence' must be finite"),
        ({"a": -(10**400)}, "score 'a' must be finite"),
    ],
)
def test_scores_that_tables_cannot_hold_are_refused_with_the_sample(given: Any, said: str) -> None:
    task = ms.task(["a", "b"], lambda text, sample: given)
    with pytest.raises(MechsteerError, match=f"Sample 1: .*{said}"):
        task.scores(task.samples[1], "hello")


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("<!!-> Be brief. Why?", "Sample 0: Tag '<!!->' needs <-!!> to close it"),
        ("Be brief. <-!!> Why?", "Sample 0: Closing tag '<-!!>' has no opening tag"),
        ([{"role": "user", "content": "<!-> Be brief. <-!!> Why?"}], "Sample 0: Tag '<!->' needs"),
        ({"instruction": "Be brief."}, "Sample 0: a sample needs 'prompt'. It has 'instruction'."),
        ({"Prompt": "Why?"}, "Sample 0: a sample needs 'prompt'. Is 'Prompt' misspelt"),
        ({"prompt": float("nan")}, "Sample 0: a sample needs 'prompt'."),
    ],
)
def test_what_is_wrong_with_a_sample_is_said_when_it_is_read(sample: Any, said: str) -> None:
    with pytest.raises(MechsteerError, match=re.escape(said)):
        ms.task([sample], "lowercase")


def test_a_line_that_is_there_twice_is_told(tmp_path: Path) -> None:
    for name, text in (("own.jsonl", '{"prompt": "a"}\n"b"\n{"prompt": "a"}\n'), ("own.csv", "prompt\na\nb\na\n")):
        (tmp_path / name).write_text(text)
        with pytest.warns(UserWarning, match=r"1 line repeats an earlier one \(line [34], for one\)"):
            assert len(ms.task(tmp_path / name, "lowercase").samples) == 3


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "twice.csv"
    file.write_text("prompt,kind,prompt\na,b,c\n", encoding="utf-8")
    with pytest.raises(MechsteerError, match=r"twice\.csv has the column 'prompt' twice"):
        ms.task(file, "lowercase")


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_file_separated_otherwise_is_told_so(quote: str, separator: str, tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    lines = [("prompt", "instruction"), ("a", "b"), ("Why, oh why?", "b")]
    text = "\n".join(separator.join(f"{quote}{cell}{quote}" for cell in line) for line in lines)
    file.write_text(text, encoding="utf-8-sig")
    with pytest.raises(MechsteerError, match=re.escape(f"separated by commas, not by {separator!r}")):
        ms.task(file, "lowercase")
