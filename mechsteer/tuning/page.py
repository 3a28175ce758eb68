"""The page of a tuning: it needs nothing else."""

import html
from typing import TYPE_CHECKING, Any

from mechsteer.comparison.page import STYLE, answers, image
from mechsteer.display import document

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHOWN = 5
"""Prompts in a notebook."""

DECIMALS = {"p_value": 4, "divergence": 4}


def tuning_page(found: Any, figure: "Figure | None") -> str:
    """The page; without a figure, a part for a notebook.

    Args:
        found: A :class:`mechsteer.tuning.Tuning`.
        figure: Its figure.
    """
    said = "".join(f"<li>{html.escape(one)}</li>" for one in found.findings)
    drawn = "" if figure is None else image(figure, "Adherence against quality, and by divergence")
    limit = SHOWN if figure is None else None
    body = (
        f'<div class="mechsteer"><style>{STYLE}</style><ul>{said}</ul>'
        f"<h3>Held-out prompts</h3>{_table(found.test)}"
        f"<h3>Best of each method, validation prompts</h3>{_table(found.best)}{drawn}"
        f"{'' if figure is None else f'<h3>All candidates</h3>{_table(found.curve)}'}"
        f"<h3>Held-out answers</h3>{answers(found.rows, 'adherence', limit)}</div>"
    )
    if figure is None:
        return body
    first = found.rows.iloc[0]
    title = f"Tuning on {first['task']}, {first['model_name']}"
    return document(title, f'<h1 class="mechsteer">{html.escape(title)}</h1>{body}')


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
