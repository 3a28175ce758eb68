"""Some answers of the candidates of a search, for the cells of the maps on a tuning's page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from mechsteer.html_report.heat import EXAMPLES, LETTERS
from mechsteer.tuning.search import Search, Tried

COLUMNS = ("method", "strength", "layer", "prompt", "unsteered", "steered")

Answers = Mapping[tuple[float, float], Sequence[Mapping[str, str]]]


def examples_table(searches: Mapping[str, Search], unsteered: Tried) -> pd.DataFrame:
    """Answers of every candidate that has a layer, those first that the unsteered model gives otherwise.

    Returns:
        method, strength, layer, the prompt, and what was answered unsteered and steered: at most
        :data:`~mechsteer.html_report.heat.EXAMPLES` rows a candidate, each text cut to its last or first letters.
    """
    plain = {prompt: output for part in unsteered.parts for prompt, output in _asked(part)}
    rows = []
    for one in (one for search in searches.values() for one in search.tried if one.candidate.layer >= 0):
        answers = [(prompt, output) for part in one.parts for prompt, output in _asked(part) if prompt in plain]
        answers.sort(key=lambda pair: plain[pair[0]] == pair[1])
        about = (one.candidate.method, one.candidate.strength, one.candidate.layer)
        for prompt, output in answers[:EXAMPLES]:
            rows.append((*about, _end(prompt), plain[prompt][: LETTERS + 1], output[: LETTERS + 1]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _asked(part: pd.DataFrame) -> list[tuple[str, str]]:
    if not {"prompt", "output"} <= set(part.columns):
        return []
    return list(zip(part["prompt"].astype(str), part["output"].astype(str), strict=True))


def _end(prompt: str) -> str:
    """The end of a prompt, where its question stands."""
    return prompt if len(prompt) < LETTERS else f"…{prompt[1 - LETTERS :]}"


def examples_of(table: pd.DataFrame | None, method: str) -> Answers:
    """The answers of a method by strength and layer."""
    found: dict[tuple[float, float], list[Mapping[str, str]]] = {}
    if table is not None:
        for row in table[table["method"] == method].to_dict("records"):
            cell = (round(float(row["strength"]), 6), round(float(row["layer"]), 6))
            found.setdefault(cell, []).append({name: str(row[name]) for name in COLUMNS[3:]})
    return found
