"""Putting hooks on a model for a while.

The library's own ``model.hooks`` visits every hook point of the model when it ends, which for a small model costs as
much as a forward pass; this one visits those that it used. The two can be nested in each other.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def hooked(model: Any, hooks: Sequence[tuple[str, Callable[..., Any]]], *, first: bool = False) -> Iterator[None]:
    """Add forward hooks, in order, and remove them at the end, also after an error.

    Args:
        model: A loaded model.
        hooks: Full names of hook points and hook functions ``fn(activation, hook)``.
        first: Before the hooks that are on the model already (each of these before the last), not after them.
    """
    model.context_level += 1
    level = model.context_level
    points = {name: model.hook_dict[name] for name, _ in hooks}
    try:
        for name, function in hooks:
            points[name].add_hook(function, level=level, prepend=first)
        yield
    finally:
        for point in points.values():
            point.remove_hooks("fwd", level=level)
        model.context_level -= 1
