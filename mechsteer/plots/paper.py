"""Figures for a page: their width, the files they become, and the user's own style."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mechsteer.errors import MechsteerError, finite, one_of
from mechsteer.files import as_path, is_there, read_text

FORMATS = ("pdf", "svg", "png")

TALLEST = 8.6
"""Inches of height that stacked panels share: what a page has, without a caption."""

LOWEST = 1.5
"""Inches below which a panel is not squeezed to that end."""

NARROWEST = 0.72
"""The part of its own width down to which a panel is squeezed before the next goes below it."""


@dataclass(frozen=True)
class Paper:
    """What figures are drawn for.

    Attributes:
        width: Width of a whole figure in inches; None for as wide as its panels.
        formats: The files that a figure becomes.
        settings: The user's rcParams, which win over the house style.
    """

    width: float | None = None
    formats: tuple[str, ...] = ("pdf", "png")
    settings: dict[str, Any] = field(default_factory=dict)


_USUAL = Paper()
_now: ContextVar[Paper] = ContextVar("paper", default=_USUAL)


def current() -> Paper:
    """What figures are drawn for now."""
    return _now.get()


@contextmanager
def paper(
    width: float | None = None,
    *,
    formats: Sequence[str] = ("pdf", "png"),
    style: str | os.PathLike[str] | None = None,
) -> Iterator[None]:
    """Inside, figures are drawn for a page: of a given width, as given files, in one's own style.

    Args:
        width: Width in inches, e.g. 3.3 for one column and 6.75 for two; panels that do not fit beside each other go
            below. Default: as wide as the panels are.
        formats: Of ``pdf``, ``svg`` and ``png``.
        style: A style sheet of matplotlib (a file with lines such as ``font.size: 8``), or the name of one of its own.
            What it sets wins over the house style.

    Raises:
        MechsteerError: for a width that is too small or no number, no format or an unknown one, or a style that cannot
            be read.

    Example:
        >>> with ms.plots.paper(3.3, formats=["svg"]):
        ...     ms.plots.save(result.figures()["controls"], "controls")
    """
    if width is not None and finite("width", width) < 1:
        raise MechsteerError(f"width is in inches and at least 1, e.g. 3.3 for one column, got {width:g}.")
    chosen = tuple(one_of("format", name, FORMATS) for name in formats)
    if not chosen:
        raise MechsteerError(f"A figure needs a format to be written in: some of {', '.join(FORMATS)}.")
    token = _now.set(Paper(width, chosen, {} if style is None else _read(style)))
    try:
        yield
    finally:
        _now.reset(token)


def _read(style: str | os.PathLike[str]) -> dict[str, Any]:
    """What a style sheet sets."""
    import matplotlib as mpl
    from matplotlib.style import library

    if str(style) in library:
        return {str(name): value for name, value in library[str(style)].items()}
    path = as_path(style)
    if not is_there(path):
        raise MechsteerError(f"No such style sheet: {path}. Give a file, or a name such as 'ggplot'.")
    text = read_text(path, "style sheet")
    try:
        found = mpl.rc_params_from_file(path, fail_on_error=True, use_default_template=False)
    except Exception as error:
        raise MechsteerError(f"{path} is not a style sheet of matplotlib: {error}.") from None
    named = {line.split(":")[0].strip() for line in text.splitlines() if ":" in line.split("#")[0]}
    wrong = sorted(named - set(mpl.rcParams))
    if wrong:
        raise MechsteerError(f"{path} sets {wrong[0]!r}, which matplotlib does not know.")
    return {str(name): value for name, value in found.items()}


def height_on_page(panel: float, rows: int) -> float:
    """The height of a figure with so many rows of panels: as they are, or squeezed so that it fits a page."""
    return rows * max(min(panel, LOWEST), min(panel, TALLEST / rows))


def columns_in(width: float, columns: int, panel: float) -> int:
    """How many panels of a width stand beside each other in a figure of a width; as even as can be."""
    most = max(1, min(columns, math.floor(width / (NARROWEST * panel))))
    return math.ceil(columns / math.ceil(columns / most))
