"""The command that is running, for the records of what it makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_running: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def running(command: str) -> Iterator[None]:
    """Inside, :func:`command` gives this one."""
    token = _running.set(command)
    try:
        yield
    finally:
        _running.reset(token)


def command() -> str:
    """What was typed in the terminal; empty where Python was asked."""
    return _running.get()
