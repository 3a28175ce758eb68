"""Putting hooks on a model for a while, and keeping what passes them: what everything that reads activations stands on.

The library's own ``model.hooks`` visits every hook point of the model when it ends, which for a small model costs as
much as a forward pass; :func:`hooked` visits those that it used. The two can be nested in each other.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import not_finite

Hook = tuple[str, Callable[[Tensor, Any], Tensor | None]]
"""A full name, and what is called with what passes there."""


def hooks_on(model: Any) -> bool:
    """Whether there is a hook function on any of the model's hook points."""
    return any(point._forward_hooks for point in model.hook_dict.values())


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


def reading(sites: Iterable[str], take: Callable[[Tensor, str], None]) -> list[Hook]:
    """Hooks that hand over what passes some hook points, ``take(x, site)``, and change nothing."""

    def read(x: Tensor, hook: Any) -> None:
        take(x, hook.name)

    return [(site, read) for site in sites]


class Kept:
    """What passes some hook points, pass after pass.

    Args:
        sites: Full names.
        pick: What to keep of an activation: ``pick(x, site)``, positions in its second dimension; default: all of it.
    """

    def __init__(self, sites: Iterable[str], pick: Callable[[Tensor, str], Tensor] | None = None) -> None:
        self._pick = pick
        self._parts: dict[str, list[Tensor]] = {site: [] for site in sites}

    @property
    def hooks(self) -> list[Hook]:
        """What to put on the model."""
        return reading(self._parts, self._keep)

    def _keep(self, x: Tensor, site: str) -> None:
        self._parts[site].append(x if self._pick is None else self._pick(x, site))

    def forget(self) -> None:
        """Let go of all that was kept."""
        for parts in self._parts.values():
            parts.clear()

    def parts(self, site: str) -> list[Tensor]:
        """Hand over what passed a site, pass by pass, and let go of it."""
        parts, self._parts[site] = self._parts[site], []
        return parts

    def take(self, site: str) -> Tensor:
        """Hand over what passed a site, the passes joined at their positions, and let go of it."""
        parts = self.parts(site)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def check_finite(values: Tensor, site: str, places: Sequence[int] | range) -> None:
    """Refuse NaN and infinite numbers.

    Args:
        values: Something of each of some prompts.
        site: Where it was read.
        places: The places of these prompts in the caller's list.

    Raises:
        MechsteerError: with the site and the first prompt that has them.
    """
    bad = ~values.isfinite().flatten(1).all(1)
    if bad.any():
        raise not_finite(site, places[int(bad.nonzero()[0])])
