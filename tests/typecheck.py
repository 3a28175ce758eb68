"""The type checker of the test runs: beartype, with an int allowed where a float is annotated, as PEP 484 says.

Checking took half the suite's time, nearly all of it for calls like earlier ones. So a function's calls of the same
kinds are checked once. A value's kind holds all that its check can depend on: of an array the class, dtype and which
sizes are equal (a generation has new sizes at every token, and names of sizes are all that most annotations have); of
another object the class; of a container the class and the kind of its items, which must be all of one kind, since
beartype looks at one of them, by chance. A call with a value that has no such kind is checked each time. Taking kinds
takes time as well, so a call is first looked up as it is, with all sizes: most calls are like one before to the letter.
Where an annotation lists values (Literal), they belong to the kinds of texts and whole numbers.

That still was a seventh of the time, for functions that are called thousands of times by one file of tests, once a
layer and token. So of a function's calls in a file, after the first ones, one of a few is looked at.
"""

import functools
import inspect
import operator
import re
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import config

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped
_LONG = 64
FIRST, ONE_OF = 200, 7
"""So many calls of a function in a file of tests are looked at, then one of so many: not in step with the layers."""

_all: list["_Checks"] = []
_of_closures: dict[Any, "_Checks"] = {}
_sorts: dict[type, str] = {}


@contextmanager
def unchecked() -> Iterator[None]:
    """For whole studies: nothing is checked, which saves time; their parts are checked."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def begin_file() -> None:
    """Look at the next calls of every function again."""
    for checks in _all:
        checks.calls = 0


class _NoKindError(Exception):
    """Only a check can say whether this value passes."""


def _sort(cls: type) -> str:
    """What a check may look at; by name, since a worker of a sweep imports these tests and should not import torch."""
    if f"{cls.__module__}.{cls.__name__}" in ("torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray"):
        return "array"
    if issubclass(cls, type):
        return "class"
    return "items" if issubclass(cls, Collection) and not issubclass(cls, str | bytes) else "object"


def _fixed(annotations: str) -> frozenset[int] | None:
    """The sizes that annotations name by number, and 1, which broadcasts; None if a size is computed."""
    shapes = re.findall(r"""\[[\w.]+, *['"]([^'"]*)['"]""", annotations)
    if any(re.search(r"[-+/%(]|\w\*", shape) for shape in shapes):
        return None
    return frozenset({1, *(int(size) for shape in shapes for size in re.findall(r"\d+", shape))})


def _kind(value: Any, mixed: bool, fixed: frozenset[int] | None, sizes: dict[int, int]) -> Any:
    """What a check of the value can depend on.

    Args:
        value: An argument or a result.
        mixed: A tuple's items are checked one by one, not by chance.
        fixed: The sizes of arrays that stay what they are; None: all.
        sizes: Numbers of the others, in the order in which they came in this call.
    """
    cls = type(value)
    if (sort := _sorts.get(cls)) is None:
        sort = _sorts[cls] = _sort(cls)
    if sort == "object":
        return cls
    if sort == "array":
        if fixed is None:
            return _with_sizes(value)
        return cls, value.dtype, *[n if n in fixed else ~sizes.setdefault(n, len(sizes)) for n in value.shape]
    if sort == "class":
        return value
    if mixed and issubclass(cls, tuple) and len(value) <= _LONG:
        return cls, *[_kind(item, mixed, fixed, sizes) for item in value]
    if cls is range:
        return cls, bool(value)
    if issubclass(cls, list | tuple | set | frozenset):
        return cls, len(value) if issubclass(cls, tuple) else bool(value), _one_kind(value, mixed, fixed, sizes)
    if cls is dict:
        return cls, _one_kind(value, mixed, fixed, sizes), _one_kind(value.values(), mixed, fixed, sizes)
    raise _NoKindError


def _one_kind(items: Any, mixed: bool, fixed: frozenset[int] | None, sizes: dict[int, int]) -> Any:
    if len(classes := set(map(type, items))) == 1 and _sorts.get(cls := classes.pop()) == "object":
        return cls
    if len(items) > _LONG or len(kinds := {_kind(item, mixed, fixed, sizes) for item in items}) > 1:
        raise _NoKindError
    return next(iter(kinds), None)


def _no_kind(value: Any) -> Any:
    raise _NoKindError


_with_sizes = operator.attrgetter("__class__", "dtype", "shape")


class _Readers(dict[type, Callable[[Any], Any]]):
    """What gives a value's kind with all sizes, by its class; in C where that can be, for all calls wait for it.

    Args:
        mixed: A tuple's items are checked one by one, not by chance.
        values_listed: A check may depend on the values of texts and whole numbers.
    """

    def __init__(self, mixed: bool, values_listed: bool) -> None:
        self.mixed, self.values_listed = mixed, values_listed

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        self[cls] = read = self._reader(cls, _sort(cls))
        return read

    def _reader(self, cls: type, sort: str) -> Callable[[Any], Any]:
        if sort == "object":
            listed = self.values_listed and issubclass(cls, str | int | bytes | Enum)
            return (lambda value: (cls, value)) if listed else type
        if sort == "array":
            return _with_sizes
        if sort == "class":
            return lambda value: value
        if issubclass(cls, tuple):
            return self._tuple
        if cls is dict:
            return self._dict
        if cls is range:  # however long, its items are whole numbers
            return _no_kind if self.values_listed else lambda value: (range, bool(value))
        return self._items if issubclass(cls, list | set | frozenset) else _no_kind

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        if self.mixed and len(value) <= _LONG:
            return type(value), *[self[type(item)](item) for item in value]
        return type(value), len(value), self._one_kind(value)

    def _dict(self, value: dict[Any, Any]) -> Any:
        return dict, self._one_kind(value), self._one_kind(value.values())

    def _items(self, value: Any) -> Any:
        return type(value), bool(value), self._one_kind(value)

    def _one_kind(self, items: Any) -> Any:
        kinds = set(map(type, items))
        if len(kinds) == 1:
            (cls,) = kinds
            if (read := self[cls]) is type:
                return cls
            if len(items) <= _LONG and len(kinds := set(map(read, items))) == 1:
                return kinds.pop()
        if kinds:
            raise _NoKindError
        return None


class _Checks:
    """What is known of a function, or of all closures of one definition."""

    def __init__(self, fn: Any, typechecker: Any) -> None:
        self.fn, self.typechecker = fn, typechecker
        annotations = repr(list(fn.__annotations__.values()))
        self.by_value = "Literal[" in annotations
        self.each_time = any(word in annotations for word in ("Annotated[", "{"))
        self.mixed = ", ...]" not in annotations
        self.readers = _Readers(self.mixed, self.by_value)
        self.fixed = _fixed(annotations)
        first = next(iter(inspect.signature(fn).parameters), "")
        self.skip = int(first in ("self", "cls") and first not in fn.__annotations__)
        self.passed: dict[Any, set[Any]] = {}
        self.seen: dict[Any, set[Any]] = {}
        self.next: list[Callable[..., Any]] = []
        self.calls = 0
        _all.append(self)

    @functools.cached_property
    def checked(self) -> Callable[..., Any]:
        """The checks, around a call of what is the next function; made when first needed."""
        following = self.next

        def call(*args: Any, **kwargs: Any) -> Any:
            return following.pop()(*args, **kwargs)

        fn, code = self.fn, call.__code__
        call = types.FunctionType(code, fn.__globals__, fn.__name__, None, call.__closure__)  # finds names as fn does
        return _jaxtyped(functools.update_wrapper(call, fn), typechecker=self.typechecker)

    def around(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.next[:] = [fn]
        return self.checked(*args, **kwargs)

    def kinds(self, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: dict[int, int]) -> Any:
        """The kinds of a call's arguments; None if they have none."""
        if self.by_value:
            return None
        mixed, fixed = self.mixed, self.fixed
        try:
            given = [_kind(value, mixed, fixed, sizes) for value in (args[1:] if self.skip else args)]
            if kwargs:
                given += [(name, _kind(value, mixed, fixed, sizes)) for name, value in kwargs.items()]
            return tuple(given)
        except _NoKindError:
            return None

    def kind(self, result: Any, sizes: dict[int, int]) -> Any:
        try:
            return _kind(result, self.mixed, self.fixed, sizes)
        except _NoKindError:
            return None

    def remember(self, exact: Any, result: Any) -> None:
        """A call and its result have passed."""
        try:
            self.seen.setdefault(exact, set()).add(self.readers[type(result)](result))
        except _NoKindError:
            pass

    def first(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], exact: Any) -> Any:
        """A call with sizes that were not seen before; checked unless one of its kinds was."""
        sizes: dict[int, int] = {}
        if (given := self.kinds(args, kwargs, sizes)) is None:
            result = self.around(fn, args, kwargs)
            self.remember(exact, result)
            return result
        passed = self.passed.get(given)
        if passed is None:
            result = self.around(fn, args, kwargs)
            passed = self.passed[given] = set()
            kind = self.kind(result, sizes)
        else:
            result = fn(*args, **kwargs)
            kind = self.kind(result, sizes)
            if kind not in passed:
                self.around(lambda *args, **kwargs: result, args, kwargs)
        if kind is not None:
            passed.add(kind)
            self.remember(exact, result)
        return result


def once_a_kind(fn: Any, *, typechecker: Any) -> Any:
    """``jaxtyping.jaxtyped``, but calls of the same kinds are checked once."""
    if inspect.isclass(fn):
        if "__dataclass_fields__" in vars(fn) and not hasattr(fn.__init__, "__wrapped__"):
            fn.__init__ = once_a_kind(fn.__init__, typechecker=typechecker)
        return fn
    checks = _checks(fn, typechecker)
    readers, skip, seen = checks.readers, checks.skip, checks.seen

    @functools.wraps(fn)
    def each_time(*args: Any, **kwargs: Any) -> Any:
        checks.calls = calls = checks.calls + 1
        if (calls > FIRST and calls % ONE_OF) or config.jaxtyping_disable:
            return fn(*args, **kwargs)
        return checks.around(fn, args, kwargs)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        checks.calls = calls = checks.calls + 1
        if (calls > FIRST and calls % ONE_OF) or config.jaxtyping_disable:
            return fn(*args, **kwargs)
        try:
            exact = (*[readers[type(value)](value) for value in (args[1:] if skip else args)],)
            if kwargs:
                exact += (*kwargs, *[readers[type(value)](value) for value in kwargs.values()])
        except _NoKindError:
            return checks.around(fn, args, kwargs)
        results = seen.get(exact)
        if results is None:
            return checks.first(fn, args, kwargs, exact)
        result = fn(*args, **kwargs)
        try:
            if readers[type(result)](result) in results:
                return result
        except _NoKindError:
            pass
        return checks.first(lambda *args, **kwargs: result, args, kwargs, exact)

    return each_time if checks.each_time else call


def _checks(fn: Any, typechecker: Any) -> _Checks:
    """A function that is defined in another shares them with those that the same lines define at other times."""
    if "<locals>" not in fn.__qualname__:
        return _Checks(fn, typechecker)
    key = fn.__code__, tuple(fn.__annotations__.items()), typechecker
    if key not in _of_closures:
        _of_closures[key] = _Checks(fn, typechecker)
    return _of_closures[key]


def _decorator(*, typechecker: Any) -> Callable[[Any], Any]:
    return functools.partial(once_a_kind, typechecker=typechecker)


jaxtyping.jaxtyped = _decorator  # what the import hook writes above every function
