"""GUIDE and Influence (arXiv 2409.19001): does a bias on the instruction's attention scores make a model follow?

Paper: "Pay Attention to What Matters". Three tasks by strength and length of the context; prompt engineering beside it;
which layers carry it; whether Influence predicts success; and the strength that Influence chooses without generating.

On the bundled model instruct-llama the tasks are at its own scale: instructions with notes in between, an instruction
hidden among notes as the needle, its two-key JSON object as the schema; ``limits`` has what it scores on the paper's
tasks. On any other decoder-only model they are the paper's (French summaries, needle, seven-key schema) with its
strengths, on documents generated from a seed.

Two forms: ``"every step"`` biases the prompt's pass and every step after it (the released pipeline; the default here),
``"prompt only"`` the prompt's pass alone (the code of the paper's experiments).

Different from the paper: greedy decoding throughout, generated documents with lengths in words, and see
:mod:`mechsteer.tasks.summaries`, :mod:`mechsteer.tasks.needle`, :mod:`mechsteer.tasks.json_schema`. Intervals are 95 %,
with the prompts of one topic as a cluster (:mod:`mechsteer.stats`); those of AUC and r are bootstrap intervals.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, listed, one_of, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import model_info, provenance, stacks
from mechsteer.studies.core.bench import Bench, decoder_only, opened
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.guide.choose import choice, influence_by_delta
from mechsteer.studies.guide.influence_by_distance import flows
from mechsteer.studies.guide.instruction_last import against_last
from mechsteer.studies.guide.predict import predict
from mechsteer.studies.guide.published import beside, reference
from mechsteer.studies.guide.tables import baselines, by_strength, layers, limits, needle_grid, over_lengths, predicted
from mechsteer.studies.guide.tasks import DOCUMENTS, ORGANISM, OTHER_WORDINGS, WORDINGS, TaskByLength, named, subsets
from mechsteer.studies.sweep.executors import Executor

if TYPE_CHECKING:
    import pandas as pd

NAME = "guide"


def run(
    model: Any = "organism:instruct-llama",
    out: str | os.PathLike[str] = "results/guide",
    *,
    tasks: str | Sequence[str] | None = None,
    n: int = 10,
    batch_size: int = 64,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        tasks: Some of ``instructions`` (bundled model) or ``french`` (others), ``needle`` and ``json``; default: all.
        n: Prompts of each length and kind of instruction, or depth of the needle; three times as many for ``json``.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables, percentages with intervals. ``summary``: score by task, form and delta, over all lengths, beside the
        published; ``by_strength``: the same by length; ``baselines``: other wordings, with ``tokens`` of the
        instruction, and ``kinds_read``: in how many kinds the model follows them at least half as often as the plain
        ones, at the shortest length (``applicable``: in most); ``against_last``: GUIDE minus the instruction behind the
        question, on the same prompts; ``layers``; ``needle``: by depth and length; ``predictors`` (of every prompt) and
        ``prediction`` (AUC and r); ``choice``: the delta that Influence chooses and the score there; ``influence``: by
        delta; ``flows``: Influence and rollout by layer and distance; ``limits`` (bundled model); ``published``. Tables
        of a task that is left out are left out too.

    Raises:
        MechsteerError: for an encoder-decoder, an unknown task, a context in which no length fits, other bad arguments,
            or a folder that cannot be written to.
    """
    positive_int("n", n)
    positive_int("batch_size", batch_size)
    folder = writable_dir(out)
    loaded = decoder_only(model)
    name = model_info(loaded).name
    bundled = name.startswith("organism:")
    chosen = _fitting(loaded, ORGANISM if bundled else DOCUMENTS, tasks, n)
    settings = {"n": n, "lengths": {s.name: s.lengths for s in chosen}}
    about = {**settings, **provenance(loaded)}
    total = _parts(chosen, bundled)
    with opened(
        NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor, total=total
    ) as bench:
        tables = _tables(bench, chosen, bundled)
    tables = of_model({key: table for key, table in tables.items() if not table.empty}, loaded)
    tables["published"] = reference(name)
    return finished(NAME, folder, about, tables, draw=draw)


def _fitting(
    model: Any, chosen: Sequence[TaskByLength], names: str | Sequence[str] | None, n: int
) -> tuple[TaskByLength, ...]:
    names = names if names is None else [names] if isinstance(names, str) else listed("tasks", names)
    for name in names or ():
        one_of("task", name, [s.name for s in chosen])
    if names == []:
        raise MechsteerError(f"tasks must name at least one of {', '.join(s.name for s in chosen)}, got none.")
    fitting = [s.fitting(model, min(n, 3)) for s in named(chosen, names)]
    if not any(s.lengths for s in fitting):
        raise MechsteerError(f"No length of these tasks fits this model's context of {model.cfg.n_ctx} tokens.")
    return tuple(replace(s, n=n) for s in fitting if s.lengths)


def _parts(chosen: Sequence[TaskByLength], bundled: bool) -> int:
    """How often the bar moves."""
    main = [s for s in chosen if s.name in ("instructions", "french")]
    total = sum(len(s.deltas) * len(s.lengths) + len(s.lengths) for s in chosen) + bundled * len(DOCUMENTS)
    for s in main:
        wordings, groups = len(WORDINGS) + len(OTHER_WORDINGS), len(subsets(8))
        total += len(s.lengths) * (len(s.deltas) - 1 + wordings + 2) + groups * len(s.lengths[-2:]) + len(s.lengths) - 1
    return total


def _tables(bench: Bench, chosen: Sequence[TaskByLength], bundled: bool) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    main = [s for s in chosen if s.name in ("instructions", "french")]
    strength = pd.concat([by_strength(bench, s) for s in chosen], ignore_index=True)
    ends = pd.concat([over_lengths(bench, s) for s in chosen], ignore_index=True)
    rows = pd.concat([predicted(bench, s) for s in chosen], ignore_index=True)
    tables = {
        "summary": beside(strength, model_info(bench.model).name).merge(ends, how="left", validate="1:1"),
        "by_strength": strength,
        "predictors": rows,
        "prediction": predict(rows),
    }
    for one in main:
        tables["baselines"] = baselines(bench, one)
        tables["against_last"] = against_last(bench, one)
        tables["layers"] = layers(bench, one, subsets(stacks(bench.model)["blocks"]))
        tables["flows"] = flows(bench, one)
        tables["influence"] = influence_by_delta(bench, one)
        tables["choice"] = choice(bench, one, strength)
    for one in chosen:
        if one.name == "needle":
            tables["needle"] = needle_grid(bench, one)
    if bundled:
        tables["limits"] = limits(bench)
    return tables
