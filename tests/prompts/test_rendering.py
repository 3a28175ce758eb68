"""Templates that fail, do not end or make too much are refused in one line; others are what transformers makes."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import mechsteer as ms
from mechsteer.prompts import rendering
from mechsteer.prompts.rendering import apply_template
from tests.tiny import CHAT, tokenizer

TURNS = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def made() -> Callable[[str], Any]:
    base = tokenizer(seq2seq=False, chat=True)

    def with_template(template: str) -> PreTrainedTokenizerFast:
        base.chat_template = template
        return base

    return with_template


TOO_MUCH = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "calls": "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b|abs %}{% endfor %}{% endfor %}",
    "text": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "a doubled text": "{% set n = namespace(s='ab') %}{% for i in range(64) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "a joined text": "{% set n = namespace(s='ab') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a product": "{{ 'x' * 10 ** 10 }}",
    "a list": "{{ ([0] * 10 ** 10) | length }}",
    "a power": "{{ 10 ** 10 ** 9 }}",
    "squares": "{% set n = namespace(s=3) %}{% for i in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}",
    "a width": "{{ 'x'.ljust(10000000000) }}",
    "a filter's width": "{{ 'x' | center(10000000000) }}",
    "a format": "{{ '%09999999999d' % 1 }}",
    "a filter's format": "{{ '%09999999999d' | format(1) }}",
    "another format": "{{ '{:09999999999d}'.format(1) }}",
    "words": "{{ lipsum(n=100000000) }}",
    "depth": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "depth of expressions": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_does_not_end_is_stopped(name: str, made: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.1)
    began = time.process_time()
    with pytest.raises(ms.MechsteerError) as caught:
        ms.prompt(SimpleNamespace(tokenizer=made(TOO_MUCH[name])), TURNS)
    assert time.process_time() - began < 2
    assert (
        str(caught.value).startswith("This chat template refuses user messages: ") and str(caught.value).isprintable()
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 2.0 ** 10000 }}", "OverflowError|too large|out of range"),
        ("{{ 1 < 'a' }}", "not supported between"),
        ("{{ raise_exception('first\nsecond') }}", "first second"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_fails_says_why_in_one_line(template: str, reason: str, made: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=reason) as caught:
        ms.prompt(SimpleNamespace(tokenizer=made(template)), TURNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        CHAT,
        "{% for m in messages %}{{ loop.index0 % 2 }}{{ '-' * 3 + m.content }}{{ '%s!' % m.role }}{% endfor %}",
        "{% set n = namespace(x=2 ** 10) %}{{ n.x * 3 }}{{ messages | tojson(indent=2) }}{{ 'a' | center(9) }}",
    ],
)
def test_others_are_what_transformers_makes_of_them(template: str, made: Callable) -> None:
    turns = [*TURNS, {"role": "assistant", "content": "sat"}, *TURNS]
    found = apply_template(made(template), turns, add_generation_prompt=True)
    assert found == made(template + " ").apply_chat_template(turns, tokenize=False, add_generation_prompt=True)[:-1]


def test_long_conversations_are_within_the_limits(made: Callable) -> None:
    turns = [{"role": "user", "content": "the cat sat on the mat " * 20}] * 300
    assert len(apply_template(made(CHAT), turns, add_generation_prompt=True)) > 100_000
