"""Answers that lie in the cells of a study: for its page, where no table has them."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.files import read_table
from mechsteer.html_report.samples import score_of

if TYPE_CHECKING:
    import pandas as pd

WAYS = 4
"""Ways to steer whose answers are shown beside the unsteered ones."""

EXAMPLES = 4
"""Answers of a cell of a heat map."""


def cells_of(folder: Path) -> "Iterator[pd.DataFrame]":
    """The cells of a study that are sample rows with answers; a damaged one is passed over."""
    for path in sorted((folder / "cells").glob("[!.]*.parquet")):
        with suppress(MechsteerError):
            table = read_table(path)
            if len(table) and {"output", "sample", "method", "strength", "strategy"} <= set(table.columns):
                yield table


def answers_in(folder: Path) -> "pd.DataFrame | None":
    """The answers of the task that most cells have: the unsteered ones, and of each method those of its best cell.

    A column ``name`` says how they were made. None where no cell has answers, or only one way was tried.
    """
    import pandas as pd

    by_task: dict[str, list[pd.DataFrame]] = {}
    for table in cells_of(folder):
        by_task.setdefault(str(table["data_hash"].iloc[0]), []).append(table)
    if not by_task:
        return None
    found = max(by_task.values(), key=lambda tables: len({_method(table) for table in tables}))
    best: dict[str, tuple[float, pd.DataFrame]] = {}
    for table in found:
        score, method = score_of(table), _method(table)
        value = float(table[score].astype(float).mean()) if score else 0.0
        if method not in best or value > best[method][0]:
            best[method] = (value, table.assign(name=_name(table)))
    start = [name for name in best if name.startswith("unsteered")][:1]
    others = sorted((name for name in best if name not in start), key=lambda name: -best[name][0])[:WAYS]
    return pd.concat([best[name][1] for name in (*start, *others)], ignore_index=True) if start and others else None


def _method(table: "pd.DataFrame") -> str:
    row = table.iloc[0]
    strategy = str(row["strategy"]).split("(")[0]
    return str(row["method"]) + ("" if strategy == "Greedy" else f", {strategy}")


def _name(table: "pd.DataFrame") -> str:
    row = table.iloc[0]
    strength = row["strength"]
    site = str(row["site"])
    where = f" at {site}" if site not in ("", "nan", "None") and "*" not in site and " " not in site else ""
    return f"{_method(table)}{where}" + (f", {strength:.4g}" if strength and strength == strength else "")


def examples(
    folder: Path, place: "Callable[[pd.DataFrame], tuple[float, float] | None]"
) -> dict[tuple[float, float], list[Mapping[str, str]]]:
    """Some answers for each cell of a heat map, those first that the unsteered model gives otherwise.

    Args:
        folder: The study's folder.
        place: Where the rows of a cell lie in the map; None for nowhere.
    """
    tables = list(cells_of(folder))
    plain = {
        (str(row["data_hash"]), row["sample"]): str(row["output"])
        for table in tables
        if table["method"].iloc[0] == "unsteered"
        for row in table[["data_hash", "sample", "output"]].to_dict("records")
    }
    found: dict[tuple[float, float], list[Mapping[str, str]]] = {}
    for table in tables:
        where = place(table)
        if where is not None:
            found.setdefault((round(where[0], 6), round(where[1], 6)), _some(table, plain))
    return found


def layer_of(site: str) -> int | None:
    """The layer in the name of a hook point; None where it has none, or several."""
    numbers = {int(found) for found in re.findall(r"\.(\d+)\.", site)}
    return numbers.pop() if len(numbers) == 1 else None


def _some(table: "pd.DataFrame", plain: Mapping[tuple[str, Any], str]) -> list[Mapping[str, str]]:
    rows = table[[name for name in ("prompt", "output", "sample", "data_hash") if name in table]].to_dict("records")
    pairs = [(row, plain.get((str(row["data_hash"]), row["sample"]))) for row in rows]
    ordered = sorted(pairs, key=lambda pair: pair[1] is None or pair[1] == str(pair[0]["output"]))
    return [
        {
            "prompt": str(row.get("prompt", row["sample"])),
            **({} if before is None else {"unsteered": before}),
            "steered": str(row["output"]),
        }
        for row, before in ordered[:EXAMPLES]
    ]
