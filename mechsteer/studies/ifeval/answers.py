"""What studies of IFEval share: prompts that say where their instruction stands, and answers kept as they come."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Strategy
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import timed
from mechsteer.evaluation_run import Run
from mechsteer.models import is_encoder_decoder, taken_once
from mechsteer.steering import Intervention
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.ifeval.methods import marked
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import IFEval, ifeval
from mechsteer.tasks.ifeval import require_checkers
from mechsteer.tasks.ifeval.file import selected

if TYPE_CHECKING:
    import pandas as pd


def one_process(executor: Executor | None) -> None:
    """Refuse workers.

    Raises:
        MechsteerError: for an executor.
    """
    if executor is not None:
        raise MechsteerError("Studies of IFEval run in one process, which can be stopped and goes on: no workers.")


def prompts_of(
    data: str | os.PathLike[str] | IFEval | None, n: int | None, kinds: str | Sequence[str] | None
) -> IFEval:
    """The prompts, which all say where their instruction stands.

    Raises:
        MechsteerError: without data or the checkers, or for a prompt that does not say it.
    """
    if data is None:
        raise MechsteerError(
            "This study needs IFEval's prompts: data=..., a JSONL file with 'prompt_without_instruction' in its lines."
        )
    require_checkers()
    task = selected(data, n, kinds) if isinstance(data, IFEval) else ifeval(data, n=n, kinds=kinds)
    lost = [sample.key for sample in task.samples if sample.asked is None]
    if lost:
        raise MechsteerError(
            f"{len(lost)} of {len(task.samples)} prompts do not say where their instruction is, e.g. key {lost[0]}; "
            "their lines need 'prompt_without_instruction', 'instruction', or tags around it in the prompt."
        )
    return task


def fitting(model: Any, task: IFEval) -> IFEval:
    """The prompts that leave room for their answers."""
    if is_encoder_decoder(model):
        return task
    room = model.cfg.n_ctx - task.max_new_tokens
    lengths = [max(len(p), len(q)) for p, q in zip(task.prompts(model), marked(task).prompts(model), strict=True)]
    kept = tuple(s for s, length in zip(task.samples, lengths, strict=True) if length <= room)
    if not kept:
        raise MechsteerError(
            f"None of {len(lengths)} prompts fits this model's context of {model.cfg.n_ctx} tokens with "
            f"max_new_tokens={task.max_new_tokens}; the shortest has {min(lengths)}."
        )
    return replace(task, samples=kept)


def answers(
    bench: Bench, task: IFEval, steer: Intervention | None = None, strategy: Strategy | None = None
) -> "tuple[pd.DataFrame, float]":
    """The rows of a task with quality, and the seconds that they took; a killed run goes on in the middle of them."""
    run = Run(bench.model, task, steer, strategy, bench.batch_size, quality=True)
    with taken_once():
        found = timed(run, bench.folder / "answers" / run.key())
    bench.bar.update(len(task.samples))
    return found
