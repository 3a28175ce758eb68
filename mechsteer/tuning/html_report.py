"""The page of a tuning: it needs nothing else; and its part in a notebook."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.html_report import STYLE, answers
from mechsteer.html_report import Heat, Report, provenance_of, samples_of
from mechsteer.html_report.samples import verdict_of
from mechsteer.tuning.shown import examples_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHOWN = 5
"""Prompts in a notebook."""

DECIMALS = {"p_value": 4, "p_adjusted": 4, "divergence": 4}


def part(found: Any) -> str:
    """The part for a notebook of a :class:`mechsteer.tuning.Tuning`."""
    said = "".join(f"<li>{html.escape(one)}</li>" for one in found.findings)
    return (
        f'<div class="mechsteer"><style>{STYLE}</style><ul>{said}</ul>'
        f"<h3>Held-out prompts</h3>{_table(found.test)}"
        f"<h3>Best of each method, validation prompts</h3>{_table(found.best)}"
        f"<h3>Held-out answers</h3>{answers(found.rows, 'adherence', SHOWN)}</div>"
    )


def report_of(tables: "Mapping[str, pd.DataFrame]", findings: Sequence[str], figure: "Figure", command: str) -> Report:
    """What the page says.

    Args:
        tables: ``curve``, ``best``, ``test``, ``rows`` and ``examples``: see :class:`mechsteer.tuning.Tuning`; a tuning
            of the first versions has no examples.
        findings: What was found.
        figure: Adherence against quality, and by divergence.
        command: What made it.
    """
    rows, first = tables["rows"], tables["rows"].iloc[0]
    asked = (
        f"Which way to steer makes {first['model_name']} follow the instructions of {first['task']} best, at what "
        f"strength and layer? Chosen on validation prompts, tested once on {int(tables['test']['n'].iloc[0])} others."
    )
    return Report(
        title=f"Tuning on {first['task']}, {first['model_name']}",
        asked=[asked],
        found={"": findings},
        figures={"Adherence against quality, and by divergence": figure},
        heats=_heats(tables["curve"], tables.get("examples")),
        tables={
            "Held-out prompts": tables["test"],
            "Best of each method, validation prompts": tables["best"],
            "All candidates": tables["curve"],
        },
        samples=samples_of(rows, "name", verdict_of(rows, "adherence"), key=("sample",)),
        provenance=provenance_of([rows]),
        command=command,
    )


def _heats(curve: "pd.DataFrame", examples: "pd.DataFrame | None") -> list[Heat]:
    """Adherence by layer and strength, of the methods that have layers, with answers of each cell."""
    known = curve[curve["layer"] >= 0].assign(adherence_percent=lambda table: 100 * table["adherence"])
    return [
        Heat(
            f"Adherence (%) of {name} on the validation prompts, by layer and strength",
            last,
            "strength",
            "layer",
            "adherence_percent",
            examples=examples_of(examples, str(name)),
        )
        for name, part in known.groupby("method", sort=False)
        if len(last := part.drop_duplicates(["layer", "strength"], keep="last")) > 1
    ]


def _table(table: "pd.DataFrame") -> str:
    kept = [name for name in table.columns if not table[name].isna().all()]
    head = "".join(f"<th>{html.escape(str(name).replace('_', ' '))}</th>" for name in kept)
    lines = ["".join(_cell(name, row[name]) for name in kept) for row in table.to_dict("records")]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    if isinstance(value, float):
        shown = "–" if value != value else f"{value:.{DECIMALS.get(name, 2)}f}".rstrip("0").rstrip(".")
        return f"<td class=number>{shown}</td>"
    return f"<td class=number>{html.escape(str(value))}</td>"
