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
from mechsteer.prompts.steps import CHARACTERS, extent
from tests.tiny import CHAT, tokenizer

TURNS = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def made() -> Callable[[str], Any]:
    base = tokenizer(seq2seq=False, chat=True)

    def with_template(template: str) -> PreTrainedTokenizerFast:
        base.chat_template = template
        return base

    return with_template


def _doubled(of: str, use: str) -> str:
    """Two values, each of which holds the one before it twice, sixty times over; and what is done with them."""
    again = "".join(f"{{% set n.{name} = {of.replace('n.a', f'n.{name}')} %}}" for name in "ab")
    return f"{{% set n = namespace(a=[0], b=[0]) %}}{{% for i in range(60) %}}{again}{{% endfor %}}{use}"


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
    "a replacement": "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
    "a filter's replacement": "{{ ('x' * 1000000) | replace('', 'y' * 1000000) }}",
    "replacements": "{% set n = namespace(s='xx') %}{% for i in range(99) %}"
    "{% set n.s = n.s | replace('x', 'xxxx') %}{% endfor %}",
    "a separator": "{{ ('y' * 1000000).join(['x'] * 100000) }}",
    "a filter's separator": "{{ ['x'] * 100000 | join('y' * 1000000) }}{{ (['x'] * 100000) | join('y' * 1000000) }}",
    "parts": "{{ (['y' * 1000000] * 1000000) | join }}",
    "tabs": "{{ ('\t' * 1000000).expandtabs(900000) }}",
    "a translation": "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
    "lines": "{{ ('x\n' * 1000000) | indent(900000) }}",
    "lines by a text": "{{ ('x\n' * 1000000) | indent('y' * 1000000) }}",
    "wrapped lines": "{{ ('x ' * 1000000) | wordwrap(1, wrapstring='y' * 1000000) }}",
    "an indented list": "{{ ([0] * 1000000) | tojson(indent=900000) }}",
    "a list in lists": "{% set n = namespace(l=[0]) %}{% for i in range(99) %}"
    "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | tojson }}",
    "a percent sign": "{{ ('%(a)s' * 500000) % {'a': 'x' * 1000000} }}",
    "a filter's percent sign": "{{ ('%s' * 500000) | format('x' * 1000000) }}",
    "fields": "{{ ('{0}' * 500000).format('x' * 1000000) }}",
    "sums of lists": "{{ ([[0] * 1000] * 100000) | sum(start=[]) | length }}",
    "a doubled list": "{% set n = namespace(l=[0]) %}{% for i in range(64) %}{% set n.l = n.l + n.l %}{% endfor %}",
    "kept texts": "{% set n = namespace(l=[]) %}{% for i in range(9999) %}"
    "{% set n.l = n.l + ['x' * 3000000] %}{% endfor %}",
    "a list as a text": _doubled("[n.a, n.a]", "{{ n.a }}"),
    "a dict as a text": _doubled("{'a': n.a, 'b': n.a}", "{{ n.a }}"),
    "a tuple as a key": _doubled("(n.a, n.a)", "{{ {n.a: 1} }}"),
    "a comparison": _doubled("[n.a, n.a]", "{{ n.a == n.b }}"),
    "a list of batches": _doubled("(n.a * 2) | batch(2) | list", "{{ n.a == n.b }}"),
    "a dict by its name": _doubled("dict(a=n.a, b=n.a)", "{{ n.a }}"),
    "depth of expressions": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_does_not_end_is_stopped(
    name: str, made: Callable, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.1)
    began = time.process_time()
    with pytest.raises(ms.MechsteerError) as caught:
        ms.prompt(SimpleNamespace(tokenizer=made(TOO_MUCH[name])), TURNS)
    assert time.process_time() - began < 2
    assert (
        str(caught.value).startswith("This chat template refuses user messages: ") and str(caught.value).isprintable()
    )


NO_RULE = "".join(f"{{% set text{i} = 'x' * 999999 %}}" for i in range(600))


@pytest.mark.skipif(rendering._memory() is None, reason="Linux")
def test_what_no_rule_foresees_ends_with_the_memory(
    made: Callable, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    import resource

    monkeypatch.setattr(rendering, "MEMORY", 100_000_000)
    before, began = resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    with pytest.raises(ms.MechsteerError, match="bytes of memory"):
        ms.prompt(SimpleNamespace(tokenizer=made(NO_RULE)), TURNS)
    assert resource.getrlimit(resource.RLIMIT_AS) == before and time.process_time() - began < 5


def test_what_a_value_has_as_a_text(unchecked: None) -> None:
    shared: list[Any] = ["ab"] * 3
    assert extent(["ab", {"c": 1}]) == 4 + 2 + 2 + 1 + 8
    assert extent([shared, shared]) == 4 + 2 * extent(shared) and extent(7) == 8
    shared.append(shared)
    assert extent(shared) > CHARACTERS


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
        "{{ messages[0].content | replace('c', 'xyz') | indent(2) | wordwrap(3) }}{{ 'a,b'.replace(',', '-' * 9) }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ [1, 2] | sum }}{{ '-'.join('abc') }}",
        "{{ 'a\tb'.expandtabs(4) }}{{ '%s-%s' % (1, 2) }}{{ {'a': [1]} | tojson(indent=2) }}",
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
