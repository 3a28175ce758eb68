"""The type checker of the test runs: beartype, with an int allowed where a float is annotated, as PEP 484 says.

Checking took half the suite's time, nearly all of it for calls like earlier ones. So a function's calls of the same
kinds are checked once. A value's kind holds all that its check can depend on: of an array the class, dtype and shape;
of another object the class; of a container the class and the kind of its items, which must be all of one kind, since
beartype looks at one of them, by chance. A call with a value that has no such kind is checked each time.
"""

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import config

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped
_ARRAYS = (torch.Tensor, torch.nn.Parameter, np.ndarray)
_SEES_VALUES = ("Literal[", "Annotated[", "{")
_LONG = 64
_has_items: dict[type, bool] = {str: False, bytes: False}


@contextmanager
def unchecked() -> Iterator[None]:
    """For whole studies: nothing is checked, which saves time; their parts are checked."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


class _NoKindError(Exception):
    """Only a check can say whether this value passes."""


def _holds_items(cls: type) -> bool:
    """Whether a check may see more of an object than its class."""
    if cls not in _has_items:
        _has_items[cls] = issubclass(cls, Collection | type)
    return _has_items[cls]


def _kind(value: Any, mixed: bool) -> Any:
    """What a check of the value can depend on; mixed: a tuple's items are checked one by one, not by chance."""
    cls = type(value)
    if cls in _ARRAYS:
        return cls, value.dtype, tuple(value.shape)
    if not _holds_items(cls):
        return cls
    if issubclass(cls, type):
        return value
    if mixed and issubclass(cls, tuple) and len(value) <= _LONG:
        return cls, *(_kind(item, mixed) for item in value)
    if issubclass(cls, list | tuple | set | frozenset | range):
        return cls, len(value) if issubclass(cls, tuple) else bool(value), _one_kind(value, mixed)
    if cls is dict:
        return cls, _one_kind(value, mixed), _one_kind(value.values(), mixed)
    raise _NoKindError


def _one_kind(items: Any, mixed: bool) -> Any:
    if len(items) > _LONG or len(kinds := {_kind(item, mixed) for item in items}) > 1:
        raise _NoKindError
    return next(iter(kinds), None)


def _result_check(fn: Any, typechecker: Any) -> Callable[..., None]:
    """The check of a result with the arguments of its call, without the call."""
    box: list[Any] = []

    def echo(*args: Any, **kwargs: Any) -> Any:
        return box.pop()

    echo = types.FunctionType(
        echo.__code__, fn.__globals__, fn.__name__, None, echo.__closure__
    )  # names as fn sees them
    checked = _jaxtyped(functools.update_wrapper(echo, fn), typechecker=typechecker)

    def check(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        box[:] = [result]
        checked(*args, **kwargs)

    return check


def once_a_kind(fn: Any, *, typechecker: Any) -> Any:
    """``jaxtyping.jaxtyped``, but calls of the same kinds are checked once."""
    if inspect.isclass(fn):
        if "__dataclass_fields__" in vars(fn) and not hasattr(fn.__init__, "__wrapped__"):
            fn.__init__ = once_a_kind(fn.__init__, typechecker=typechecker)
        return fn
    always = _jaxtyped(fn, typechecker=typechecker)
    annotations = repr(list(fn.__annotations__.values()))
    if any(word in annotations for word in _SEES_VALUES):
        return always
    check_result = _result_check(fn, typechecker)
    mixed = ", ...]" not in annotations
    first = next(iter(inspect.signature(fn).parameters), "")
    skip = int(first in ("self", "cls") and first not in fn.__annotations__)
    passed: dict[Any, set[Any]] = {}

    def kind_or_none(value: Any) -> Any:
        try:
            return _kind(value, mixed)
        except _NoKindError:
            return None

    def kinds_or_none(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return (
                *(_kind(value, mixed) for value in args[skip:]),
                *((name, _kind(value, mixed)) for name, value in kwargs.items()),
            )
        except _NoKindError:
            return None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if config.jaxtyping_disable:
            return fn(*args, **kwargs)
        given = kinds_or_none(args, kwargs)
        if given not in passed:
            result = always(*args, **kwargs)
            if given is not None:
                passed[given] = {kind_or_none(result)} - {None}
            return result
        result = fn(*args, **kwargs)
        kind = kind_or_none(result)
        if kind not in passed[given]:
            check_result(result, args, kwargs)
            passed[given] |= {kind} - {None}
        return result

    return call


def _decorator(*, typechecker: Any) -> Callable[[Any], Any]:
    return functools.partial(once_a_kind, typechecker=typechecker)


jaxtyping.jaxtyped = _decorator  # what the import hook writes above every function
