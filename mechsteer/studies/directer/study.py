"""DIRECTER (arXiv 2603.06745): does scaling an instruction's keys help, and does the gate keep the text whole?

Paper: "Enhancing Instruction Following of LLMs via Activation Steering with Dynamic Rejection". Its main table, its
ablations, fixed strengths without rejection, the sweeps of alpha and beta, its gate on other methods, its cost; and,
which it does not report, what becomes of each token at the gate.

The task is ours: instructions with so many notes after them that instruct-llama follows them only in part.
Adherence asks whether the output follows the instruction, fidelity how much of it is true of the topic, average is the
mean of the two for each prompt. Nothing here is IFEval, LIFBench or GSM8K-Format; their published numbers stand in a
table of their own. On another model the prompts are the same; fidelity then knows only the bundled world's sentences.

Different from the paper: PASTA in the main table steers all heads (``profiled`` has the best ones); random tokens are a
stretch of as many tokens as the instruction, somewhere in notes and question (the paper does not say how they are
drawn); ``chosen on validation`` gives every method, DIRECTER included, the strength with the best average on other
prompts, from a ladder that grows while its strongest is the best. Intervals are 95 %, by topic
(:mod:`mechsteer.stats`); p-values are McNemar's for adherence against zero-shot, and of paired differences those of
flipping the signs of whole topics; ``p_adjusted`` is Holm's, over all rows of a table with the same measure (in
``summary``: the same number of notes).
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.errors import positive_int
from mechsteer.files import writable_dir
from mechsteer.models import model_info, provenance
from mechsteer.studies.core.bench import decoder_only, opened
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.directer import tables as parts
from mechsteer.studies.directer.bench import Setup
from mechsteer.studies.directer.cost import cost
from mechsteer.studies.directer.profiled import heads, profiled
from mechsteer.studies.directer.published import beside
from mechsteer.studies.directer.samples import methods_side_by_side
from mechsteer.studies.directer.vectors import vector_maker
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import instructions
from mechsteer.tasks.checkers import KINDS
from mechsteer.tasks.instructions import named_kinds

if TYPE_CHECKING:
    import pandas as pd

NAME = "directer"


def run(
    model: Any = "organism:instruct-llama",
    out: str | os.PathLike[str] = "results/directer",
    *,
    kinds: str | Sequence[str] | None = None,
    notes: int = 24,
    fewer_notes: int = 16,
    n: int = 14,
    n_validation: int = 8,
    batch_size: int = 128,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again, except times and memory.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        kinds: Kinds of instructions, or one; default: all.
        notes: How many notes stand between instruction and question.
        fewer_notes: The main table's other number of notes.
        n: Prompts of each kind.
        n_validation: Validation prompts of each kind, to choose strengths on.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables; ``adherence_percent``, ``fidelity_percent`` and ``average_percent`` have intervals (``_low``,
        ``_high``). ``summary``: by notes, method, setting (``paper``, ``released code``, ``chosen on validation``) and
        strength (PASTA's alpha, SpotLight's psi, GUIDE's delta, DIRECTER's beta); gained, lost and p_value of adherence
        against zero-shot. ``choice``: the strengths tried on validation prompts, with ``edge``. ``ablation`` (with
        ``ranking_used_percent``: of all new tokens those that reach a second trial, where the ranking of layers first
        matters), ``rankings``, ``strengths`` (layers without rejection), ``sweeps``, ``gate``, ``trace`` (the fate of
        all tokens), ``differences`` (paired: method, against, measure, difference_pp, low_pp, high_pp, p_by_topic,
        p_adjusted, verdict), ``heads`` (PASTA on each head alone, validation prompts) and ``profiled`` (on the best
        heads), ``cost``, ``samples`` (answers side by side), ``published`` (beside ours).

    Raises:
        MechsteerError: for an encoder-decoder, other bad arguments, or a folder that cannot be written to.
    """
    for name, value in {"n": n, "n_validation": n_validation, "batch_size": batch_size}.items():
        positive_int(name, value)
    chosen = tuple(KINDS) if kinds is None else named_kinds(kinds)
    for count in (notes, fewer_notes):
        instructions(chosen, notes=count, n=n)  # refuses what is wrong before anything is written
    loaded = decoder_only(model)
    folder = writable_dir(out)
    settings = {"kinds": chosen, "notes": notes, "fewer_notes": fewer_notes, "n": n, "n_validation": n_validation}
    about = {**settings, **provenance(loaded)}
    with opened(NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor) as bench:
        setup = Setup(bench, chosen, notes, n, n_validation)
        tables = _tables(setup, (fewer_notes, notes) if fewer_notes != notes else (notes,))
    tables = of_model(tables, loaded, data_hash=setup.task().data_hash)
    return finished(NAME, folder, about, tables, draw=draw)


def _tables(setup: Setup, lengths: tuple[int, ...]) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    choice = parts.chosen(setup)
    summary = parts.main(setup, choice, lengths)
    parts.ready(setup)
    gate = parts.gated(setup, vector_maker(setup))
    ranking = heads(setup)
    task = setup.task()
    found = {
        "summary": summary,
        "choice": choice,
        "ablation": parts.ablation(setup),
        "rankings": parts.rankings(setup),
        "strengths": parts.strengths(setup),
        "sweeps": parts.sweeps(setup),
        "gate": gate["gate"],
        "trace": pd.concat([parts.traces(setup), gate["trace"]], ignore_index=True),
        "differences": pd.concat([parts.compared(setup, choice), gate["differences"]], ignore_index=True),
        "heads": ranking,
        "profiled": profiled(setup, ranking),
        "cost": cost(
            setup.model, task.prompts(setup.model)[:: max(1, setup.n)][:7], max_new_tokens=task.max_new_tokens
        ),
    }
    same = summary[summary["notes"] == setup.notes]
    name = model_info(setup.model).name
    found["differences"]["p_adjusted"] = parts.adjusted(found["differences"], "p_by_topic", ["measure"])
    found["samples"] = methods_side_by_side(setup, choice)
    found["published"] = beside(name, same, found["ablation"], found["gate"], found["cost"])
    return found
