"""The columns that say whether outputs are still answers, beside a task's scores.

- ``n_tokens``: how many tokens were written, the end token not counted. ``truncated``: the limit ended the answer.
- ``empty``: no letter and no digit. ``repetition``, ``compressibility``, ``copied``: see
  :mod:`mechsteer.quality.texts`; of the prompt, its context (a document, notes) is left out: an answer may quote it.
- ``surprise``, ``surprise_p95``, ``surprise_excess``: see :mod:`mechsteer.quality.surprise`.
- ``changed``: another text than the reference's.
- ``collapsed``, ``collapse_reason``: see :mod:`mechsteer.quality.collapse`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.decoding.watched import Run
from mechsteer.errors import MechsteerError
from mechsteer.models import loaded_info
from mechsteer.prompts import Prompt
from mechsteer.quality.collapse import excesses, reason_of
from mechsteer.quality.surprise import surprises
from mechsteer.quality.texts import compressibility, copied, is_empty, repetition

if TYPE_CHECKING:
    import pandas as pd

QUOTED = ("context", "document", "needle")
"""Spans that an answer may copy."""


def text_columns(outputs: Sequence[str], asked: Sequence[str]) -> dict[str, list[Any]]:
    """What outputs say by themselves, and beside what was asked."""
    return {
        "empty": [is_empty(text) for text in outputs],
        "repetition": [repetition(text) for text in outputs],
        "compressibility": [compressibility(text) for text in outputs],
        "copied": [copied(text, prompt) for text, prompt in zip(outputs, asked, strict=True)],
    }


def token_columns(model: Any, run: Run, count: int, limit: int) -> dict[str, list[Any]]:
    """How much was written, of a run that wrote one answer to each of ``count`` samples."""
    ends = set(loaded_info(model).eos_ids)
    written = [list(run.written[place]) for place in range(count)]
    ended = [bool(ids) and ids[-1] in ends for ids in written]
    return {
        "n_tokens": [len(ids) - end for ids, end in zip(written, ended, strict=True)],
        "truncated": [len(ids) >= limit and not end for ids, end in zip(written, ended, strict=True)],
    }


def surprise_columns(model: Any, run: Run, count: int, batch_size: int) -> dict[str, list[float]]:
    """How surprising each answer of a run is to the unsteered model."""
    ends = set(loaded_info(model).eos_ids)
    written = [list(run.written[place]) for place in range(count)]
    answers = [ids[:-1] if ids and ids[-1] in ends else ids for ids in written]
    found = surprises(model, [run.prompts[place] for place in range(count)], answers, batch_size=batch_size)
    return {
        "surprise": [one.mean for one in found],
        "surprise_p95": [one.p95 for one in found],
        "surprise_excess": [one.excess for one in found],
    }


def asked_of(model: Any, prompt: Prompt) -> str:
    """The text of a prompt without what an answer may quote."""
    quoted = {place for span in QUOTED if span in prompt.spans for place in prompt.positions(span)}
    kept = [int(token) for place, token in enumerate(prompt.tokens) if place not in quoted]
    return model.tokenizer.decode(kept, skip_special_tokens=True)


def collapse_columns(table: "pd.DataFrame") -> dict[str, list[Any]]:
    """Which rows collapsed and why, from the other columns; without surprise, word salad is not seen."""
    known = [name for name in ("surprise", "surprise_p95", "surprise_excess", "n_tokens") if name in table]
    reasons = [
        reason_of(excesses(row["output"], copied=row["copied"], **{name: row[name] for name in known}))
        for row in table.to_dict("records")
    ]
    return {"collapsed": [bool(reason) for reason in reasons], "collapse_reason": reasons}


def as_numbers(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with numbers in columns where truth values, numbers and nothing are mixed, as a check may give them."""
    mixed = [
        name
        for name in table.columns
        if table[name].dtype == object
        and all(value is None or isinstance(value, bool | int | float) for value in table[name])
        and not table[name].isna().all()
    ]
    return table.astype(dict.fromkeys(mixed, float))


def changed_column(table: "pd.DataFrame", against: "pd.DataFrame | Sequence[str]") -> list[bool]:
    """Whether each output is another text than the reference's.

    Raises:
        MechsteerError: if the reference has other prompts, or another number of outputs.
    """
    import pandas as pd

    other, texts = (against, []) if isinstance(against, pd.DataFrame) else (None, list(against))
    for rows, whose in ((other, "against has"), (table, "the task gives")):
        if rows is not None and "output" not in rows:
            raise MechsteerError(f"What changed is seen by the column 'output', but {whose} none.")
    outputs = texts if other is None else list(other["output"])
    if len(outputs) != len(table):
        raise MechsteerError(f"against has {len(outputs)} outputs, but the task has {len(table)} samples.")
    if other is not None and list(other["prompt"]) != list(table["prompt"]):
        raise MechsteerError("against is of other prompts than the task's.")
    return [new != old for new, old in zip(table["output"], outputs, strict=True)]
