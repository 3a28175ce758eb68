"""``tune``: from prompts with an instruction to a setting that was chosen fairly and tested honestly."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from mechsteer.decoding import generate
from mechsteer.decoding.divergence import PROMPTS, TOKENS, Probe, probe, said
from mechsteer.directions import Direction
from mechsteer.directions.contrast import differences_in_means
from mechsteer.errors import MechsteerError, finite
from mechsteer.evaluation import Task
from mechsteer.files import writable_dir
from mechsteer.identity import cell_key
from mechsteer.models import check_model, predicting_stack, taken_once
from mechsteer.steering import SinkWarning
from mechsteer.tuning.estimate import Estimate, Seen, estimate, points
from mechsteer.tuning.grids import Grid
from mechsteer.tuning.halves import blocks, halves
from mechsteer.tuning.held_out import held_out, worked_examples
from mechsteer.tuning.in_step import in_step
from mechsteer.tuning.ladders import DEFAULT, Candidate, Family, Way, families_of, layers_tried
from mechsteer.tuning.result import Tuning
from mechsteer.tuning.search import BEGINNINGS, Search, Tried
from mechsteer.tuning.shown import examples_table
from mechsteer.tuning.side_effects import Side, side_task
from mechsteer.tuning.tables import best_table, curve_table
from mechsteer.tuning.trying import FIRST_TOKENS, Asked, Runs, kept_number

BUDGET = 0.2
"""The part of the full grid's tokens that the search may generate."""

FLOOR = 0.9
"""The least quality, as a part of the unsteered model's."""


def tune(
    model: Any,
    task: Task,
    methods: str | Sequence[str] = DEFAULT,
    *,
    floor: float = FLOOR,
    out: str | os.PathLike[str] | None = None,
    validation: Task | None = None,
    side: Any = None,
    budget: float = BUDGET,
    score: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Tuning:
    """Find how to steer: methods, layers and strengths by successive halving, then one run on held-out prompts.

    Args:
        model: A loaded model.
        task: The task, e.g. :func:`mechsteer.task`. Half of its prompts are chosen on, the other half are reported on.
        methods: Names of :data:`mechsteer.tuning.ladders.FAMILIES`. Those that need what the prompts do not have (an
            instruction's span, a form without it) are left out, with the reason.
        floor: The least quality, as a part of the unsteered model's: the share of answers that have not collapsed (of
            tasks that measure ``fidelity``, its mean).
        out: A folder for what was computed, the tables, the page and the intervention. A tuning that was killed goes on
            there and ends with the same tables.
        validation: A task of other prompts to choose on; then all of ``task`` is reported on.
        side: A task, or prompts, that have nothing to do with the instruction, whose answers must stay as they are.
            Default: 16 bundled questions of general knowledge.
        budget: How many tokens the search may generate, as a part of what all points of all ladders would take on all
            validation prompts. Every method has an equal share.
        score: The column that says how well a prompt was followed. Default: as :func:`mechsteer.compare` chooses.
        seed: Decides the halves and the order in which prompts are looked at.
        batch_size: Prompts computed together; does not change the results.
        progress: Say what it will take, and show bars.

    Returns:
        The tables, figures and findings, and the intervention.

    Raises:
        MechsteerError: for an unknown method, a floor or a budget that is none, too few prompts, a task that generates
            nothing, or methods of which none can be used.

    Example:
        >>> task = ms.task("mine.jsonl", check="sentences:1")  # doctest: +SKIP
        >>> found = ms.tune(model, task, methods=("guide", "directer", "vector"), out="results/mine")  # doctest: +SKIP
        >>> found.intervention.save("mine.safetensors")  # doctest: +SKIP
    """
    check_model(model)
    families = families_of(methods)
    if not 0 <= finite("floor", floor) <= 1:
        raise MechsteerError(f"floor must be from 0 to 1, a part of the unsteered model's quality, got {floor}.")
    if not 0 < finite("budget", budget) <= 1:
        raise MechsteerError(f"budget must be above 0 and at most 1, a part of the full grid, got {budget}.")
    choosing, reporting = halves(task, validation, seed)
    aside = side_task(side)
    folder = None if out is None else writable_dir(out)
    answers = budget * points(model, families) / len(families)
    said = estimate(model, choosing, reporting, aside, families, answers, batch_size) if progress else None
    if said is not None:
        print(said)
    # Dozens of settings are tried, most of which are not taken: what is taken says it again where it is used.
    with (
        taken_once(),
        warnings.catch_warnings(action="ignore", category=SinkWarning),
        tqdm(desc="tuning", unit="token", disable=not progress) as bar,
    ):
        runs = Runs(model, choosing, folder, batch_size, score, bar)
        study = _Study(runs, floor, answers)
        if said is not None:
            _expected(said.after(study.seen), study.tokens / len(choosing.samples), bar)
        unrelated = Side(Runs(model, aside, folder, batch_size, None, bar))  # which may fail: before the search
        study.search(families)
        found = study.result(Runs(model, reporting, folder, batch_size, score, bar), unrelated)
    if folder is not None:
        found.save(folder)
    return found


def _expected(said: Estimate, length: float, bar: "tqdm[Any]") -> None:
    """Say once more what it will take, now that it is known how long answers are."""
    bar.write(said.of_length(length))
    bar.total = round(said.answers * length)
    bar.refresh()


class _Study:
    """One tuning while it runs."""

    def __init__(self, runs: Runs, floor: float, answers: float) -> None:
        self.runs = runs
        asked = [Asked(Way(), stretch) for stretch in blocks(len(runs.task.samples))]
        began = time.perf_counter()
        self.unsteered = Tried(Candidate("unsteered", 0.0), runs.many(asked))
        took = time.perf_counter() - began
        self.beginnings = float(runs.rows(Way(), BEGINNINGS, FIRST_TOKENS)["collapsed"].mean())
        self.tokens = int(sum(self.unsteered.values("n_tokens")))
        self.floor = floor
        self.budget = round(answers * self.tokens)
        self.prompts = runs.task.prompts(runs.model)[:PROMPTS]
        self.probe, *probed = self._probe()
        self.seen = Seen(took / max(1, self.tokens), *probed)
        self.searches: dict[str, Search] = {}
        self.left_out: dict[str, str] = {}
        self.directions: dict[int, Direction] | None = None

    def _probe(self) -> tuple[Probe, float, float]:
        """What candidates are compared with; the seconds that its reading and its writing took."""
        began = time.perf_counter()
        out = generate(self.runs.model, self.prompts, max_new_tokens=TOKENS, batch_size=PROMPTS)
        ids = said(out)
        written = time.perf_counter()
        made = probe(self.runs.model, self.prompts, ids)
        return made, time.perf_counter() - written, written - began

    def search(self, families: Mapping[str, Family]) -> None:
        """Search all methods, or say of each why it cannot be used."""
        failed: dict[str, str] = {}
        begun: dict[str, Search] = {}
        for name, family in families.items():
            try:
                directions = self._directions() if family.kind == "vector" else {}
            except MechsteerError as error:
                failed[name] = str(error)
                continue
            grid = Grid(name, directions, self._moved)
            begun[name] = Search(grid, self.runs, self.unsteered, self.beginnings, self.floor, self.budget)
        failed |= in_step(self.runs, begun)
        self.searches = {name: search for name, search in begun.items() if name not in failed}
        self.left_out = {name: failed[name] for name in families if name in failed}

    def _directions(self) -> dict[int, Direction]:
        """Differences in means of the validation prompts with and without their instruction."""
        if self.directions is None:
            task, model = self.runs.task, self.runs.model
            if "with_instruction" not in signature(task.prompts).parameters:
                raise MechsteerError(f"The prompts of {task.name!r} have no form without their instruction.")
            pairs = list(zip(task.prompts(model), task.prompts(model, with_instruction=False), strict=True))
            self.directions = differences_in_means(model, pairs, layers=layers_tried(predicting_stack(model)[1]))
        return self.directions

    def _moved(self, way: Way) -> float:
        key = partial(cell_key, self.runs.model, [self.prompts, self.probe.answers], *way, "divergence")
        return kept_number(self.runs.out, key, lambda: self.probe.divergence(way))

    def result(self, reporting: Runs, side: Side) -> Tuning:
        """Choose, and run once on the held-out prompts."""
        if not self.searches:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise MechsteerError(f"None of the methods can be used. {reasons}")
        curve = curve_table(self.searches, self.unsteered)
        best, chosen = best_table(self.searches, self.unsteered, side)
        way = Way() if chosen is None else self.searches[chosen.candidate.method].grid.way(chosen.candidate)
        answered = [self.unsteered, *([] if chosen is None else [chosen])]
        tables = [pd.concat(one.parts, ignore_index=True) for one in answered]
        examples = worked_examples(self.runs.task, tables)
        found = held_out(reporting, None if chosen is None else (chosen.candidate.name, way), examples)
        return Tuning(
            curve=curve,
            best=best,
            test=found.summary,
            rows=found.rows,
            way=way,
            tokens={name: search.spent for name, search in self.searches.items()},
            left_out={**self.left_out, **found.left_out},
            examples=examples_table(self.searches, self.unsteered),
            side_right=side.right,
            grid_tokens=self.tokens * sum(search.grid.size for search in self.searches.values()),
        )
