"""Chat templates are programs that a checkpoint's author wrote: they are run within limits.

transformers renders them in Jinja's sandbox, which keeps them from files, modules and the insides of objects. It does
not keep them from running for days or from filling the memory. So here the time, the text and the numbers that a
template makes are watched while it runs: line by line in the template, and at every call that it makes. An operator
that would make something very large in one step is refused before it does (``'x' * 10 ** 10``).
"""

import operator
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mechsteer.errors import MechsteerError, one_line, shown

SECONDS = 3.0
"""The most processor time of one rendering. That of a conversation of thousands of turns takes less than one."""

CHARACTERS = 4_000_000
"""The longest text that a template may make; no context holds as much."""

NUMBER = 1_000_000
"""The largest number that it may pass to a function, as a width or a count."""

_BITS = 256  # of a number that it computes
_EVENTS = 64  # how often the clock is read
_TEMPLATE = "<template>"  # what Jinja calls the code of a template that comes from a text
_FORMATTING = ("do_format", "format_field", "call_binop")
_WIDTH = re.compile(r"\d{7,}")


class _TooMuchError(BaseException):
    """A limit is reached. No ``Exception``: Jinja catches those where it computes constants, and goes on unwatched."""


def apply_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """What ``apply_chat_template`` makes of messages, as a text.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The messages.
        options: For ``apply_chat_template``.

    Raises:
        MechsteerError: for a template that fails in whatever way, makes no text, or reaches a limit; the reason alone,
            for the message of the caller.
    """
    try:
        with _bounded_operators(), _watched():
            made = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except (Exception, _TooMuchError) as error:  # a template is a program, and may fail in any way
        reason = one_line(str(error)) or type(error).__name__
        raise MechsteerError(shown(reason, 200)[1:-1]) from error
    if not isinstance(made, str):
        raise MechsteerError(f"it makes no text, got {shown(made)}")
    return made


@contextmanager
def _watched() -> Iterator[None]:
    """Watch what is called and made in the block, in this thread."""
    before = sys.gettrace()
    sys.settrace(_Watch())
    try:
        yield
    finally:
        sys.settrace(before)


class _Watch:
    """A trace function, see :func:`sys.settrace`: of the template's own code it sees every line."""

    def __init__(self) -> None:
        self.end = time.thread_time() + SECONDS
        self.events, self.characters = 0, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Something is called."""
        own = frame.f_code.co_filename == _TEMPLATE
        frame.f_trace_lines = own
        if not own and ("jinja2" in frame.f_code.co_filename or frame.f_code.co_name in _FORMATTING):
            _check_arguments(frame)
        return self.inside(frame, event, argument)

    def inside(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A line, or what a function gives back (a template gives back its text piece by piece)."""
        self.events += 1
        if self.events % _EVENTS == 0 and time.thread_time() > self.end:
            raise _TooMuchError(f"it runs longer than {SECONDS:g} s")
        if event == "return" and isinstance(argument, str):
            self.characters += len(argument) if frame.f_code.co_filename == _TEMPLATE else 0
            if max(self.characters, len(argument)) > CHARACTERS:
                raise _TooMuchError(f"it makes more than {CHARACTERS:,} characters")
        return self.inside


def _check_arguments(frame: FrameType) -> None:
    """Refuse widths and counts that make something very large."""
    formats = frame.f_code.co_name in _FORMATTING
    for value in frame.f_locals.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and abs(one) > NUMBER and not formats:
                raise _TooMuchError(f"it asks for {shown(one)} of something")
            if formats and isinstance(one, str) and len(one) < NUMBER and _WIDTH.search(one):
                raise _TooMuchError(f"it formats with the width in {shown(one)}")


def _product(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int) and isinstance(other, str | list | tuple) and one * len(other) > CHARACTERS:
            raise _TooMuchError(f"it repeats something {shown(one)} times")
    _check_bits(left, right, sum)
    return left * right


def _power(left: Any, right: Any) -> Any:
    _check_bits(left, right, lambda bits: bits[0] * abs(right))
    return left**right


def _check_bits(left: Any, right: Any, bits_of: Callable[[list[int]], int]) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if bits_of([abs(left).bit_length(), abs(right).bit_length()]) > _BITS:
            raise _TooMuchError("it computes with numbers of hundreds of digits")


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "*": _product,
    "**": _power,
    "%": operator.mod,
    "+": operator.add,
}
"""What is watched: as a call for the last two, whose result is at most as large as what there is."""


@contextmanager
def _bounded_operators() -> Iterator[None]:
    """Templates that are compiled in the block use :data:`_OPERATORS`."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    table = Sandbox.default_binop_table | _OPERATORS
    before = Sandbox.intercepted_binops, Sandbox.default_binop_table
    Sandbox.intercepted_binops, Sandbox.default_binop_table = frozenset(_OPERATORS), table
    try:
        yield
    finally:
        Sandbox.intercepted_binops, Sandbox.default_binop_table = before
