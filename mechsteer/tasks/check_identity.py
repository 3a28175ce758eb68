"""Which check a task has, as JSON values that are the same in every process: for the hash of its data.

A function counts by its name, its compiled code and the plain values that it holds (defaults, closure, arguments of a
partial, attributes of an object). Of what is not plain, such as another model that judges, its type alone counts.
"""

from collections.abc import Mapping, Set
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from mechsteer.identity import compiled

DEPTH = 4
"""So many containers in each other are looked into."""


def identity_of(check: Any) -> Any:
    """What a check is."""
    if isinstance(check, partial):
        return ["partial", identity_of(check.func), plain(check.args), plain(check.keywords)]
    if isinstance(check, MethodType):
        return [_code(check.__func__), identity_of(check.__self__)]
    if isinstance(check, FunctionType):
        cells = [cell.cell_contents for cell in check.__closure__ or ()]
        return [_code(check), plain([check.__defaults__, check.__kwdefaults__, cells])]
    return [type(check).__qualname__, _code(type(check).__call__), plain(getattr(check, "__dict__", None))]


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
