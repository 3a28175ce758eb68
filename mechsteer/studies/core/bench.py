"""The bench of a study: its model, its folder, and what is measured once and kept there.

A study is a recipe that asks for cells one after another. With an executor of :mod:`mechsteer.studies.sweep.executors`,
it names many of them first (:meth:`Bench.prefetch`): those that are missing are computed by workers, each with a model
of its own, and the recipe then finds them. What it finds is the same either way, because a cell depends on its key
alone.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.decoding import Strategy
from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import Task
from mechsteer.identity import cell_key
from mechsteer.models import is_encoder_decoder, load, model_device, model_info, taken_once
from mechsteer.steering import Intervention, add
from mechsteer.studies.core import cells
from mechsteer.studies.sweep.executors import Executor, Failure, Job, Work, kept

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Wanted:
    """A cell that a recipe is going to ask for.

    Attributes:
        task: The task.
        steer: The intervention, or None.
        strategy: The strategy; None for greedy decoding.
        rows: What makes the rows; default: :func:`mechsteer.evaluate`.
    """

    task: Any
    steer: Intervention | None = None
    strategy: Strategy | None = None
    rows: "Callable[..., pd.DataFrame] | None" = None


@dataclass
class Bench:
    """What every cell needs.

    Attributes:
        model: The model.
        folder: The study's folder: cells lie in ``cells``, directions in ``directions``.
        batch_size: Prompts computed together.
        bar: A progress bar, which moves with every cell.
        executor: Computes the cells that are named before they are needed; None for one after another.
    """

    model: Any
    folder: Path
    batch_size: int
    bar: Any
    executor: Executor | None = None

    def evaluate(
        self, task: Task, steer: Intervention | None = None, strategy: Strategy | None = None
    ) -> "pd.DataFrame":
        """The sample rows of a task under an intervention and a strategy: see :func:`mechsteer.evaluate`."""
        return self.rows(Wanted(task, steer, strategy))

    def rows(self, wanted: Wanted) -> "pd.DataFrame":
        """The rows of a cell, computed once."""
        table = self.known(wanted)
        self.bar.update()
        return table

    def known(self, wanted: Wanted) -> "pd.DataFrame":
        """The rows of a cell that was counted before: the bar stays where it is."""
        with taken_once():
            return cells.cell(self.folder, self._key(wanted), lambda: _compute(wanted, self.model, self.batch_size))

    def cell(
        self, compute: "Callable[[], pd.DataFrame]", task: Any, options: Any, *, model: bool = True
    ) -> "pd.DataFrame":
        """Any other table, computed once: it must depend on the model (unless not), the task and the options alone."""
        return cells.cell(self.folder, cell_key(self.model if model else None, task, options=options), compute)

    def directions(
        self,
        name: str,
        layers: Sequence[int],
        about: Any,
        make: Callable[[Sequence[int]], Mapping[int, Direction]],
    ) -> dict[int, Direction]:
        """Directions by layer, read from ``directions/`` where they were made before from the same.

        Args:
            name: What their file's name begins with.
            layers: The layers.
            about: All that they are made of, beside the model.
            make: Makes them. A damaged file is made again.
        """
        key = cell_key(self.model, options={"layers": list(layers), "about": about})
        path = self.folder / "directions" / f"{name}-{key}.safetensors"
        if path.exists():
            with suppress(MechsteerError):
                if len(layers) == 1:
                    return {layers[0]: Direction.load(path)}
                found = [edit.direction for edit in Intervention.load(path).edits]
                return {layer: d for layer, d in zip(layers, found, strict=True) if d is not None}
        made = dict(make(layers))
        if len(layers) == 1:  # a file for `mechsteer generate --direction`
            made[layers[0]].save(path)
        else:
            sum((add(made[layer]) for layer in layers), start=Intervention()).save(path)
        return made

    def prefetch(self, wanted: Iterable[Wanted]) -> None:
        """Compute in workers what is missing of some cells; nothing where there is no executor.

        Raises:
            MechsteerError: if a worker cannot compute one, or loads another model than this one.
        """
        if self.executor is None:
            return
        info, jobs = model_info(self.model), {}
        with taken_once():
            for one in wanted:
                key = self._key(one)
                if not cells.path_of(self.folder, key).exists() and _can_be_sent(one):
                    jobs[key] = Job(key, {"model": info.name, "dtype": info.dtype, "key": key, "wanted": one})
        if not jobs:
            return
        work = Work(compute_cell, device=str(model_device(self.model)), options={"batch_size": self.batch_size})
        with closing(self.executor.run(work, list(jobs.values()))) as outcomes:  # type: ignore[type-var]  # a generator
            for count, done in enumerate(outcomes, start=1):
                if isinstance(done.result, Failure):
                    raise MechsteerError(f"A worker could not compute a cell: {done.result.error}")
                cells.write(self.folder, done.id, done.result)
                self.bar.set_postfix_str(f"{count} of {len(jobs)} cells by workers")

    def _key(self, wanted: Wanted) -> str:
        return _key(wanted, self.model)


def _can_be_sent(wanted: Wanted) -> bool:
    """Whether it can go to a worker: SAELens's SAEs, for one, hold functions that cannot; the recipe computes these."""
    try:
        pickle.dumps(wanted)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def compute_cell(job: Mapping[str, Any], model: Any, *, batch_size: int) -> "pd.DataFrame":
    """A cell, in a worker.

    Raises:
        MechsteerError: if the worker's model is another one than the study's, which was changed after it was loaded.
    """
    if _key(job["wanted"], model) != job["key"]:
        raise MechsteerError(
            f"what loads as {job['model']!r} is not the model that the study runs on; run it without workers."
        )
    return _compute(job["wanted"], model, batch_size)


def _key(wanted: Wanted, model: Any) -> str:
    options = None if wanted.rows is None else f"{wanted.rows.__module__}:{wanted.rows.__qualname__}"
    return cell_key(model, wanted.task, wanted.steer, wanted.strategy, options)


def _compute(wanted: Wanted, model: Any, batch_size: int) -> "pd.DataFrame":
    rows = cells.evaluate if wanted.rows is None else wanted.rows
    return rows(model, wanted.task, steer=wanted.steer, strategy=wanted.strategy, batch_size=batch_size)


@contextmanager
def opened(
    name: str,
    model: Any,
    folder: Path,
    *,
    batch_size: int,
    progress: bool,
    executor: Executor | None = None,
    total: int | None = None,
) -> Iterator[Bench]:
    """A study's bench, with its bar. A study writes to no weights, so they are hashed once.

    Args:
        name: The study's name.
        model: The model.
        folder: The study's folder.
        batch_size: Prompts computed together.
        progress: Show the bar.
        executor: Computes cells that are named before they are needed, with the same workers all the time.
        total: How many cells there are, if that is known.
    """
    with (
        taken_once(),
        tqdm(desc=name, unit="cell", total=total, disable=not progress) as bar,
        kept(executor) as workers,
    ):
        yield Bench(model, folder, batch_size, bar, workers)


def decoder_only(model: Any) -> Any:
    """The model, loaded if it is a name.

    Raises:
        MechsteerError: for an encoder-decoder.
    """
    loaded = load(model) if isinstance(model, str) else model
    if is_encoder_decoder(loaded):
        raise MechsteerError(
            f"This study is for decoder-only models; {model_info(loaded).name!r} is an encoder-decoder."
        )
    return loaded
