"""Words on figures: what a column is called with its unit, how a token is written, and checks of tables."""

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from mechsteer.errors import MechsteerError, shown, unknown
from mechsteer.prompts.vocabulary import readable

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = {
    "attention_entropy": "Entropy of attention (nats)",
    "attention_mass": "Attention on the span",
    "cosine": "Cosine similarity",
    "direct": "Direct effect",
    "exit": "Exit (blocks passed)",
    "flip_rate": "Top-1 tokens that change",
    "influence": "Influence",
    "jsd": "Jensen-Shannon divergence (nats)",
    "kl": "KL divergence (nats)",
    "layer": "Layer",
    "logit": "Logit",
    "logit_difference": "Change of target − trap logit",
    "path_share": "Share of the path",
    "probability": "Probability",
    "propagation": "Effect of propagation",
    "rank": "Rank",
    "rbo": "Rank-biased overlap",
    "relative_update": "Norm of update / norm of stream",
    "rollout": "Attention rollout",
    "sensitivity": "Sensitivity (change of distance)",
}
"""Column -> what stands on its axis."""

SUBLAYERS = {
    "attention": "self-attention",
    "attn": "self-attention",
    "self": "self-attention",
    "self_attn": "self-attention",
    "self_attention": "self-attention",
    "cross": "cross-attention",
    "cross_attn": "cross-attention",
    "cross_attention": "cross-attention",
    "mlp": "MLP",
}

_MARKS = {"\n": "↵", "\t": "⇥", "\r": ""}
"""How a label writes white space."""


def quantity(column: str, table: "pd.DataFrame | None" = None) -> str:
    """The text for a column's axis; columns without one get their name with spaces.

    Where cross-attention is frozen, the logits differ by so much; elsewhere that is what a sublayer changes it by.
    """
    if column == "logit_difference" and table is not None and "frozen" in table:
        return "Target − trap logit"
    return QUANTITIES.get(column, column.replace("_", " ").capitalize())


def token_text(token: str, limit: int = 40) -> str:
    """A token as people read it: letters as letters, spaces as spaces (none at the ends), line breaks as ↵, cut."""
    text = "".join(_MARKS.get(c, c) for c in readable(str(token))).strip(" ") or "␣"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def token_label(token: str, limit: int = 16) -> str:
    """The same for figures: □ in place of what their font does not have."""
    return "".join(c if c in _drawable() else "□" for c in token_text(token, limit))


@cache
def _drawable() -> frozenset[str]:
    """The characters of the figures' font."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(map(chr, font.get_charmap())) - {chr(c) for c in range(32)}


def need(table: "pd.DataFrame", *columns: str) -> None:
    """Check that a table is one, and has columns and rows.

    Raises:
        MechsteerError: naming what was given, or the missing column and the nearest ones.
    """
    if not hasattr(table, "columns"):
        raise MechsteerError(
            f"A figure is drawn from a table, e.g. of ms.influence(model, prompt), with the columns "
            f"{', '.join(columns)}; got {shown(table)}."
        )
    for column in columns:
        if column not in table.columns:
            raise unknown("column (of the table)", column, [str(c) for c in table.columns])
    if table.empty:
        raise MechsteerError("The table has no rows to draw.")


def numeric(table: "pd.DataFrame", *columns: str) -> "pd.DataFrame":
    """Check that columns hold numbers.

    Returns:
        The table with all numbers as NumPy's: matplotlib cannot draw pandas' own (``Int64``) where one is missing.

    Raises:
        MechsteerError: naming the one that does not.
    """
    for column in columns:
        if table[column].dtype.kind not in "iufb":
            raise MechsteerError(f"The column {column!r} has no numbers, e.g. {table[column].iloc[0]!r}.")
    plain = table.copy()
    for column, dtype in table.dtypes.items():
        own = getattr(dtype, "numpy_dtype", None)
        if own is not None and own.kind in "iufb":
            missing = bool(table[column].isna().any())
            plain[column] = table[column].to_numpy(float if missing else own, na_value=math.nan)
    return plain


def one_each(table: "pd.DataFrame", columns: Sequence[str], what: str) -> None:
    """Check that no two rows are for the same point or cell.

    Raises:
        MechsteerError: naming the columns that still tell the rows apart, to choose or average by.
    """
    repeated = table[table.duplicated(list(columns), keep=False)]
    if repeated.empty:
        return
    same = repeated.groupby(list(columns), sort=False, dropna=False)
    keys = [c for c in table.columns if (c not in columns and table[c].dtype.kind != "f") or c == "delta"]
    apart = [str(c) for c in keys if (same[c].nunique() > 1).any()]
    hint = f" They differ in {', '.join(apart)}: choose one value, or average first." if apart else ""
    raise MechsteerError(f"The table has several rows for one {what} ({', '.join(columns)}).{hint}")


def interval(table: "pd.DataFrame", y: str, low: str | None, high: str | None) -> tuple[str, str] | None:
    """The columns of an interval: those named, or ``y_low`` and ``y_high``, or ``low`` and ``high``, or none.

    ``low`` and ``high`` do not say whose they are, and a table may have other quantities beside: see :func:`_of`.

    Raises:
        MechsteerError: if only one end is named, or a named column is not there.
    """
    if (low is None) != (high is None):
        raise MechsteerError(f"An interval needs both ends, got low={low!r} and high={high!r}.")
    if low is not None and high is not None:
        need(table, low, high)
        return low, high
    if {f"{y}_low", f"{y}_high"} <= set(table.columns):
        return f"{y}_low", f"{y}_high"
    return ("low", "high") if {"low", "high"} <= set(table.columns) and _of(table, y) else None


def _of(table: "pd.DataFrame", y: str) -> bool:
    """Whether the columns ``low`` and ``high`` are the interval of a quantity.

    They are that of the column before them if that lies inside, else of any that does.
    """
    columns = list(table.columns)
    before = columns[max(columns.index("low") - 1, 0)]
    return before == y or (_inside(table, y) and not _inside(table, before))


def _inside(table: "pd.DataFrame", column: str) -> bool:
    """Whether a column has numbers between ``low`` and ``high``, but for rounding, wherever all three are known."""
    if column in ("low", "high") or table[column].dtype.kind not in "iuf":
        return False
    known = table[["low", column, "high"]].dropna().to_numpy(dtype=float).T
    slack = 1e-9 * (1 + abs(known))
    inside = (known[0] - slack[0] <= known[1]) & (known[1] <= known[2] + slack[2])
    return bool(inside.size and inside.all())


def pitch(length_points: float, count: int) -> tuple[int, float]:
    """How to label ``count`` places along an axis: every how-manieth, and the font size in points."""
    space = length_points / max(count, 1)
    step = max(1, math.ceil(5.5 / space))
    return step, min(8.0, max(4.5, 0.85 * space * step))
