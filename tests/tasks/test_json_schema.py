"""Structured output: what is read, how it is scored, and what is a schema."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.tasks.json_schema import NOTES_SCHEMA, SCHEMA, check_schema, extract, json_schema, schema_score

GOOD = {
    "title": "t",
    "genre": "g",
    "characters": [],
    "author": "a",
    "summary": "s",
    "date": "1600",
    "scenery": "y",
}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n{"a":\n {"b": 2}}\nDone.', {"a": {"b": 2}}),
        ("{}", {}),
        ('{"a": 1} and {"b": 2}', None),  # from the first brace to the last
        ('{"a": 1', None),
        ("a: 1", None),
        ("{a: 1}", None),
        ("}{", None),
        ("", None),
        ("{" * 5000 + "}" * 5000, None),
    ],
)
def test_what_is_read(output: str, found: dict | None) -> None:
    assert extract(output) == found


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (GOOD, 1.0),
        (None, 0.0),
        ({}, 0.0),
        ({**GOOD, "date": 1600}, 6 / 7),
        ({**GOOD, "characters": "many"}, 6 / 7),
        ({**GOOD, "more": 1}, 7 / 8),
        ({"title": "t", "date": "1600"}, 2 / 7),
        ({f"key {i}": "x" for i in range(20)} | {"title": "t"}, 1 / 21),
        ({**GOOD, "title": None}, 6 / 7),
    ],
)
def test_the_score_by_hand(value: dict | None, score: float) -> None:
    assert schema_score(value, SCHEMA) == pytest.approx(score)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("string", "", 1),
        ("number", 1.5, True),
        ("integer", 2, 2.0),
        ("boolean", False, 0),
        (["string"], [1], {}),
        ({"a": "string"}, {}, []),
    ],
)
def test_types(kind: Any, right: Any, wrong: Any) -> None:
    assert schema_score({"k": right}, {"k": kind}) == 1
    assert schema_score({"k": wrong}, {"k": kind}) == 0


def test_prompts_bias_the_sentence_before_the_template(instruct_llama: Any) -> None:
    task = json_schema(lengths=[0, 60], n=1)
    bare, made = task.prompts(instruct_llama)
    marked = instruct_llama.tokenizer.decode(made.tokens[made.positions("instruction")])
    assert marked.strip() == "Your response should follow exactly this template:"
    template = made.text[made.text.index("{") : made.text.rindex("}") + 1]
    assert json.loads(template) == dict(SCHEMA)
    assert set(made.spans) == {"instruction", "task", "document"} and set(bare.spans) == {"instruction", "task"}
    assert made.text.index("template:") < made.text.index("{") < made.text.index(task.samples[1].text)


def test_longer_texts_begin_with_shorter_ones() -> None:
    for text in ("document", "notes"):
        short, long = (json_schema(text, lengths=size, n=2).samples for size in (60, 120))
        for one, two in zip(short, long, strict=True):
            assert two.text.startswith(one.text) and 40 < len(one.text.split()) <= 60 < len(two.text.split()) <= 120
        assert short[0].text != short[1].text
    hashes = {json_schema(lengths=60, n=2, seed=s, schema=k).data_hash for s in (0, 1) for k in (None, {"a": "string"})}
    assert len(hashes) == 4


def test_the_organism_follows_its_schema_until_the_text_is_long(instruct_llama: Any) -> None:
    task = json_schema("notes", lengths=[45, 180], n=8)
    plain = ms.evaluate(instruct_llama, task)
    assert dict(task.schema) == dict(NOTES_SCHEMA)
    again = [schema_score(extract(output), NOTES_SCHEMA) for output in plain["output"]]
    assert plain["score"].tolist() == again
    mean = plain.groupby("length")["score"].mean()
    biased = ms.evaluate(instruct_llama, task, steer=ms.attention_bias("instruction", 2.0)).groupby("length")["score"]
    assert mean[45] == 1 and mean[180] < 0.8 and biased.mean()[180] > mean[180]


def test_rows(tiny: Callable[..., Any]) -> None:
    table = json_schema("notes", lengths=0, n=2, max_new_tokens=3).run(tiny("llama-gqa"))
    assert list(table.columns) == [
        "sample",
        "length",
        "words",
        "tokens",
        "prompt",
        "output",
        "parsed",
        "score",
        "sound",
    ]
    assert not table["parsed"].any() and not table["score"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": {}}, "must map keys to types"),
        ({"schema": {"title": "text"}}, "type of the schema's key 'title' 'text'"),
        ({"schema": {"title": str}}, "key 'title' must be one of"),
        ({"schema": {"title": []}}, "key 'title' must be one of"),
        ({"schema": {"title": ["string", "number"]}}, "key 'title' must be one of"),
        ({"schema": {"a": {"b": "strng"}}}, "Did you mean 'string'"),
        ({"lengths": -1}, "length must be"),
        ({"lengths": 3}, "does not hold a sentence"),
        ({"lengths": []}, "a length at least"),
        ({"n": 0}, "n must be"),
        ({"text": "book"}, "Unknown text 'book'"),
        ({"text": "notes", "n": 29}, "There are 28 questions"),
        ({"sentence": ""}, "sentence must say"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
    ],
)
def test_what_it_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        json_schema(**arguments)


@pytest.mark.parametrize("schema", [["title"], "title", None, {1: "string"}, {"": "string"}])
def test_what_is_no_schema(schema: Any) -> None:
    with pytest.raises(ms.MechsteerError, match=r"must map keys to types|keys must be texts"):
        check_schema(schema)


def test_the_order_of_keys_which_the_prompt_has_is_in_the_hash() -> None:
    first, second = ({"a": "string", "b": "string"}, {"b": "string", "a": "string"})
    one, other, again = (json_schema(schema=schema, n=1, lengths=0).data_hash for schema in (first, second, first))
    assert one == again != other
