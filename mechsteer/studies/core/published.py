"""The papers' own numbers, as tables; each row says in ``source`` where it was read."""

from typing import TYPE_CHECKING

from mechsteer.files import data_path

if TYPE_CHECKING:
    import pandas as pd


def published(name: str) -> "pd.DataFrame":
    """A table of published numbers, e.g. ``published("t5_dola_heatmap")``; ``data/published/README.md`` lists them.

    Raises:
        MechsteerError: if there is no such table, naming the nearest.
    """
    import pandas as pd

    return pd.read_csv(data_path("published", f"{name}.csv"))
