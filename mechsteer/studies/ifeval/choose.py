"""Which setting of a method: the one that follows most on prompts that the table does not report."""

from typing import TYPE_CHECKING

from mechsteer.studies.core.choose import best
from mechsteer.studies.ifeval.methods import Method

if TYPE_CHECKING:
    import pandas as pd

MORE_COLLAPSED = 0.05
"""A setting is left aside that makes this share of answers more collapse than the unsteered model's."""


def choose(method: Method, tried: "pd.DataFrame", unsteered_collapsed: float) -> float:
    """The setting with the most prompts followed (loose, then strict), of those that keep quality; ties: the mildest.

    Args:
        method: The method.
        tried: One row a setting, the mildest first: setting, prompt_loose, prompt_strict, collapsed, as shares.
        unsteered_collapsed: The unsteered model's share of collapsed answers on the same prompts.

    Returns:
        The setting. Where none keeps quality, the mildest.
    """
    found = best(
        tried.to_dict("records"),
        lambda row: (row["prompt_loose"], row["prompt_strict"]),
        passes=lambda row: row["collapsed"] <= unsteered_collapsed + MORE_COLLAPSED,
    )
    return method.ladder[0] if found is None else float(found["setting"])
