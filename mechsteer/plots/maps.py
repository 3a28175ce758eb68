"""Heat maps with tokens on their axes: layer by position, and query by key."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, listed, shown
from mechsteer.plots.base import COLOURS
from mechsteer.plots.labels import need, numeric, one_each, pitch, quantity, token_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SEQUENTIAL = "viridis"
"""Even steps of lightness, distinguishable with every kind of colour vision and in grey."""

DECADES = 4
"""A log scale reaches this many powers of ten below the largest value."""


def token_map(
    axes: "Axes",
    table: "pd.DataFrame",
    *,
    value: str = "influence",
    span: Sequence[int] = (),
    log: bool = False,
    label: str | None = None,
    title: str = "",
) -> Any:
    """A quantity by layer and position, the first layer at the bottom and the tokens below.

    As many tokens are written as are readable in the panel's width (about 40 in 7 inches); a longer prompt gets
    position numbers.

    Args:
        axes: Where to draw; its figure gets a colour bar.
        table: One row a layer and position, with the columns layer, position, token and the quantity.
        value: Column of the colour.
        span: Positions to mark below the map, e.g. ``prompt.positions("instruction")``.
        log: Colours on a log scale, :data:`DECADES` powers of ten deep.
        label: Label of the colour bar, with the unit; default by column.
        title: Title of the panel.

    Returns:
        The image.

    Raises:
        MechsteerError: for a missing column, an empty table, several rows for one cell, a marked position that is not
            there, or a log scale of values that are negative or all 0.
    """
    need(table, "layer", "position", "token", value)
    table = numeric(table, value)
    one_each(table, ["layer", "position"], "cell")
    grid = table.pivot(index="layer", columns="position", values=value)
    tokens = table.drop_duplicates("position").set_index("position")["token"].reindex(grid.columns)
    outside = sorted(set(span) - set(grid.columns))
    if outside:
        raise MechsteerError(f"The span's positions {outside} are not in the table.")
    shown, scale, extend = _scaled(grid.to_numpy(dtype=float), log)
    image = axes.imshow(shown, aspect="auto", origin="lower", interpolation="nearest", cmap=_colours(), **scale)
    step, size = pitch(_points(axes, "height"), len(grid))
    axes.set_yticks(range(0, len(grid), step), [str(layer) for layer in grid.index[::step]], fontsize=size)
    _bare(axes, first_left_out(title) if "skip_first" in table and table["skip_first"].all() else title)
    axes.set_ylabel("Layer")
    marked = [place for place, position in enumerate(grid.columns) if position in set(span)]
    tokens_below(axes, [str(t) for t in tokens], [int(p) for p in grid.columns], marked)
    colour_bar(axes, image, quantity(value) if label is None else label, extend)
    return image


def attention_map(
    axes: "Axes",
    pattern: Any,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    head: int | None = None,
    span: Sequence[int] = (),
    skip_first: bool = False,
    title: str = "",
) -> Any:
    """Attention weights: a row a query, from the first on top, and a column a key; as many of each as there are.

    Args:
        axes: Where to draw; its figure gets a colour bar.
        pattern: Weights ``[queries, keys]`` or ``[heads, queries, keys]``: a tensor or array.
        query_tokens: The tokens of the queries.
        key_tokens: The tokens of the keys; default: those of the queries.
        head: The head to show; default: the mean over heads.
        span: Key positions to mark below the map.
        skip_first: Leave out the first key, where an attention sink draws all of the colour, and where the keys are
            the queries, the first query, which sees only itself. The other weights stay as they are; the title says it.
        title: Title of the panel.

    Returns:
        The image.

    Raises:
        MechsteerError: if the pattern does not have two or three dimensions or does not fit the tokens, or the head or
            a marked position is not there.
    """
    pattern = as_weights(pattern)
    keys = listed("query_tokens", query_tokens) if key_tokens is None else listed("key_tokens", key_tokens)
    weights = checked_pattern(pattern, len(query_tokens), len(keys))
    if head is not None and not -len(weights) <= head < len(weights):
        raise MechsteerError(f"Head {head} is out of range: the pattern has heads 0 to {len(weights) - 1}.")
    outside = sorted(set(span) - set(range(len(keys))))
    if outside:
        raise MechsteerError(f"The span's positions {outside} are not among the {len(keys)} keys.")
    shown = weights.mean(0) if head is None else weights[head]
    positions, queries = list(range(len(keys))), list(range(len(query_tokens)))
    if skip_first:
        positions, queries = positions[1:], queries[1 if key_tokens is None else 0 :]
        title = first_left_out(title)
        if not positions or not queries:
            raise MechsteerError("Without the first token nothing is left to show.")
        shown = shown[queries[0] :, 1:]
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap=_colours(), vmin=0.0)
    _bare(axes, title)
    step, size = pitch(_points(axes, "height"), len(queries))
    places = range(0, len(queries), step)
    labels = [token_label(query_tokens[queries[p]]) if step == 1 else str(queries[p]) for p in places]
    axes.set_yticks(list(places), labels, fontsize=size, parse_math=False)
    axes.set_ylabel("Query" if step == 1 else "Query position")
    marked = [place for place, position in enumerate(positions) if position in set(span)]
    tokens_below(axes, [str(keys[position]) for position in positions], positions, marked)
    axes.set_xlabel(axes.get_xlabel().replace("Token", "Key").replace("Position", "Key position"))
    several = len(weights) > 1
    which = f", mean of {len(weights)} heads" if several and head is None else f", head {head}" if several else ""
    colour_bar(axes, image, f"Attention weight{which}")
    return image


def first_left_out(title: str) -> str:
    """A title that says so."""
    return f"{title} (first token left out)" if title else "First token left out"


def as_weights(pattern: Any) -> Any:
    """The weights as an array of numbers.

    Raises:
        MechsteerError: for anything else, such as a model.
    """
    import numpy as np

    try:
        return np.asarray(pattern.detach().cpu().float() if hasattr(pattern, "detach") else pattern, dtype=float)
    except (TypeError, ValueError):
        raise MechsteerError(
            "pattern, queries, keys = ms.analysis.attention(model, prompt, layer) gives the weights and tokens that "
            f"are drawn; got {shown(pattern)} as weights."
        ) from None


def checked_pattern(pattern: Any, queries: int, keys: int) -> Any:
    """The weights as an array ``[heads, queries, keys]``.

    Raises:
        MechsteerError: for another number of dimensions, sizes that are not those of the tokens, or weights that are
            not finite.
    """
    import numpy as np

    weights = as_weights(pattern)
    if weights.ndim not in (2, 3):
        raise MechsteerError(f"A pattern is [queries, keys] or [heads, queries, keys], got {weights.ndim} dimensions.")
    weights = weights if weights.ndim == 3 else weights[None]
    if weights.shape[1:] != (queries, keys) or not weights.size:
        raise MechsteerError(
            f"The pattern has shape {list(weights.shape)}, but there are {queries} query and {keys} key tokens."
        )
    if not np.isfinite(weights).all():
        raise MechsteerError("The pattern has weights that are not finite.")
    return weights


def _scaled(values: Any, log: bool) -> tuple[Any, dict[str, Any], str]:
    """What is drawn, the limits or norm of its colours, and how the colour bar ends."""
    import numpy as np
    from matplotlib.colors import LogNorm

    finite = values[np.isfinite(values)]
    if not log:
        return values, ({"vmin": min(0.0, float(finite.min()))} if finite.size else {}), "neither"
    if not finite.size or finite.max() <= 0 or finite.min() < 0:
        raise MechsteerError("A log scale needs values that are not negative and not all 0; draw it with log=False.")
    top = float(finite.max())
    bottom = max(float(finite[finite > 0].min()), top * 10.0**-DECADES)
    bottom = bottom if bottom < top else top / 10
    below = finite.min() < bottom
    shown = np.where(values < bottom, bottom / 10, values)  # 0 has no logarithm; the colour bar says "less"
    return shown, {"norm": LogNorm(bottom, top)}, "min" if below else "neither"


def _colours() -> Any:
    """The colours; what is not there stays light grey, what is below the scale (0 on a log scale) gets its lowest."""
    import matplotlib as mpl

    colours = mpl.colormaps[SEQUENTIAL]
    return colours.with_extremes(bad="0.9", under=colours(0.0))


def _points(axes: "Axes", side: str) -> float:
    """Width or height of the panel in points."""
    return getattr(axes.get_window_extent(), side) * 72 / axes.figure.dpi


def _bare(axes: "Axes", title: str) -> None:
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def tokens_below(axes: "Axes", tokens: Sequence[str], positions: Sequence[int], marked: Sequence[int]) -> None:
    """Tokens, or where they do not fit position numbers, below a map; and a line under the marked places."""
    step, size = pitch(_points(axes, "width"), len(tokens))
    if step == 1:
        labels = [token_label(token) for token in tokens]
        axes.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=size, parse_math=False)
        axes.set_xlabel("Token")
        for place in marked:
            axes.get_xticklabels()[place].set_color(COLOURS[1])
    else:
        every = _round_step(len(tokens))
        places = [place for place, position in enumerate(positions) if position % every == 0]
        axes.set_xticks(places, [str(positions[place]) for place in places])
        axes.set_xlabel("Position")
    if marked:
        axes.tick_params(axis="x", pad=6)
    for place in marked:
        axes.plot(
            [place - 0.5, place + 0.5],
            [-0.02, -0.02],
            color=COLOURS[1],
            linewidth=2.5,
            solid_capstyle="butt",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )


def _round_step(count: int) -> int:
    """A round distance between about eight ticks."""
    return next(step for power in range(12) for step in (10**power, 2 * 10**power, 5 * 10**power) if count / step <= 8)


def colour_bar(axes: "Axes", image: Any, label: str, extend: str = "neither") -> None:
    """A bar beside a map that says what its colours are."""
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, extend=extend)
    _plain_numbers(bar, image.norm)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _plain_numbers(bar: Any, norm: Any) -> None:
    """On a log scale, 0.02 in place of 2 x 10^-2."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    if isinstance(norm, LogNorm):
        wide = math.log10(float(norm.vmax or 1) / float(norm.vmin or 1)) > 2
        bar.set_ticks(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        bar.formatter = lambda value, _: f"{value:g}"
        bar.minorticks_off()
