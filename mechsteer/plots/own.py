"""What the user's own matplotlib settings say where the house has another choice: lines, markers, colours."""

from collections.abc import Sequence
from typing import Any, overload

from mechsteer.plots.paper import current


def chosen(name: str, house: Any) -> Any:
    """The rcParam of that name where the user has set it, in a style sheet or in matplotlib; otherwise the house's."""
    import matplotlib as mpl

    now: dict[Any, Any] = dict(mpl.rcParams) | current().settings
    usual: dict[Any, Any] = dict(mpl.rcParamsDefault)
    return house if name not in current().settings and now[name] == usual[name] else now[name]


def line_width(house: float) -> float:
    """The width in points of a line of data."""
    return chosen("lines.linewidth", house)


def marker_size(house: float) -> float:
    """The size in points of a line's markers."""
    return chosen("lines.markersize", house)


class Cycle(Sequence[str]):
    """What tells lines and bars apart, in order: the house's, or what the user's ``axes.prop_cycle`` has under ``key``.

    A user's shorter cycle begins again, so that it is never shorter than the house's.
    """

    def __init__(self, key: str, house: Sequence[str]) -> None:
        self.key = key
        self.house = tuple(house)

    def _values(self) -> tuple[str, ...]:
        cycle = chosen("axes.prop_cycle", None)
        own = () if cycle is None else tuple(cycle.by_key().get(self.key, ()))
        return own * -(-len(self.house) // len(own)) if own else self.house

    def __len__(self) -> int:
        return len(self._values())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._values()[index]

    def __repr__(self) -> str:
        return repr(self._values())
