"""Bad files from good ones: what a disk, a careless editor or an attacker makes of them. Every one from a seed."""

import json
import random
from collections.abc import Callable
from typing import Any

Change = Callable[[random.Random, bytes], bytes]

DIGITS = "9" * 5000
ODD: tuple[str, ...] = (
    "null", "true", "false", "0", "-1", "1", "3", "1e999", "NaN", "-Infinity", "0.5", "1000000000", "9" * 30, DIGITS,
    '""', '"x"', '"\\u0000"', '"\\ud800"', '"../../etc/passwd"', '"' + "a" * 3000 + '"', '"\u202e\ufffd"', "[]", "{}",
    "[null]", "[0]",
    "[[1]]", "[true]", "[-5]", '["a"]', '["a", 1]', '{"a": {}}', "[[[[[]]]]]", "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
)  # fmt: skip
"""JSON texts of values that do not belong where they are put."""

TOKENS: tuple[bytes, ...] = (
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\r",
    b"\r\n", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0c", b"\x1a",
    b'"', b"'", b"{", b"}}", b"[" * 2000, b",", b"=", b"%}", b"{{",
    b"-1", DIGITS.encode(), b"nan", b"\\", b"\\u0000", b"\xef\xbb\xbf", b"\x1b[31m", b"#", b":", b"__class__",
)  # fmt: skip


def flip(rng: random.Random, content: bytes) -> bytes:
    """Some bits are others."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 4, 32))):
        made[_place(rng, len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def cut(rng: random.Random, content: bytes) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def splice(rng: random.Random, content: bytes) -> bytes:
    """A stretch is missing, or there twice, or elsewhere."""
    start = _place(rng, len(content))
    end = min(len(content), start + rng.choice((1, 2, 8, 64, 512)))
    to = _place(rng, len(content))
    piece = content[start:end]
    without = content[:start] + content[end:]
    return rng.choice((without, content[:to] + piece + content[to:], without[:to] + piece + without[to:]))


def insert(rng: random.Random, content: bytes) -> bytes:
    """Something that does not belong there."""
    place = _place(rng, len(content))
    token = rng.choice(TOKENS)
    return content[:place] + token + content[place + rng.choice((0, 0, len(token))) :]


def _place(rng: random.Random, length: int) -> int:
    """Anywhere, and often near the start, where the headers are."""
    return rng.randrange(length if rng.random() < 0.5 else min(length, 400))


BYTES: tuple[Change, ...] = (flip, cut, splice, insert)


def json_value(rng: random.Random, content: bytes) -> bytes:
    """One value of a JSON text is another one, is missing, or has another name."""
    value = json.loads(content)
    places = list(_places(value))
    if not places:
        return rng.choice(ODD).encode()
    holder, key = rng.choice(places)
    mark = "mechsteer-fuzz-mark"
    if isinstance(holder, dict) and rng.random() < 0.25:
        found = holder.pop(key)
        if rng.random() < 0.5:
            holder[rng.choice((key + "x", "", "\u0000", "__class__", key.upper()))] = found
        return _dumped(value).encode()
    if rng.random() < 0.1:
        holder[key] = rng.choice(places)[0]
        try:
            return _dumped(value).encode()
        except ValueError:  # it holds itself
            pass
    holder[key] = mark
    return _dumped(value).replace(f'"{mark}"', rng.choice(ODD), 1).encode("utf-8", "surrogatepass")


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _places(value: Any) -> Any:
    """Every (container, key) in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def json_top(rng: random.Random, content: bytes) -> bytes:
    """One value at the top of a JSON object: large files (a vocabulary) have most of theirs below."""
    value = json.loads(content)
    if not isinstance(value, dict):
        return json_value(rng, content)
    key = rng.choice(list(value))
    value[key] = "mechsteer-fuzz-mark"
    return _dumped(value).replace('"mechsteer-fuzz-mark"', rng.choice(ODD), 1).encode("utf-8", "surrogatepass")


MORE = """
added_tokens_decoder architectures attn_implementation auto_map bad_words_ids base begin_suppress_tokens check context
dtype extra_special_tokens exponential_decay_length_penalty features forced_bos_token_id forced_eos_token_id head_dim
hidden_act instruction is_encoder_decoder kind layer_types max_length min_length model_max_length no_repeat_ngram_size
padding_side partial_rotary_factor pruned_heads quantization_config remove_invalid_values repetition_penalty
rope_parameters rope_scaling sequence_bias sliding_window stop_strings suppress_tokens tables task_specific_params
text_config tie_word_embeddings tokenizer_class torch_dtype vision_config watermarking_config
""".split()
"""Names that some files of these kinds have."""


def json_more(rng: random.Random, content: bytes) -> bytes:
    """A JSON object has one name more, or one of its own twice."""
    value = json.loads(content)
    if not isinstance(value, dict):
        return json_value(rng, content)
    name = rng.choice(MORE) if rng.random() < 0.8 or not value else rng.choice(list(value))
    return f"{{{json.dumps(name)}: {rng.choice(ODD)}, {_dumped(value)[1:]}".encode("utf-8", "surrogatepass")


JSON: tuple[Change, ...] = (json_value, json_value, json_top, json_more, *BYTES)


def header_of_safetensors(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file whose header is another JSON text, with a length that fits."""
    length = int.from_bytes(content[:8], "little")
    header = rng.choice((json_value, json_top, *BYTES))(rng, content[8 : 8 + length])
    size = rng.choice((len(header), len(header), len(header), 0, 1, 2**63, 2**64 - 1, length))
    return size.to_bytes(8, "little") + header + content[8 + length :]


SAFETENSORS: tuple[Change, ...] = (header_of_safetensors, header_of_safetensors, *BYTES)


def json_line(rng: random.Random, content: bytes) -> bytes:
    """One line of a JSONL file has another value."""
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = json_value(rng, lines[place])
    return b"\n".join(lines)


def text_value(rng: random.Random, content: bytes) -> bytes:
    """A word or number of a text is an odd value."""
    text = content.decode()
    words = [place for place, character in enumerate(text) if not character.isspace()]
    start = rng.choice(words)
    end = start + rng.choice((1, 1, 3, 8))
    return (text[:start] + rng.choice(ODD) + text[end:]).encode("utf-8", "surrogatepass")


LINES: tuple[Change, ...] = (json_line, json_line, *BYTES)
TEXT: tuple[Change, ...] = (text_value, *BYTES)

EXPRESSIONS = (
    "1 / 0", "2 ** 10000", "10 ** 10 ** 9", "'x' * 10 ** 10", "[0] * 10 ** 10", "messages[99].content", "x.y.z",
    "''.__class__.__mro__", "range(10 ** 9)", "'%0999999999d' % 1", "'x'.ljust(10 ** 10)", "f(f)", "1 < 'a'",
    "raise_exception('no\\nmore')", "strftime_now('%Q')", "'a' | tojson(indent=10 ** 9)", "lipsum(n=10 ** 7)", "-",
    "('x' * 999999).replace('x', 'y' * 999999)", "'xx' | replace('', 'y' * 4000000)",
    "(['x'] * 9999) | join('y' * 9999)",
    "([0] * 99999) | tojson(indent=999999)", "('x\\n' * 99999) | indent(999999)",
    "([[0]] * 99999) | sum(start=[])",
    "'{:0999999999d}'.format(1)", "(" * 300 + "1" + ")" * 300, "messages | map('upper') | list", "0 | round(10 ** 9)",
)  # fmt: skip
STATEMENTS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(64) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s=3) %}{% for i in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% if true %}" * 200 + "{% endif %}" * 200, "{% break %}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% generation %}", "{% filter upper %}",
    "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}", "{% set x %}{% endset %}", "{% raw %}",
    "{% import 'os' as os %}",
    "{% set n = namespace(l=[0]) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + ['x' * 3000000] %}{% endfor %}",
    "{% set n = namespace(l={}) %}{% for i in range(99) %}{% set n.l = {'a': n.l, 'b': n.l} %}{% endfor %}{{ n.l }}",
    "{% set n = namespace(l=()) %}{% for i in range(99) %}{% set n.l = (n.l, n.l) %}{% endfor %}{{ {n.l: 1} }}",
    "{% set n = namespace(a=[0], b=[0]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}"
    "{% endfor %}{{ n.a == n.b }}",
)  # fmt: skip


def template(rng: random.Random, content: bytes) -> bytes:
    """A template with something in it that fails, or does not end."""
    text = content.decode()
    cuts = [place for place in range(len(text)) if text.startswith(("{%", "{{"), place)] or [0]
    place = rng.choice(cuts)
    new = f"{{{{ {rng.choice(EXPRESSIONS)} }}}}" if rng.random() < 0.6 else rng.choice(STATEMENTS)
    return (text[:place] + new + text[place:]).encode()


TEMPLATE: tuple[Change, ...] = (template, template, *BYTES)


def mutated(changes: tuple[Change, ...], seed: object, content: bytes) -> bytes:
    """One bad file, always the same of a seed."""
    rng = random.Random(repr(seed))
    return rng.choice(changes)(rng, content)
