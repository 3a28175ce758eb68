"""Which check a task has, as JSON values that are the same in every process: for the hash of its data.

A function counts by its name, its compiled code and the plain values that it holds (defaults, closure, arguments of a
partial, attributes of an object) or names (a limit above it in a notebook, a function of one's own). Of what is not
plain, such as another model that judges, its type alone counts.
"""

import dis
import re
from collections.abc import Mapping, Set
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from mechsteer.identity import compiled

DEPTH = 4
"""So many containers in each other are looked into."""


def identity_of(check: Any) -> Any:
    """What a check is, and the name and version that it may give itself."""
    stated = [getattr(check, attribute, None) for attribute in ("name", "version")]
    found = _what(check)
    return [found, stated] if all(isinstance(text, str) and text for text in stated) else found


def _what(check: Any) -> Any:
    if isinstance(check, partial):
        return ["partial", identity_of(check.func), plain(check.args), plain(check.keywords)]
    if isinstance(check, MethodType):
        return [_code(check.__func__), identity_of(check.__self__), *_named(check.__func__)]
    if isinstance(check, FunctionType):
        cells = [cell.cell_contents for cell in check.__closure__ or ()]
        return [_code(check), plain([check.__defaults__, check.__kwdefaults__, cells]), *_named(check)]
    call = type(check).__call__
    return [type(check).__qualname__, _code(call), plain(getattr(check, "__dict__", None)), *_named(call)]


def identity_of_task(task: Any) -> Any:
    """What a task of a class of one's own is: the code of the class's functions, and the task's plain attributes."""
    kind = type(task)
    functions = {name: getattr(kind, name) for name in dir(kind) if isinstance(getattr(kind, name), FunctionType)}
    code = [[name, _code(function), *_named(function)] for name, function in sorted(functions.items())]
    return [kind.__qualname__, code, plain(getattr(task, "__dict__", None))]


_PLAIN = (bool, int, float, str, tuple, frozenset, re.Pattern)
_CONTAINERS = (list, dict, set)
_CHANGES = frozenset("append add extend insert update setdefault pop popitem clear remove discard".split())


def _named(function: Any) -> list[Any]:
    """The plain global values that a function's code names, and functions of its own module; nothing if there are none.

    Not what it writes to, such as a count or a list of what it has seen.
    """
    found: dict[str, Any] = {}
    waiting = [function]
    while waiting:
        one = waiting.pop()
        read, written = _names(getattr(one, "__code__", None))
        plain_ones = _PLAIN if read & _CHANGES else (*_PLAIN, *_CONTAINERS)
        for name in (read - written - found.keys()) & getattr(one, "__globals__", {}).keys():
            value = None if name.startswith("__") else one.__globals__[name]
            own = isinstance(value, FunctionType) and value.__module__ == function.__module__
            if own or isinstance(value, plain_ones):
                found[name] = value
                waiting += [value] if own else []
    return [plain(found)] if found else []


def _names(code: Any) -> tuple[set[str], set[str]]:
    """The names that compiled code reads, and those of globals that it writes; of the code inside of it too."""
    if not isinstance(code, CodeType):
        return set(), set()
    read = set(code.co_names)
    written = {str(one.argval) for one in dis.get_instructions(code) if one.opname == "STORE_GLOBAL"}
    for constant in code.co_consts:
        more_read, more_written = _names(constant)
        read, written = read | more_read, written | more_written
    return read, written


def plain(value: Any, depth: int = DEPTH) -> Any:
    """A value as JSON values; of what has none, its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, FunctionType):
        return _code(value)
    if depth and isinstance(value, Mapping):
        return ["mapping", sorted(([str(name), plain(item, depth - 1)] for name, item in value.items()), key=repr)]
    if depth and isinstance(value, list | tuple | Set):
        items = [plain(item, depth - 1) for item in value]
        return sorted(items, key=repr) if isinstance(value, Set) else items
    pattern = getattr(value, "pattern", None)  # a compiled regular expression
    return [type(value).__qualname__, *([pattern, value.flags] if isinstance(pattern, str) else [])]


def _code(function: Any) -> Any:
    code = getattr(function, "__code__", None)
    return [getattr(function, "__qualname__", ""), compiled(code) if isinstance(code, CodeType) else None]
