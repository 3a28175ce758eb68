"""Checks by name: garbage passes none of them, answers that do what was asked pass theirs."""

import json
import sys
from typing import Any

import numpy as np
import pytest

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.tasks.checks import TESTS, spec, without_echo

ASKED = {"prompt": "Use the word tea. What do you drink?", "instruction": "Use the word tea."}

NOTHING = [
    "",
    " ",
    "\n\n",
    ".",
    "...",
    "!!!",
    "?",
    "- -",
    "-",
    "* *",
    "—",
    "_",
    "…",
    "🙂",
    '""',
    "''",
    "()",
    "```\n```",
]
LOOPS = ["le le le", "LE LE LE", "tea tea tea tea", "l", "L", "a a a", "1 1 1 1", "la le la le la le", "Tea. Tea. Tea."]
LOOPS += [
    "It is tea and it is hot. " * 6,
    "the cat sat down, " * 9,
    "OK OK OK OK",
    "tea, tea, tea",
    "go go go go go\n" * 4,
]
EMPTY_JSON = [
    "{}",
    "[]",
    '{"": ""}',
    '{" ": 1}',
    '{"a": NaN}',
    '{"a": Infinity}',
    '{"a": -Infinity}',
    '{"a": null}',
    '{"a": ""}',
]
EMPTY_JSON += [
    '{"a": {}}',
    "[[]]",
    '[""]',
    '["."]',
    '{"a": "..."}',
    '{"a": 1, "a": 2}',
    "null",
    "true",
    "3",
    '"text"',
    "{",
    "[1, 2",
]
EMPTY_JSON += [
    '{"a": "le le le le"}',
    "{'a': 1}",
    '{"a": 1,}',
    'Here it is: {"a": 1}',
    '{"a": 1} and more',
    "```json\n{}\n```",
]
NOT_FRENCH = [
    "le",
    "Bonjour",
    "le la les un une",
    "The capital of France is Paris.",
    "El gato duerme en la casa grande.",
]
NOT_FRENCH += [
    "Le chat dort, but the dog runs in the garden and plays all day.",
    "asdf qwer zxcv",
    "La capital de la Francia es la Paris.",
]
NOT_FRENCH += ["C'est un bon repas de la journée. This is an English sentence that goes on for a while."]
ARGUMENTS = {
    "max_words": "9",
    "sentences": "1",
    "language": "fr",
    "contains": "tea",
    "excludes": "x",
    "starts_with": "t",
    "ends_with": "a",
}
ARGUMENTS["regex"] = ".*"
ALL = [name if TESTS[name][1] is None else f"{name}:{ARGUMENTS[name]}" for name in TESTS]


def passes(check: str, text: str, **sample: Any) -> Any:
    return spec(check).check(text, ASKED | sample)


@pytest.mark.parametrize("check", ALL)
def test_what_says_nothing_passes_no_check(check: str) -> None:
    assert [text for text in (*NOTHING, *LOOPS) if passes(check, text)] == []


@pytest.mark.parametrize("check", [name for name in ALL if name != "json"])
def test_an_echo_of_the_instruction_passes_no_check(check: str) -> None:
    echoes = ["Use the word tea.", "use the word tea", "USE THE WORD TEA!", "use  the\nword tea. use the word tea"]
    echoes += ['Use the word "tea".', "**Use the word: tea**", "USE THE WORD 'TEA'!", "- use the word tea"]
    assert [text for text in echoes if passes(check, text)] == []


@pytest.mark.parametrize("check", [name for name in ALL if name != "json"])
def test_an_echo_of_what_is_marked_as_instruction_is_none_either(check: str) -> None:
    sample = {"prompt": "Who is it? <!!-> Say it with the word tea. <-!!>"}
    task = ms.task([sample, sample | {"prompt": "Who is it? Say it with the word tea.", "base": "Who is it?"}], check)
    for one in task.samples:
        assert not task.scores(one, "say it  with the word tea.")["adherence"]


def test_a_marked_word_or_two_is_no_echo() -> None:
    task = ms.task(["What do cats drink? <!!-> in capitals <-!!>"], "contains:in capitals")
    assert task.scores(task.samples[0], "I write milk in capitals here.") == {"adherence": True}


def test_json_that_is_none_or_says_nothing() -> None:
    assert [text for text in EMPTY_JSON if passes("json", text)] == []
    for value in ({"a": "x"}, [1, 2], {"a": False}, {"ok": {"b": [0]}}, ["red", "red", "blue"], {"name": "Jo", "n": 3}):
        assert passes("json", json.dumps(value)) and passes("json", f"```json\n{json.dumps(value, indent=1)}\n```")


def test_language() -> None:
    assert [text for text in NOT_FRENCH if passes("language:fr", text)] == []
    for text in (
        "Paris est la capitale de la France.",
        "Oui, bien sûr.",
        "Le ciel est bleu parce que la lumière se diffuse. Il devient rouge le soir quand le soleil est bas.",
    ):
        assert passes("language:fr", text), text
    assert passes("language:zh", "东京是日本的首都。") and passes("language:de", "Das ist ein schönes Haus am See.")
    assert passes("language:zh", "天空是藍色的，因為空氣會散射陽光。") and passes(
        "language:zh-tw", "這個國家的首都是臺北。"
    )
    assert not passes("language:zh-cn", "這個國家的首都是臺北，因為那裡有總統府。")
    assert passes("language:hi", "आसमान नीला दिखाई देता है क्योंकि हवा सूरज की रोशनी को बिखेर देती है।")
    assert passes("language:bn", "আকাশ নীল দেখায় কারণ সূর্যের আলো ছড়িয়ে পড়ে।")
    assert passes("language:ta", "வானம் நீல நிறத்தில் தெரிகிறது ஏனெனில் சூரிய ஒளி சிதறுகிறது.")
    mixed = "आसमान नीला दिखाई देता है क्योंकि रोशनी बिखर जाती है। Then it says in English that the sky is blue."
    assert not passes("language:hi", mixed) and not passes("language:hi", "है है है है है है है")
    with pytest.raises(MechsteerError, match=r"Unknown language 'french'.*Did you mean 'fr'"):
        spec("language:french")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Paris is the capital.", 1),
        ("Dr. Smith lives in the U.S. and works until 3.5 p.m. every day.", 1),
        ('He said "Go!" and left.', 1),
        ("It was written in 1901 by J. K. Row.", 1),
        ("Wait... what?", 1),
        ("Yes.", 1),
        ("Paris is the\ncapital of France.", 1),
        ("東京は日本の首都です。", 1),
        ("Yes! It is.", 2),
        ("One (yes). Two.", 2),
        ("- It is red.\n- It is blue.", 2),
        ("A line without a mark\n\nAnd one with it.", 2),
        ("**It is red.** *It is blue.*", 2),
        ("Well… it is red.", 1),
        ("Well… It is red.", 2),
        ("„Es ist rot.“", 1),
        ("«Il est rouge.» — «Il est bleu !»", 2),
        ("It is red.😊 It is blue.[1]", 2),
        ("J.R.R. Row wrote it in Washington, D.C. in 1901.", 1),
        ("He is in the U.S.A. and e. g. there.", 1),
        ("Mt. Row is 900 ft. high.", 1),
        ("He lives in the U.S. She does not.", 2),
        ("1. Red. 2. Blue. 3. Green.", 3),
        ("It was in World War I. Then it ended.", 2),
        ("आसमान नीला है।", 1),
        ("आसमान नीला है। पेड़ हरा है।", 2),
        ("السماء زرقاء. هل هي زرقاء؟", 2),
        ("آسمان نیلا ہے۔", 1),
        ("It stops in the middle of", 0),
        ("It is red. It stops in", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert [n for n in (1, 2, 3) if passes(f"sentences:{n}", text)] == ([count] if count else [])


@pytest.mark.parametrize(
    ("check", "yes", "no"),
    [
        ("lowercase", ["it is 3 o'clock, ok?", "élan vital"], ["It is late", "42 17"]),
        ("uppercase", ["IT IS LATE.", "ÉLAN 3 X"], ["IT IS Late", "42 17"]),
        ("max_words:3", ["ok", "one two three", "42"], ["one two three four"]),
        ("max_words:4", ["天空很蓝。", "我喜欢 tea"], ["天空是蓝色的。", "空は青いです"]),
        (
            "contains:tea",
            ["I drink Tea.", "Use the word tea. I like tea!", "tea"],
            ["a teapot", "Use the word tea. No."],
        ),
        ("contains:C++", ["I like C++ most"], ["I like C most"]),
        ("contains:green  tea", ["all Green\ntea here"], ["green herbal tea"]),
        ("excludes:tea", ["I like teapots"], ["I like TEA."]),
        ("starts_with:Sure", ["Sure, it is.", " Sure thing"], ["Sure", "Sure!", "sure, it is", "So sure"]),
        ("ends_with:OK", ["It is. OK", "Use the word tea. No. OK\n"], ["OK", "...OK", "It is. ok", "OK, it is.", ""]),
        ("ends_with:tea", ["I like tea"], ["I will. Use the word tea", "Use the word tea."]),
        (r"regex:^\d+ cats$", ["12 cats"], ["12 cats and dogs"]),
        ("regex:^[A-D]$", ["B"], ["E", "AB", "", "."]),
        (r"regex:^\W*[A-D]\W*$", ["(B)", "B."], ["()", "E."]),
        ("regex:^[^,]*$", ["It is tea"], ["B", "Tea, it is"]),
        ("excludes:,", ["Tea and milk."], ["Tea, milk and bread."]),
        ("excludes:!", ["It is so."], ["It is so!"]),
        ("contains:?", ["Is it so?"], ["It is so."]),
        ("contains:😊", ["hello there😊"], ["hello there"]),
        ("contains:**", ["It is **bold** here"], ["It is *bold* here"]),
        ("contains:#tea", ["I like #tea most", "so#tea"], ["I like #teapots"]),
        ("contains:don't", ["I don’t know tea"], ["I do not know tea"]),
        ("excludes:don’t", ["I do not know tea"], ["I don't know tea"]),
        ("contains:नीला", ["आसमान नीला है।"], ["आसमान नीलापन है।"]),
        ("contains:नील", ["यह नील है।"], ["आसमान नीला है।"]),
        ("contains:茶", ["我喜欢喝茶和咖啡。"], ["我喜欢喝咖啡。"]),
        ("contains:ชา", ["ฉันดื่มชาทุกวัน"], ["ฉันดื่มกาแฟทุกวัน"]),
        ("contains:coffee", ["我喜欢coffee和水。"], ["我喜欢coffees和水。"]),
        ("excludes:茶", ["我喜欢喝咖啡。"], ["我喜欢喝茶和咖啡。"]),
        ("contains:café", ["We sat in the cafe\u0301 all day."], ["We sat in the cafe all day."]),
        ("excludes:cafe\u0301", ["We sat in the cafe all day."], ["We sat in the café all day."]),
        ("starts_with:Élan", ["E\u0301lan is what it has."], ["Elan is what it has."]),
    ],
)
def test_each_does_what_it_says(check: str, yes: list[str], no: list[str]) -> None:
    assert [passes(check, text) for text in yes] == [True] * len(yes)
    assert [passes(check, text) for text in no] == [False] * len(no)


def test_an_argument_may_stand_in_the_sample() -> None:
    assert passes("max_words", "one two", max_words=2) and not passes("max_words", "one two three", max_words="2")
    with pytest.raises(MechsteerError, match="'contains' needs an argument"):
        spec("contains").look(ASKED)
    with pytest.raises(MechsteerError, match="got 0"):
        spec("sentences").look(ASKED | {"sentences": 0})


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("lower", "Unknown check 'lower'. Did you mean 'lowercase'"),
        ("max_words:many", "whole number of at least 1, e.g. max_words:3, got 'many'"),
        ("max_words:-3", "got '-3'"),
        ("contains: ", "needs a text"),
        ("json:3", "takes no argument"),
        ("regex:(", r"regular expression of Python, got '\('"),
        ("not_contains:Jo", "Unknown check 'not_contains:Jo'. Did you mean 'contains'?"),
        ("bullets:3", "Valid: contains, ends_with, excludes, json"),
        ("length_constraints:number_wrds", "Did you mean 'length_constraints:number_words'"),
    ],
)
def test_unknown_names_and_arguments(check: str, said: str) -> None:
    with pytest.raises(MechsteerError, match=said):
        spec(check)


def test_ifevals_ids_take_their_arguments_from_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def followed(sample: Any, text: str) -> tuple[list[bool], list[bool]]:
        seen.append((sample.instructions, sample.kwargs, text))
        return [False], [True]

    monkeypatch.setattr(sys.modules["mechsteer.tasks.ifeval"], "followed", followed)
    given = {"num_words": 5, "relation": "at least", "other": 1}
    assert passes("length_constraints:number_words", "one two", **given) == {"adherence": False, "loose": True}
    wanted = {"num_words": 5, "relation": "at least"}
    assert seen == [(("length_constraints:number_words",), (wanted,), "one two")]
    for number in (5.0, np.float64(5)):
        assert (
            passes("length_constraints:number_words", "one two", **given | {"num_words": number})
            and seen[-1] == seen[0]
        )
    assert passes("language:response_language", "x", language="fr")["loose"] and seen[-1][1] == ({"language": "fr"},)
    with pytest.raises(MechsteerError, match="lacks the argument 'relation'"):
        spec("length_constraints:number_words").look({"prompt": "x", "num_words": 5})


def test_what_ifevals_ids_need_is_looked_for_before_anything_is_generated(
    monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    def missing() -> None:
        raise MechsteerError("the extra is missing")

    monkeypatch.setattr(sys.modules["mechsteer.tasks.ifeval"], "require_checkers", missing)
    mixed = [{"prompt": "a", "check": "lowercase"}, {"prompt": "b", "check": "punctuation:no_comma"}]
    for task in (ms.task(mixed), ms.task(["a"], "punctuation:no_comma")):
        with pytest.raises(MechsteerError, match="the extra is missing"):
            task.run(None)
        with pytest.raises(MechsteerError, match="the extra is missing"):
            task.ready()
    ms.task(["a"], "lowercase").ready()
    ms.task(["a"], lambda text, sample: True).ready()


def test_an_answer_that_is_nested_very_deeply_is_scored(unchecked: None) -> None:
    from mechsteer.tasks.checkers import strings
    from mechsteer.tasks.checks import is_json

    for depth in (500, 900, 960, 990, 5000):
        assert is_json("[" * depth + '"a word"' + "]" * depth) in (True, False)
    value: object = "deep"
    for _ in range(5000):
        value = [value, {"a": "b"}]
    assert strings([value])[:2] == ["deep", "b"] and len(strings([value])) == 5001


def test_an_echo_is_of_whole_words_whatever_stands_between_them() -> None:
    assert without_echo("Banana: use the 'word' tea!", "Use the word: tea.") == "Banana:  !"
    assert without_echo("banana", "a.") == "banana" and without_echo("a banana", "a.") == "  banana"
    assert without_echo("请用中文回答", "用中文") == "请 回答"
    assert without_echo("हाँ, हिंदी  में उत्तर दो!", "हिंदी में उत्तर दो।") == "हाँ,  !"
