"""``score_outputs``: the scores of answers that something else wrote."""

import os
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, listed, shown
from mechsteer.files import as_path, json_value, read_text
from mechsteer.quality.columns import as_numbers, collapse_columns, text_columns
from mechsteer.stats import are_shares, clustered_interval, mean_interval
from mechsteer.tasks import Answers, IFEval, Instructions, MemoTrap, OwnTask, Rules
from mechsteer.tasks.ifeval import require_checkers
from mechsteer.tasks.own_samples import is_conversation, read_sample
from mechsteer.tasks.spans import untagged

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scored:
    """What a file of outputs says of a task whose scores need nothing but the output.

    Attributes:
        asked: What a sample asks, as a file of responses would have it; several forms.
        columns: What else a row says of its sample.
    """

    asked: Callable[[Any], Sequence[str]]
    columns: Callable[[Any], dict[str, Any]] = lambda sample: {}


def _own_forms(sample: Any) -> list[str]:
    given = sample.given.get("prompt")
    return [sample.text, *([given, untagged(given)] if isinstance(given, str) else [])]


def _parts(sample: Any) -> list[str]:
    return ["\n\n".join(part for part in (sample.instruction, sample.context, sample.task) if part)]


PARTS = ("prompt", "instruction", "context")
"""What of a line says what was asked."""

SCORED: Mapping[type, Scored] = {
    OwnTask: Scored(_own_forms, lambda s: {"kind": s.kind}),
    IFEval: Scored(lambda s: [s.prompt], lambda s: {"key": s.key, "kind": " ".join(s.instructions)}),
    Instructions: Scored(_parts, lambda s: {"kind": s.kind, "topic": s.topic}),
    MemoTrap: Scored(lambda s: [s.prompt]),
    Answers: Scored(lambda s: [s.prompt]),
    Rules: Scored(lambda s: [s.text]),
}
"""The tasks whose scores need nothing but the output."""


def score_outputs(task: Any, texts: Sequence[str] | Mapping[str, str]) -> "pd.DataFrame":
    """Score answers that something else wrote.

    Args:
        task: A task whose scores need nothing but the output: one's own (:func:`mechsteer.task`), IFEval, instructions,
            MemoTrap, answers or rules.
        texts: One text a sample, in their order; or a response for each prompt's text.

    Returns:
        One row a sample: sample, what the task says of it, prompt, output and the scores; then empty, repetition,
        compressibility, copied, collapsed and collapse_reason. There is no model here that could be surprised, so word
        salad is not seen.

    Raises:
        MechsteerError: for another task, another number of texts, what is no text, or a prompt without a response.

    Example:
        >>> ms.score_outputs(task, ["THE WRITER LIVES HERE."] * len(task.samples))
    """
    import pandas as pd

    how = _how(task)
    if isinstance(texts, str | os.PathLike):
        raise MechsteerError(
            f"texts must be a list of answers, or a response for each prompt, got {shown(texts)}. Of a file: "
            "mechsteer score TASK OUTPUTS.jsonl."
        )
    if isinstance(task, IFEval):
        require_checkers()
    prompts = [how.asked(sample)[0] for sample in task.samples]
    if isinstance(texts, Mapping):
        found = [next((texts[one] for one in forms if one in texts), None) for forms in _forms(how, task.samples)]
        missing = [prompt for prompt, text in zip(prompts, found, strict=True) if text is None]
        if missing:
            raise MechsteerError(f"{len(missing)} of {len(prompts)} prompts have no response, e.g. {missing[0]!r}.")
    else:
        found = listed("texts", texts)
    if len(found) != len(prompts):
        raise MechsteerError(f"The task has {len(prompts)} samples, but there are {len(found)} texts.")
    wrong = next((text for text in found if not isinstance(text, str)), None)
    if wrong is not None:
        raise MechsteerError(f"An output must be a text, got {shown(wrong)}.")
    rows = [
        {
            "sample": number,
            **how.columns(sample),
            "prompt": prompt,
            "output": text,
            **task.scores(sample, str(text)),
        }
        for number, (sample, prompt, text) in enumerate(zip(task.samples, prompts, found, strict=True))
    ]
    table = as_numbers(pd.DataFrame(rows))
    asked = [_unquoted(sample, prompt) for sample, prompt in zip(task.samples, prompts, strict=True)]
    extra = text_columns([str(text) for text in found], asked)
    table = table.assign(**{name: values for name, values in extra.items() if name not in table})
    return table.assign(**collapse_columns(table))


def _forms(how: Scored, samples: Sequence[Any]) -> list[list[str]]:
    """What each sample asks, all of it first; not the question alone where others ask it with another instruction."""
    every = [list(dict.fromkeys(how.asked(sample))) for sample in samples]
    meant: dict[str, set[str]] = {}
    for whole, *parts in every:
        for form in (whole, *parts):
            meant.setdefault(form, set()).add(whole)
    return [[whole, *(part for part in parts if len(meant[part]) == 1)] for whole, *parts in every]


def _unquoted(sample: Any, prompt: str) -> str:
    """A prompt without its context, which an answer may quote (as :mod:`mechsteer.quality.columns` has it)."""
    context = untagged(getattr(sample, "context", ""))
    return prompt.replace(context, " ", 1) if context else prompt


def _how(task: Any) -> Scored:
    if type(task) not in SCORED:
        names = ", ".join(kind.__name__ for kind in SCORED)
        raise MechsteerError(f"Outputs alone can be scored for {names}; got {shown(task)}.")
    return SCORED[type(task)]


@dataclass(frozen=True)
class Responses:
    """A file of responses beside a task.

    Attributes:
        task: The task with the samples that have a response.
        texts: Their responses.
        missing: Prompts of the task that the file does not have.
        unknown: Prompts of the file that the task does not have.
        repeated: Prompts that are there more often than in the task; the first responses count.
    """

    task: Any
    texts: list[str]
    missing: list[str]
    unknown: list[str]
    repeated: list[str]


def read_responses(task: Any, path: str | os.PathLike[str]) -> Responses:
    """Read a JSONL file of ``{"prompt": ..., "response": ...}`` lines and find the task's prompts in it.

    A line may have the prompt in the parts that its sample has: messages, or ``instruction`` and ``context`` beside it.
    Samples that ask the very same take the responses to it in their order, or all of them its only one.

    Raises:
        MechsteerError: if it cannot be read, with the line that is broken, or has none of the prompts.
    """
    how, source = _how(task), as_path(path)
    given: dict[str, list[str]] = {}
    whole = {_plain(how.asked(sample)[0]) for sample in task.samples}
    for row in _lines(source):
        given.setdefault(_asked(row, whole), []).append(row["response"])
    every = _forms(how, task.samples)
    exact = {form for forms in every for form in forms}
    by_plain = {_plain(prompt): prompt for prompt in given if prompt not in exact}
    used: dict[str, int] = {}
    samples, texts, missing = [], [], []
    for sample, forms in zip(task.samples, every, strict=True):
        alike = (by_plain[p] for form in forms if (p := _plain(form)) in by_plain)  # but for its white space
        match = next((form for form in forms if form in given), next(alike, None))
        if match is None:
            missing.append(forms[0])
            continue
        place = used.get(match, 0)
        used[match] = place + 1
        samples.append(sample)
        texts.append(given[match][min(place, len(given[match]) - 1)])
    if not samples:
        raise MechsteerError(f"{source} has none of the {len(task.samples)} prompts of {task.name!r}.")
    unknown = [prompt for prompt in given if prompt not in used]
    repeated = [prompt for prompt, found in given.items() for _ in found[max(1, used.get(prompt, 0)) :]]
    return Responses(replace(task, samples=tuple(samples)), texts, missing, unknown, repeated)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _asked(row: dict[str, Any], whole: Set[str]) -> str:
    """What a line asks: its prompt, or that with the other parts of it where a sample asks just so."""
    prompt = row["prompt"]
    with suppress(MechsteerError):
        made = read_sample({name: row[name] for name in PARTS if name in row}, "").text
        if _plain(made) in whole or not isinstance(prompt, str):
            return made
    return prompt


def _lines(source: Path) -> list[dict[str, Any]]:
    lines = read_text(source, "JSONL").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json_value(line, once=True)
        except ValueError as error:
            raise MechsteerError(f"{source}, line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict) or not _is_answered(row):
            raise MechsteerError(f"{source}, line {number}: needs the texts 'prompt' and 'response', got {shown(row)}.")
        found.append(row)
    return found


def _is_answered(row: dict[str, Any]) -> bool:
    prompt = row.get("prompt")
    return isinstance(row.get("response"), str) and (isinstance(prompt, str) or is_conversation(prompt))


def levels(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The mean of each score with its 95 % interval, over all rows and over those that have not collapsed.

    For IFEval, prompt and instruction level, strict and loose; instructions of one prompt are not independent, so the
    prompts count as the samples of their interval (:func:`mechsteer.stats.clustered_interval`).

    Returns:
        One row a measure: measure, percent, low, high, n, percent_uncollapsed, n_uncollapsed. Scores that are not from
        0 to 1 are no shares: they are as they are, and their measure says so.
    """
    import pandas as pd

    sound = rows[~rows["collapsed"]]
    made = []
    if "n_strict" in rows:
        for name in ("strict", "loose"):
            made.append(_level(f"prompt level, {name}", rows[name], sound[name]))
        for name in ("strict", "loose"):
            made.append(_counted(f"instruction level, {name}", rows, sound, f"n_{name}"))
        return pd.DataFrame(made)
    columns = list(rows.columns)
    scores = columns[columns.index("output") + 1 : columns.index("empty")]
    return pd.DataFrame([_level(name, rows[name], sound[name]) for name in scores])


def _level(name: str, values: Any, sound: Any) -> dict[str, Any]:
    found, rest = mean_interval([float(v) for v in values]), mean_interval([float(v) for v in sound])
    share = are_shares(values)
    unit = 100 if share else 1
    ends = {"percent": unit * found.mean, "low": unit * found.low, "high": unit * found.high, "n": found.n}
    measure = name if share else f"{name} (not in percent)"
    return {"measure": measure, **ends, "percent_uncollapsed": unit * rest.mean, "n_uncollapsed": rest.n}


def _counted(name: str, rows: "pd.DataFrame", sound: "pd.DataFrame", followed: str) -> dict[str, Any]:
    def share(part: "pd.DataFrame") -> tuple[float, int]:
        asked = int(part["n_instructions"].sum())
        return (100 * float(part[followed].sum()) / asked if asked else float("nan")), asked

    (percent, n), (rest, n_rest) = share(rows), share(sound)
    low, high = clustered_interval(int(rows[followed].sum()), n, len(rows))
    ends = {"percent": percent, "low": 100 * low, "high": 100 * high, "n": n}
    return {"measure": name, **ends, "percent_uncollapsed": rest, "n_uncollapsed": n_rest}
