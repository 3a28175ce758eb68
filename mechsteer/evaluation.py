"""``evaluate``: one row a sample, with everything needed to make it again."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mechsteer.decoding import Greedy, Strategy
from mechsteer.decoding.loop import MAX_BATCH_TOKENS
from mechsteer.decoding.processors import processors
from mechsteer.decoding.strategies import as_strategy
from mechsteer.errors import MechsteerError, file_as_task, shown
from mechsteer.evaluation_run import RECORD, Run, measured
from mechsteer.files import as_path, write_record, write_table
from mechsteer.models import check_model, provenance
from mechsteer.quality.columns import changed_column, collapse_columns
from mechsteer.steering import Intervention, as_intervention

if TYPE_CHECKING:
    import pandas as pd


@runtime_checkable
class Task(Protocol):
    """What a task must have."""

    @property
    def name(self) -> str:
        """Its name in result tables."""
        ...

    @property
    def samples(self) -> Sequence[Any]:
        """What is scored."""
        ...

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        ...

    def run(
        self,
        model: Any,
        *,
        steer: Intervention | None,
        strategy: Strategy | None,
        batch_size: int,
        progress: bool,
        **options: Any,
    ) -> "pd.DataFrame":
        """Score every sample; one row each. ``options`` are further arguments of ``generate``, where they are given."""
        ...


def evaluate(
    model: Any,
    task: Task,
    *,
    steer: Intervention | None = None,
    strategy: Strategy | None = None,
    batch_size: int = 64,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    generation_config: bool = True,
    progress: bool = False,
    out: str | os.PathLike[str] | None = None,
    quality: bool = False,
    against: "pd.DataFrame | Sequence[str] | None" = None,
) -> "pd.DataFrame":
    """Run a task under an intervention and a decoding strategy.

    Args:
        model: A loaded model.
        task: E.g. ``ms.tasks.memotrap()``.
        steer: An intervention; None for the unsteered model.
        strategy: Any that :func:`mechsteer.generate` takes; ``Greedy()`` by default.
        batch_size: Prompts computed together; does not change the result.
        max_batch_tokens: The most positions computed together where tokens are generated; bounds the memory, and does
            not change the result either.
        generation_config: Apply the checkpoint's ``generation_config.json`` where tokens are generated (see
            :func:`mechsteer.generate`); log-probabilities of given texts are always the model's own.
        progress: Show a bar.
        out: A folder. Rows are written there as they come, ``batch_size`` samples at a time, and a run that was killed
            goes on from them and gives the same table, ``rows.parquet`` and ``rows.csv``. An edit of some rows alone,
            or a task whose limit depends on all samples, is one part.
        quality: Measure ``surprise`` too, by one more pass of the unsteered model, and mark rows that collapsed.
        against: Rows of the same task, or its outputs, to compare with; usually the unsteered model's.

    Returns:
        One row a sample. First task, method, site, scope, strength, strategy and seed (of several edits, method, site
        and scope are joined by `` + `` and there is no one strength); then the task's own columns (prompt, output,
        scores); then data_hash, generation_config (what of it was applied, as JSON), the model's name, family,
        revision, fingerprint and dtype, and package versions; then, of tasks that generate, n_tokens, truncated, empty,
        repetition, compressibility, copied, with ``against`` changed, and with ``quality`` surprise, surprise_p95 and
        surprise_excess (nats), collapsed and collapse_reason: see :mod:`mechsteer.quality.columns`.

    Raises:
        MechsteerError: for what is not a task or has no samples, an intervention that does not fit or never fired, a
            folder that cannot be written to, or ``against`` of other prompts.

    Example:
        >>> rows = ms.evaluate(model, task, steer=ms.attention_bias(delta=1.0), quality=True)
        >>> rows[["adherence", "collapsed"]].mean()
    """
    run = Run(model, task, steer, strategy, batch_size, quality, progress, generation_config, max_batch_tokens)
    return timed(run, out, against)[0]


def timed(
    run: Run,
    out: str | os.PathLike[str] | None = None,
    against: "pd.DataFrame | Sequence[str] | None" = None,
) -> "tuple[pd.DataFrame, float]":
    """The table of :func:`evaluate`, and the seconds that the task took, without the measures of quality."""
    model, task, steer, strategy = run.model, run.task, run.steer, run.strategy
    check_model(model)
    if not isinstance(task, Task):
        raise MechsteerError(f"task must be a task, e.g. ms.tasks.memotrap(), got {shown(task)}.{file_as_task(task)}")
    if not task.samples:
        raise MechsteerError(f"The task {task.name!r} has no samples.")
    as_strategy(strategy)
    applied = processors(model, strategy, 1, use=run.generation_config)
    as_intervention(steer)
    folder = None if out is None else as_path(out)
    table, extra, seconds = measured(run, folder)
    leading = {"task": task.name, **describe(steer), "strategy": repr(strategy or Greedy())}
    leading["seed"] = getattr(strategy, "seed", None)
    more = {name: table[name] for name in extra}
    table = table.drop(columns=extra)
    for place, (name, value) in enumerate(leading.items()):
        table.insert(place, name, value)
    settings = json.dumps({} if applied is None else applied.settings)
    table = table.assign(
        data_hash=task.data_hash,
        generation_config=settings,
        **provenance(model),
        **{name: more[name] for name in extra},
    )
    if run.quality and "output" in table:
        table = table.assign(**collapse_columns(table))
    if against is not None:
        table = table.assign(changed=changed_column(table, against))
    if folder is not None:
        write_table(table, folder / "rows")
        write_record(folder / RECORD, {"key": run.key(), "complete": True, "rows": len(table)})
    return table, seconds


def describe(steer: Intervention | None) -> dict[str, Any]:
    """The columns method, site, scope and strength of an intervention."""
    edits = steer.edits if steer is not None else ()
    if not edits:
        return {"method": "unsteered", "site": "", "scope": "", "strength": 0.0}
    return {
        "method": " + ".join(e.method for e in edits),
        "site": " + ".join(str(e.site) for e in edits),
        "scope": " + ".join(str(e.scope) for e in edits),
        "strength": edits[0].strength if len(edits) == 1 else float("nan"),
    }
