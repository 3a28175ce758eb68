"""How near ``tune`` comes to the winner of its full grid on ``instruct-llama``, and for how many of its tokens.

Run: ``.venv/bin/python -m benchmarks.tuning --out FOLDER``. Every point of every ladder answers all prompts once, which
takes more than an hour on one core (``--n`` and ``--methods`` for a part) and is kept in the folder. Then, for each
seed, the prompts are halved, the search is run on one half with its answers read from the folder, and what it found is
compared on the other half with the setting that does best of the full grid on the first half. Vectors are made of all
prompts, for all seeds the same. Beside it stands the best setting that was chosen by hand: of the strengths of
``mechsteer reproduce steering`` the one that does best on the other half itself, at no less quality than
what was tuned has there.

Exit code 1 if the mean difference on the other half is more than 2 points.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from tqdm import tqdm

import mechsteer as ms
from mechsteer.decoding import generate
from mechsteer.decoding.divergence import PROMPTS, TOKENS, Probe, probe
from mechsteer.directions import Direction
from mechsteer.directions.contrast import differences_in_means
from mechsteer.identity import cell_key
from mechsteer.models import predicting_stack, taken_once
from mechsteer.report import show
from mechsteer.stats import mean_interval
from mechsteer.studies.families.study import ATTENTION
from mechsteer.tasks import instructions
from mechsteer.tuning.grids import Grid
from mechsteer.tuning.halves import blocks, halves
from mechsteer.tuning.in_step import in_step
from mechsteer.tuning.ladders import DEFAULT, FAMILIES, Candidate, Way, families_of, layers_tried
from mechsteer.tuning.search import BEGINNINGS, Search, Tried
from mechsteer.tuning.trying import FIRST_TOKENS, Asked, Runs, kept_number
from mechsteer.tuning.tune_run import BUDGET, FLOOR

NEAR = 2.0
"""Points."""

HAND = {"attention_bias": "guide", "pasta": "pasta", "spotlight": "spotlight", "scale_keys": "scale_keys"}
"""Methods of the study whose settings were chosen by hand, by their names there."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    out: Path
    """Where answers are kept."""
    seeds: int = 10
    """How often the prompts are halved."""
    kinds: tuple[str, ...] = ()
    """Kinds of instructions. Default: all."""
    notes: int = 24
    """Notes between instruction and question."""
    n: int | None = None
    """The most prompts of each kind."""
    methods: tuple[str, ...] = DEFAULT
    """The methods."""
    budget: float = BUDGET
    """The part of the grid's tokens that the search may generate."""


class Remembered(Runs):
    """Evaluations of some of the prompts, whose answers are those of all prompts, computed once."""

    def __init__(self, every: Runs, task: Any) -> None:
        super().__init__(every.model, task, every.out, every.batch_size)
        places = {id(sample): place for place, sample in enumerate(every.task.samples)}
        self.every, self.order = every, [places[id(sample)] for sample in task.samples]

    def many(self, asked: Sequence[Asked]) -> list[pd.DataFrame]:
        """The rows of each way, read from those of all prompts."""
        return [
            answered(self.every, one.way, one.limit).iloc[self.order[slice(*one.stretch or (0, None))]] for one in asked
        ]


_READ: dict[str, pd.DataFrame] = {}


def answered(every: Runs, way: Way, limit: int | None = None) -> pd.DataFrame:
    """The rows of all prompts, in memory once they were read."""
    key = cell_key(every.model, "way", way.steer, way.strategy, {"limit": limit, "task": every.task.data_hash})
    if key not in _READ:
        columns = ["n_tokens", "collapsed", "followed", "adherence", "quality"]
        _READ[key] = Runs.many(every, [Asked(way, None, limit)])[0][columns]
    return _READ[key]


def measured(every: Runs) -> tuple[Callable[[Way], float], dict[int, Direction]]:
    """The divergence of a way, and the directions, both from prompts of all seeds."""
    model, prompts = every.model, every.task.prompts(every.model)
    out = generate(model, prompts[:PROMPTS], max_new_tokens=TOKENS, batch_size=PROMPTS)
    ids = [row[:length].tolist() for row, length in zip(out.tokens, out.lengths, strict=True)]
    found: Probe = probe(model, prompts[:PROMPTS], ids)
    pairs = list(zip(prompts, every.task.prompts(model, with_instruction=False), strict=True))
    directions = differences_in_means(model, pairs, layers=layers_tried(predicting_stack(model)[1]))
    moved: dict[str, float] = {}

    def divergence(way: Way) -> float:
        key = cell_key(model, "divergence", way.steer, way.strategy, every.task.data_hash)
        if key not in moved:
            moved[key] = kept_number(every.out, lambda: key, lambda: found.divergence(way))
        return moved[key]

    return divergence, directions


def searched(every: Runs, half: Any, grids: Mapping[str, Grid], budget: float) -> tuple[list[Search], Tried]:
    """The searches of all methods on one half, and the unsteered model there."""
    runs, stretches = Remembered(every, half), blocks(len(half.samples))
    unsteered = Tried(Candidate("unsteered", 0.0), [runs.rows(Way(), stretch) for stretch in stretches])
    beginnings = float(runs.rows(Way(), BEGINNINGS, FIRST_TOKENS)["collapsed"].mean())
    size = sum(grid.size for grid in grids.values())
    each = round(budget * size / len(grids) * sum(unsteered.values("n_tokens")))
    found = []
    for name, grid in grids.items():
        fresh = Grid(name, grid.directions, grid.measure)
        found.append(Search(fresh, runs, unsteered, beginnings, FLOOR, each))
    in_step(runs, dict(zip(grids, found, strict=True)))
    return found, unsteered


def seed_row(every: Runs, grids: Mapping[str, Grid], seed: int, budget: float) -> dict[str, Any]:
    """One seed: what was found and the grid's winner, on both halves."""
    choosing, reporting = halves(every.task, None, seed)
    searches, unsteered = searched(every, choosing, grids, budget)
    pairs = [(search, best) for search in searches if (best := search.best()) is not None]
    search, found = max(pairs, key=lambda pair: pair[0].rank(pair[1]))
    whole = [
        (one, Tried(point, [rows.rows(grid.way(point), stretch) for stretch in one.blocks]))
        for one, (name, grid) in zip(searches, grids.items(), strict=True)
        for rows in [one.runs]
        for point in grid.points()
    ]
    owner, winner = max(whole, key=lambda pair: pair[0].rank(pair[1]))
    test = Remembered(every, reporting)

    def there(one: Search, tried: Tried) -> float:
        return 100 * float(test.rows(one.grid.way(tried.candidate))["adherence"].mean())

    ways = {"tuned": (search, found), "winner": (owner, winner)}
    row: dict[str, Any] = {"seed": seed, "n": len(choosing.samples)}
    for name, (one, tried) in ways.items():
        row |= {name: tried.candidate.name, f"{name}_validation": 100 * tried.mean("adherence")}
        row |= {f"{name}_test": there(one, tried)}
    row |= by_hand(test, grids, found_there(test, search, found))
    row["most_test"] = max(there(one, tried) for one, tried in whole)
    spent = sum(one.spent for one in searches)
    written = sum(sum(tried.values("n_tokens")) for _, tried in whole)
    row["tokens"] = 100 * spent / (sum(unsteered.values("n_tokens")) * sum(grid.size for grid in grids.values()))
    row["tokens_of_grid"] = 100 * spent / written
    row |= {f"behind_{part}": row[f"winner_{part}"] - row[f"tuned_{part}"] for part in ("validation", "test")}
    return row


def found_there(test: Runs, search: Search, found: Tried) -> pd.DataFrame:
    """The rows of what was found, on the other half."""
    return test.rows(search.grid.way(found.candidate))


def by_hand(test: Runs, grids: Mapping[str, Grid], tuned: pd.DataFrame) -> dict[str, Any]:
    """The best hand-chosen setting of no less quality there, and whether what was tuned is as good, in its interval."""
    least = tuned["quality"].mean() - 1e-9
    settings = [(HAND[name], s) for name, (_, strengths) in ATTENTION.items() for s in strengths[1:]]
    tried = {
        Candidate(name, s): test.rows(Candidate(name, s).way({}))
        for name, s in settings
        if name in grids and s in FAMILIES[name].ladder
    }
    allowed = [one for one in tried if tried[one]["quality"].mean() >= least]
    row: dict[str, Any] = {"hand": "none", "hand_test": float("nan"), "hand_quality": float("nan"), "as_good": True}
    row["tuned_quality"] = tuned["quality"].mean()
    if allowed:
        best = max(allowed, key=lambda one: tried[one]["adherence"].mean())
        reached = 100 * tried[best]["adherence"].mean()
        row |= {"hand": best.name, "hand_test": reached, "hand_quality": tried[best]["quality"].mean()}
        row["as_good"] = 100 * mean_interval(tuned["adherence"]).high >= reached
    return row


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    model = ms.load("organism:instruct-llama")
    task = instructions(options.kinds or None, notes=options.notes, n=options.n)
    more = instructions(options.kinds or None, notes=options.notes, n=options.n, split="validation")
    every = Runs(model, dataclasses.replace(task, samples=task.samples + more.samples), options.out, 64)
    with taken_once():
        divergence, directions = measured(every)
        families = families_of(options.methods)
        grids = {n: Grid(n, directions if f.kind == "vector" else {}, divergence) for n, f in families.items()}
        points = [(grid, point) for grid in grids.values() for point in grid.points()]
        for grid, point in tqdm(points, desc="grid"):
            answered(every, grid.way(point))
        rows = [seed_row(every, grids, seed, options.budget) for seed in tqdm(range(options.seeds), desc="seeds")]
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "tuning.csv", index=False, float_format="%.4g")
    print(show(table))
    behind = table["behind_test"]
    print(
        f"\nOn the other half the tuned setting is {behind.mean():.1f} points behind the winner of the full grid "
        f"(median {behind.median():.1f}), at most {NEAR:g} in {(behind <= NEAR).sum()} of {len(table)} seeds; it took "
        f"{table['tokens'].mean():.0f} % of its tokens. It is as good as the best setting chosen by hand, on that "
        f"half itself, within its 95 % interval in {table['as_good'].sum()} of {len(table)} seeds: "
        f"{table['tuned_test'].mean():.1f} % against {table['hand_test'].mean():.1f} %, at a quality of "
        f"{table['tuned_quality'].mean():.2f} and {table['hand_quality'].mean():.2f}."
    )
    sys.exit(int(behind.mean() > NEAR))


if __name__ == "__main__":
    main(tyro.cli(Options))
