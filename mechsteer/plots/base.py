"""The house style, saving, and the charts that every study uses."""

import io
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, foreign, shown
from mechsteer.files import as_path, atomic_path, file_at
from mechsteer.plots.fitting import IN_CELL, fit
from mechsteer.plots.labels import need, numeric, one_each
from mechsteer.plots.own import Cycle, chosen, line_width, marker_size
from mechsteer.plots.paper import columns_in, current, height_on_page

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = Cycle("color", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"))
"""Okabe and Ito's colours, distinguishable with every kind of colour vision; the user's ``axes.prop_cycle`` wins."""

MARKERS = Cycle("marker", ("o", "s", "^", "D", "v", "P", "X"))

PLAIN = "0.6"
"""The grey of what is not steered, in every figure."""

UNSTEERED = frozenset({"unsteered", "zero-shot", "baseline"})
"""What it is called."""

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


_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": "mechsteer"},
    "svg": {"Date": None, "Creator": "mechsteer"},
    "png": {"Software": "mechsteer"},
}


@contextmanager
def style() -> Iterator[None]:
    """The house style, for figures made inside; rcParams that the user has changed win, and so does a style sheet."""
    import matplotlib as mpl

    usual: dict[Any, Any] = dict(mpl.rcParamsDefault)
    now: dict[Any, Any] = dict(mpl.rcParams)
    ours = {name: value for name, value in _STYLE.items() if now[name] == usual[name]}
    exact = {} if current().width is None else {"savefig.bbox": None}
    with mpl.rc_context(ours | exact | current().settings):  # pyright: ignore[reportArgumentType]
        yield


def look(place: int, *, width: float = 1.4, **other: Any) -> dict[str, Any]:
    """What tells a line of data from the others, by its place among them: colour and marker, and their sizes.

    Args:
        place: From 0.
        width: Of the line, in points.
        other: What else is said of it, or instead, in matplotlib's terms.
    """
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": marker_size(4),
        "linewidth": line_width(width),
        **other,
    }


def looks(names: Sequence[Any]) -> list[dict[str, Any]]:
    """The look of each line or bar by its name: grey for what is not steered; colours and markers in order else."""
    places = itertools.count()
    grey = look(0, color=PLAIN, marker=".")
    return [grey if str(name) in UNSTEERED else look(next(places)) for name in names]


def points(size: float) -> float:
    """A size of letters that goes along with the user's ``font.size``; the house's is 9."""
    import matplotlib as mpl

    return size * float(mpl.rcParams["font.size"]) / _STYLE["font.size"]


def figure(
    columns: int = 1, *, rows: int = 1, panels: int | None = None, width: float = 3.4, height: float = 2.8
) -> "tuple[Figure, Sequence[Axes]]":
    """A figure with ``rows`` x ``columns`` panels of that size in inches, row by row; not registered with pyplot.

    With ``panels``, so many, at most ``columns`` beside each other, in as many rows as that takes.

    Inside :func:`mechsteer.plots.paper` it is as wide as the paper, and panels that do not fit go below the others of
    their row, squeezed where a page would be too short. It shows itself in a notebook, also where pyplot is not loaded.
    """
    from matplotlib.figure import Figure

    whole = current().width
    columns = columns if panels is None else min(columns, panels)
    beside = columns if whole is None else columns_in(whole, columns, width)
    if panels is not None:  # one after the other, whatever the row
        columns = beside
        rows = math.ceil(panels / beside)
    lines = math.ceil(columns / beside)
    size = (width * columns, height * rows) if whole is None else (whole, height_on_page(height, rows * lines))
    made = Figure(figsize=size, layout="constrained")
    made.__dict__["_repr_png_"] = partial(png, made)
    grid = made.add_gridspec(rows * lines, beside)
    places = ((row * lines + place // beside, place % beside) for row in range(rows) for place in range(columns))
    return made, [made.add_subplot(grid[line, column]) for line, column in itertools.islice(places, panels)]


def legend_columns(count: int, labels: Sequence[str] = ("a label of usual length",)) -> int:
    """How many columns a legend has: ``count``, on narrow paper as many as fit with its labels."""
    whole = current().width
    each = 0.5 + points(0.065) * max(map(len, labels), default=0)
    return count if whole is None else max(1, min(count, int(whole / each)))


def leftmost(axes: "Axes") -> bool:
    """Whether a panel is the first of its line, where labels that a whole line shares are written."""
    place = axes.get_subplotspec()
    return place is None or place.is_first_col()


def png(figure: "Figure", dpi: int = 150) -> bytes:
    """The figure as a page or a notebook shows it, without a timestamp."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": "mechsteer"})
    return buffer.getvalue()


def thumbnail(path: Path) -> bytes:
    """A saved PNG at half its size in 128 colours, for a page: some tens of kilobytes.

    The colours of lines stay what they are, which median cut does not see to: of a line with few pixels it takes
    another's.
    """
    from PIL import Image

    with (
        foreign(f"{path} is no readable picture", "Draw it again: mechsteer figures FOLDER."),
        Image.open(file_at(path, "picture")) as image,
    ):
        half = (max(1, image.width // 2), max(1, image.height // 2))
        small = image.convert("RGB").resize(half, Image.Resampling.LANCZOS)
        small = small.quantize(128, method=Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return buffer.getvalue()


def save(figure: "Figure", stem: str | os.PathLike[str]) -> list[Path]:
    """Write ``stem.pdf`` and ``stem.png`` (300 dpi), atomically and without timestamps.

    Inside :func:`mechsteer.plots.paper` the files that it asks for, exactly as wide as it says.
    """
    if not hasattr(figure, "savefig"):
        raise MechsteerError(f"A figure of matplotlib is saved, got {shown(figure)}; a view has .save(path) itself.")
    formats = current().formats
    paths = [as_path(f"{as_path(stem)}.{kind}") for kind in formats]
    with style():
        if current().width is not None or points(1) > 1:
            fit(figure)
        for kind, path in zip(formats, paths, strict=True):
            made = io.BytesIO()  # a full disk would leave matplotlib's own file open
            figure.savefig(made, format=kind, dpi=300, metadata=_METADATA[kind])
            with atomic_path(path) as temporary:
                temporary.write_bytes(made.getbuffer())
    return paths


def grid_lines(axes: "Axes", which: Any = "y") -> None:
    """Pale lines behind what is drawn, across one axis or ``both``."""
    axes.grid(axis=which, color=chosen("grid.color", "0.9"), linewidth=chosen("grid.linewidth", 0.6))
    axes.set_axisbelow(True)


def legend_above(
    figure: "Figure", axes: "Axes | Sequence[Axes]", columns: int, order: Callable[[str], Any] | None = None
) -> None:
    """One legend above all panels, with what one of them has, or with all that several have.

    In an order of labels; by default bars first. Its rows are as even as can be.
    """
    from matplotlib.container import BarContainer

    found: dict[str, Any] = {}
    for one in axes if isinstance(axes, Sequence) else [axes]:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=order or (lambda label: not isinstance(found[label], BarContainer)))
    most = legend_columns(columns, labels)
    even = math.ceil(len(labels) / math.ceil(len(labels) / most)) if labels else 1
    figure.legend([found[label] for label in labels], labels, loc="outside upper center", ncols=even)


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
        MechsteerError: for a missing column, an empty table, or a cell that is given twice.
    """
    need(table, x, y, value)
    if table.duplicated([x, y]).any():
        raise MechsteerError(f"The table has several rows for one ({x}, {y}) cell of the heat map.")
    grid = table.pivot(index=y, columns=x, values=value).sort_index()
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return written_map(
        axes,
        grid,
        "RdBu",
        (-limit, limit),
        lambda change: f"{change:+.1f}".replace("-", "−"),
        white=lambda change: abs(change) > 0.6 * limit,
    )


def written_map(
    axes: "Axes",
    grid: "pd.DataFrame",
    colours: Any,
    limits: tuple[float, float],
    text: Callable[[float], str],
    *,
    white: Callable[[float], bool],
    fontsize: float = 8,
) -> Any:
    """A map of a table's numbers, each written in its cell; cells that are missing stay empty.

    Args:
        axes: Where to draw.
        grid: The numbers; its columns and rows are the ticks.
        colours: matplotlib's colour map.
        limits: The numbers at its ends.
        text: What is written of a number.
        white: Whether that is in white, where the colour is dark.
        fontsize: In points.
    """
    import numpy as np

    values = grid.to_numpy(dtype=float)
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for ticks, names in ((axes.set_xticks, grid.columns), (axes.set_yticks, grid.index)):
        ticks(range(len(names)), [name if isinstance(name, str) else f"{name:g}" for name in names])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row, column in np.argwhere(~np.isnan(values)):
        number = float(values[row, column])
        look: dict[str, Any] = {"color": "white" if white(number) else "black", "fontsize": points(fontsize)}
        axes.text(column, row, text(number), ha="center", va="center", label=IN_CELL, **look)
    return image


def lines(
    axes: "Axes", table: "pd.DataFrame", *, x: str, y: str, by: str, xlabel: str, ylabel: str, title: str
) -> None:
    """One line for each value of ``by``, in the order of the table, told apart by colour and marker.

    Raises:
        MechsteerError: for a missing column, an empty table, no numbers, or several rows for one point.
    """
    need(table, x, y, by)
    table = numeric(table, y)
    one_each(table, [by, x], "point")
    groups = list(table.groupby(by, sort=False, dropna=False))
    for line, (name, part) in zip(looks([name for name, _ in groups]), groups, strict=True):
        ordered = part.sort_values(x)
        axes.plot(ordered[x], ordered[y], **line, label=str(name))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    grid_lines(axes)
