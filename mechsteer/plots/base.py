"""The house style, saving, and the charts that every study uses."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, distinguishable with every kind of colour vision."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "mechsteer",
}


@contextmanager
def style() -> Iterator[None]:
    """The house style, for figures made inside."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        yield


def figure(
    columns: int = 1, *, rows: int = 1, width: float = 3.4, height: float = 2.8
) -> "tuple[Figure, Sequence[Axes]]":
    """A figure with ``rows`` x ``columns`` panels of that size in inches, row by row; not registered with pyplot.

    It shows itself in a notebook, also where nobody has imported pyplot.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(width * columns, height * rows), layout="constrained")
    made.__dict__["_repr_png_"] = partial(png, made)
    axes = made.subplots(rows, columns, squeeze=False)
    return made, list(axes.flatten())


def png(figure: "Figure") -> bytes:
    """The figure as a page or a notebook shows it (150 dpi), without a timestamp."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": "mechsteer"})
    return buffer.getvalue()


def save(figure: "Figure", stem: str | os.PathLike[str]) -> list[Path]:
    """Write ``stem.pdf`` and ``stem.png`` (300 dpi), atomically and without timestamps."""
    paths = [Path(f"{stem}.pdf"), Path(f"{stem}.png")]
    metadata: list[dict[str, Any]] = [{"CreationDate": None, "Producer": "mechsteer"}, {"Software": "mechsteer"}]
    with style():
        for path, data in zip(paths, metadata, strict=True):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], dpi=300, metadata=data)
    return paths


def heatmap(
    axes: "Axes",
    table: "pd.DataFrame",
    *,
    x: str,
    y: str,
    value: str,
    xlabel: str,
    ylabel: str,
    title: str,
    limit: float,
) -> Any:
    """A layer-by-strength map of signed changes, the value written in each cell.

    Args:
        axes: Where to draw.
        table: One row a cell.
        x: Column of the horizontal axis.
        y: Column of the vertical axis; the smallest is on top, as in the paper.
        value: Column of the colour: percentage points, 0 in the middle of the colours.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
        title: Title of the panel.
        limit: The colours span -limit to +limit.

    Raises:
        MechsteerError: if a cell is given twice.
    """
    if table.duplicated([x, y]).any():
        raise MechsteerError(f"The table has several rows for one ({x}, {y}) cell of the heat map.")
    grid = table.pivot(index=y, columns=x, values=value).sort_index()
    values = grid.to_numpy(dtype=float)
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(grid.shape[1]), [f"{v:g}" for v in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [f"{v:g}" for v in grid.index])
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            number = float(values[row, column])
            if not math.isnan(number):  # a missing cell stays empty
                colour = "white" if abs(number) > 0.6 * limit else "black"
                axes.text(
                    column, row, f"{number:+.1f}".replace("-", "−"), ha="center", va="center", color=colour, fontsize=8
                )
    return image


def lines(
    axes: "Axes", table: "pd.DataFrame", *, x: str, y: str, by: str, xlabel: str, ylabel: str, title: str
) -> None:
    """One line for each value of ``by``, in the order of the table, told apart by colour and marker."""
    for place, (name, part) in enumerate(table.groupby(by, sort=False)):
        ordered = part.sort_values(x)
        axes.plot(
            ordered[x],
            ordered[y],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=4,
            linewidth=1.4,
            label=str(name),
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
