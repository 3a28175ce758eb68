"""How each kind of instruction is steered: layer, method and scope first, then the strength, on validation prompts.

The best has the highest mean of followed (the strict checker) times quality; of equals the first. A strength at an end
of its ladder is marked ``edge``.
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mechsteer.steering import Intervention
from mechsteer.studies.core.choose import best
from mechsteer.studies.questions.bench import Place, Setup, rows_of, steered
from mechsteer.studies.questions.scores import scored

if TYPE_CHECKING:
    import pandas as pd

WAYS = (("add", "last_prompt"), ("add", "content"), ("project", "content"))
"""Methods and scopes."""
STEPS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def choose(setup: Setup) -> "tuple[dict[str, Place], pd.DataFrame]":
    """The place of each kind, and what was tried: stage, kind, layer, method, scope, step, measures, chosen."""
    import pandas as pd

    options = [Place(layer, *way, 1.0) for layer in setup.layers for way in WAYS]
    tried = [_tried(setup, dict.fromkeys(setup.kinds, place)) for place in options]
    setup.prefetch(setup.validation(), [steer for _, steer in tried])
    first = [row for places, steer in tried for row in _rows(setup, places, steer, "place")]
    places = {kind: _best(first, kind) for kind in setup.kinds}
    ladders = [{k: replace(p, step=step) for k, p in places.items()} for step in STEPS]
    steps = [_tried(setup, ladder) for ladder in ladders]
    setup.prefetch(setup.validation(), [steer for _, steer in steps])
    second = [row for at, steer in steps for row in _rows(setup, at, steer, "step")]
    chosen = {kind: _best(second, kind) for kind in setup.kinds}
    for row in first:
        row["chosen"] = _place(row) == places[row["kind"]]
    for row in second:
        row["chosen"] = row["step"] == chosen[row["kind"]].step
        row["edge"] = row["chosen"] and row["step"] in (STEPS[0], STEPS[-1])
    return chosen, pd.DataFrame([*first, *second]).fillna({"edge": False})


def _tried(setup: Setup, places: dict[str, Place]) -> tuple[dict[str, Place], Intervention]:
    vectors = {kind: setup.vector(kind, place.layer) for kind, place in places.items()}
    return places, steered(setup.validation(), places, vectors, {kind: d.norm for kind, d in vectors.items()})


def _rows(setup: Setup, places: dict[str, Place], steer: Intervention, stage: str) -> list[dict[str, Any]]:
    task = setup.validation()
    table = scored(setup.answers(task, steer), setup.knows)
    rows = []
    for kind, at in rows_of(task).items():
        means = table.iloc[at][["followed", "quality", "value"]].mean().to_dict()
        place = places[kind]
        rows.append({"stage": stage, "kind": kind, **asdict(place), **means, "n": len(at)})
    return rows


def _best(rows: list[dict[str, Any]], kind: str) -> Place:
    found = best([row for row in rows if row["kind"] == kind], lambda row: row["value"])
    assert found is not None
    return _place(found)


def _place(row: dict[str, Any]) -> Place:
    return Place(row["layer"], row["method"], row["scope"], row["step"])
