"""The single steps of a chat template that would make something very large are refused before they are made.

A step is a call of Jinja's, or an operator. What it will make is bounded from above by the sizes of its arguments: how
often ``replace`` puts how long a text, how many parts ``join`` joins. See :mod:`mechsteer.prompts.rendering`.
"""

import operator
import re
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from mechsteer.errors import shown

CHARACTERS = 4_000_000
"""The longest text that a template may make; no context holds as much."""

ALL_CHARACTERS = 1_000_000_000
"""The most characters in all that it makes on the way, whatever it keeps of them; elements of lists count eightfold."""

NUMBER = 1_000_000
"""The largest number that it may pass to a function, as a width or a count."""

_BITS = 256  # of a number that it computes
_FORMATTING = ("do_format", "format_field", "call_binop")
_CONTEXT = ("eval_ctx", "environment")
_WIDTH = re.compile(r"\d{7,}")


class TooMuchError(BaseException):
    """A limit is reached. No ``Exception``: Jinja catches those where it computes constants, and goes on unwatched."""


def check_call(frame: FrameType) -> None:
    """Refuse a call of a function of Jinja's, or of transformers' for templates, that would make something very large.

    Args:
        frame: The frame of the call, at its start.

    Raises:
        TooMuchError: saying what is too large.
    """
    name, inside = frame.f_code.co_name, "jinja2" in frame.f_code.co_filename
    if not (inside or name in _FORMATTING or name in _FILTERS):
        return
    given = frame.f_locals
    if inside or name in _FORMATTING:
        _check_arguments(given, formats=name in _FORMATTING)
    method = given.get("_SandboxedEnvironment__obj")
    text, called = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if isinstance(text, str) and called in _METHODS:
        _bounded(called, _METHODS[called], [text, *given["args"], *given["kwargs"].values()])
    elif name in _FILTERS:
        names = [one for one in frame.f_code.co_varnames[: frame.f_code.co_argcount] if one not in _CONTEXT]
        _bounded(name.rpartition("do_")[2], _FILTERS[name], [*(given[one] for one in names), *given.get("args", ())])


def _check_arguments(given: Mapping[str, Any], *, formats: bool) -> None:
    """Refuse widths and counts that make something very large."""
    for value in given.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and abs(one) > NUMBER and not formats:
                raise TooMuchError(f"it asks for {shown(one)} of something")
            if formats and isinstance(one, str) and len(one) < NUMBER and _WIDTH.search(one):
                raise TooMuchError(f"it formats with the width in {shown(one)}")


def extent(value: Any) -> int:
    """About how many characters a value has as a text, counted until they are too many.

    A list that is in it twice counts twice, and one that is in itself is too much.
    """
    total, left = 0, [value]
    while left and total <= CHARACTERS:
        one = left.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, Mapping | list | tuple | set | frozenset):
            total += 2 * len(one)
            left += [*one.keys(), *one.values()] if isinstance(one, Mapping) else one
        else:
            total += 8
    return total


def check_extent(value: Any) -> Any:
    """Return a list or a dict, unless it has too many characters as a text.

    Raises:
        TooMuchError: otherwise.
    """
    if extent(value) > CHARACTERS:
        raise TooMuchError(f"it makes more than {CHARACTERS:,} characters in a {type(value).__name__}")
    return value


def _width(value: Any) -> int:
    """Of an indentation: a number of blanks, or a text."""
    return abs(value) if isinstance(value, int) else extent(value) if isinstance(value, str) else 0


def _replaced(text: Any, old: Any = "", new: Any = "", *rest: Any) -> int:
    text, old = str(text), str(old)
    return len(text) + (text.count(old) if old else len(text) + 1) * extent(new)


def _joined(between: Any, parts: Any = (), *rest: Any) -> int:
    return extent(parts) + extent(between) * (len(parts) if hasattr(parts, "__len__") else 1)


def _tabs(text: str, size: Any = 8, *rest: Any) -> int:
    return len(text) + text.count("\t") * _width(size)


def _translated(text: str, table: Any = (), *rest: Any) -> int:
    values = table.values() if isinstance(table, Mapping) else table
    return len(text) * max([1, *map(extent, values)])


def _indented(text: Any, width: Any = 4, *rest: Any) -> int:
    return extent(text) + (str(text).count("\n") + 2) * _width(width)


def _wrapped(text: Any, width: Any = 79, breaks: Any = True, between: Any = None, *rest: Any) -> int:
    lines = 2 * extent(text) // max(1, _width(width)) + str(text).count("\n") + 1
    return extent(text) + lines * extent(between or "\n")


def _as_json(value: Any, *rest: Any) -> int:
    return extent(value) * (1 + max([_width(one) for one in rest if not isinstance(one, bool)], default=0))


def _summed(parts: Any, attribute: Any = None, start: Any = 0) -> int:
    return 0 if isinstance(start, int | float) else CHARACTERS + 1  # of lists, each sum is another copy


def _formatted(text: Any, *arguments: Any) -> int:
    return extent(text) + str(text).count("%") * max([0, *map(extent, arguments)])


_METHODS: dict[str, Callable[..., int]] = {
    "replace": _replaced,
    "join": _joined,
    "expandtabs": _tabs,
    "translate": _translated,
}
"""For methods of texts that can make much of little: the most characters that come of their arguments."""

_FILTERS: dict[str, Callable[..., int]] = {
    "do_replace": _replaced,
    "sync_do_join": lambda parts, between="", *rest: _joined(between, parts),
    "do_indent": _indented,
    "do_wordwrap": _wrapped,
    "do_tojson": _as_json,
    "tojson": _as_json,
    "do_format": _formatted,
    "sync_do_sum": _summed,
}
"""The same for the functions of filters."""


def _bounded(name: str, bound: Callable[..., int], arguments: list[Any]) -> None:
    if bound(*arguments) > CHARACTERS:
        raise TooMuchError(f"it makes more than {CHARACTERS:,} characters with {name}")


def _product(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int) and isinstance(other, str | list | tuple) and one * len(other) > CHARACTERS:
            raise TooMuchError(f"it repeats something {shown(one)} times")
    _check_bits(left, right, sum)
    return left * right


def _power(left: Any, right: Any) -> Any:
    _check_bits(left, right, lambda bits: bits[0] * abs(right))
    return left**right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str) and _formatted(left, right) > CHARACTERS:
        raise TooMuchError(f"it makes more than {CHARACTERS:,} characters with %")
    return left % right


def _check_bits(left: Any, right: Any, bits_of: Callable[[list[int]], int]) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if bits_of([abs(left).bit_length(), abs(right).bit_length()]) > _BITS:
            raise TooMuchError("it computes with numbers of hundreds of digits")


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "*": _product,
    "**": _power,
    "%": _modulo,
    "+": operator.add,
}
"""What is watched: as a call for the last, whose result is at most as large as what there is."""
