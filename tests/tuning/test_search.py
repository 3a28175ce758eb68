"""Successive halving on curves that are known: no model, so that what is found can be compared with the truth."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechsteer.tuning.grids import Grid
from mechsteer.tuning.halves import blocks
from mechsteer.tuning.in_step import in_step
from mechsteer.tuning.ladders import FAMILIES, Candidate, Way
from mechsteer.tuning.search import BATCH, GATE_BATCH, Search, Tried
from mechsteer.tuning.side_effects import Effect, Side
from mechsteer.tuning.tables import best_table, curve_table
from mechsteer.tuning.trying import Asked, Runs

N, LONG = 40, 60
Curve = Callable[[float], tuple[float, float]]
"""Share that follows and share that has not collapsed, of a strength."""


class Prompts:
    """As much of a task as the search asks for."""

    samples = tuple(range(N))
    max_new_tokens = LONG


class Known(Runs):
    """Rows of prompts of which the easiest follow and the last collapse."""

    def __init__(self, curve: Curve) -> None:
        super().__init__(None, Prompts(), None, 16)
        self.curve, self.calls = curve, 0

    def rows(self, way: Way, stretch: tuple[int, int] | None = None, limit: int | None = None) -> pd.DataFrame:
        first, end = stretch or (0, N)
        self.calls += 1
        follow, sound = self.curve(way.steer.edits[0].strength if way.steer else 0.0)
        places = [(place * 17) % N for place in range(first, end)]  # easy and hard ones mixed
        whole = [place < sound * N for place in places]
        rows = {"followed": [float(p < follow * N) for p in places], "collapsed": [not w for w in whole]}
        table = pd.DataFrame(rows).assign(quality=[float(w) for w in whole], n_tokens=min(limit or LONG, LONG))
        return table.assign(adherence=table["followed"] * table["quality"])

    def many(self, asked: Sequence[Asked]) -> list[pd.DataFrame]:
        return [self.rows(*one) for one in asked]


class Harmless(Side):
    """Unrelated answers that stay as they are, but for ways in ``harmed``."""

    harmed: float = math.inf

    def __init__(self) -> None:
        pass

    def effect(self, way: Way) -> Effect:
        kept = 0.5 if way.steer is not None and way.steer.edits[0].strength >= self.harmed else 1.0
        return Effect(kept, kept)


def harmless() -> Side:
    return Harmless()


def hill(top: float, best: float, breaks: float) -> Curve:
    """Rises to ``top`` at ``best`` and falls; answers collapse from ``breaks`` on."""

    def curve(strength: float) -> tuple[float, float]:
        distance = abs(math.log2(max(strength, 0.01) / best))
        return (max(0.1, top - 0.15 * distance) if strength else 0.1), 1.0 if strength < breaks else 0.3

    return curve


def searched(curve: Curve, budget: float = 3.0, method: str = "guide") -> Search:
    runs = Known(curve)
    parts = [runs.rows(Way(), stretch) for stretch in blocks(N)]
    unsteered = Tried(Candidate("unsteered", 0.0), parts)
    grid = Grid(method, {}, lambda way: way.steer.edits[0].strength / 100 if way.steer else math.nan)
    search = Search(grid, runs, unsteered, 0.0, 0.9, round(budget * N * LONG))
    in_step(runs, {method: search})
    return search


@pytest.mark.parametrize("best", [0.5, 1.0, 2.0, 4.0])
def test_the_hill_is_climbed_for_a_part_of_the_grid(best: float) -> None:
    curve = hill(0.9, best, 8.0)
    search = searched(curve)
    found = search.best()
    assert found is not None and found.mean("adherence") >= 0.9 - 0.1
    assert search.spent <= search.budget and search.budget <= 0.26 * len(FAMILIES["guide"].ladder) * N * LONG


def test_what_collapses_at_once_is_dropped_before_it_answers() -> None:
    search = searched(hill(0.9, 1.0, 4.0))
    for one in search.tried:
        broken = one.candidate.strength >= 4.0
        assert (one.dropped == "wrong in its first tokens") == broken
        assert not (broken and one.parts)


def test_the_floor_of_quality_counts_before_adherence() -> None:
    def tempting(strength: float) -> tuple[float, float]:
        return min(1.0, 0.1 + 0.15 * strength), 1.0 if strength <= 1.5 else 0.7

    search = searched(tempting)
    found = search.best()
    assert found is not None and found.candidate.strength <= 1.5
    table, chosen = best_table({"guide": search}, search.unsteered, harmless())
    assert chosen is found and bool(table["above_floor"].all()) and table["chosen"].tolist() == [True]


def test_the_ladder_grows_until_the_best_is_inside() -> None:
    rising = searched(lambda s: (min(1.0, 0.05 * s), 1.0 if s < 20 else 0.2), budget=8.0)
    found = rising.best()
    assert found is not None and found.candidate.strength > FAMILIES["guide"].ladder[-1]
    table, _ = best_table({"guide": rising}, rising.unsteered, harmless())
    assert not table["edge"].any()


def test_at_the_end_of_the_budget_the_table_says_edge() -> None:
    search = searched(lambda s: (min(1.0, 0.05 * s), 1.0), budget=1.9)
    found = search.best()
    table, _ = best_table({"guide": search}, search.unsteered, harmless())
    stronger = [one for one in search.tried if found is not None and one.candidate.strength > found.candidate.strength]
    assert table["edge"].tolist() == [not stronger]


def test_nothing_is_chosen_where_nothing_beats_the_unsteered_model() -> None:
    search = searched(lambda s: (0.1, 1.0))
    table, chosen = best_table({"guide": search}, search.unsteered, harmless())
    assert chosen is None and len(table) == 1 and not table["chosen"].any()


def test_the_curve_has_every_candidate_and_its_tokens() -> None:
    search = searched(hill(0.8, 1.0, 4.0))
    table = curve_table({"guide": search}, search.unsteered)
    assert table["method"].tolist() == ["unsteered", *["guide"] * len(search.tried)]
    assert table["n_tokens"].iloc[1:].sum() == search.spent
    whole = table[(table["n"] == N) & (table["method"] == "guide")]
    assert set(table.loc[table["n"] < N, "dropped"]) <= set(table["dropped"]) - {""} and (whole["dropped"] == "").all()
    for row in whole.to_dict("records"):
        assert row["adherence_low"] <= row["adherence"] <= row["adherence_high"]


def test_a_prompt_is_answered_once_by_each() -> None:
    search = searched(hill(0.9, 2.0, 8.0))
    for one in search.tried:
        answered = [len(part) for part in one.parts]
        assert answered == [end - first for first, end in blocks(N)][: len(answered)]


class Noisy(Known):
    """Every answer is a matter of chance, of the prompt's as of its own."""

    def __init__(self, curve: Curve, world: int) -> None:
        super().__init__(curve)
        self.world = world

    def rows(self, way: Way, stretch: tuple[int, int] | None = None, limit: int | None = None) -> pd.DataFrame:
        first, end = stretch or (0, N)
        table = super().rows(way, stretch, limit)
        strength = way.steer.edits[0].strength if way.steer else 0.0
        easy = np.random.default_rng(self.world).random(N)
        own = np.random.default_rng([self.world, round(100 * strength)]).random(N)
        follows = (np.where(own < 0.3, own / 0.3, easy) < self.curve(strength)[0])[first:end].astype(float)
        return table.assign(followed=follows, adherence=follows * table["quality"])


def test_what_a_few_prompts_spoke_against_is_looked_at_again() -> None:
    """The best of the whole grid is found though the first prompts speak for others."""
    near, misled = 0, 0
    for world in range(5):
        runs = Noisy(hill(0.8, 2.0, 50.0), world)
        unsteered = Tried(Candidate("unsteered", 0.0), [runs.rows(Way(), stretch) for stretch in blocks(N)])
        grid = Grid("guide", {}, lambda way: way.steer.edits[0].strength / 100 if way.steer else math.nan)
        most = max(runs.rows(grid.way(point))["adherence"].mean() for point in grid.points())
        search = Search(grid, runs, unsteered, 0.0, 0.9, round(4.5 * N * LONG))
        in_step(runs, {"guide": search})
        found = search.best()
        assert found is not None and search.spent <= search.budget
        near += found.mean("adherence") >= most - 0.05
        ahead = [one for one in search.tried if one.parts and one.mean("adherence", 1) > found.mean("adherence", 1)]
        misled += bool(ahead)
    assert near >= 4 and misled >= 1


def test_the_budget_is_kept_where_nothing_tells_the_points_apart() -> None:
    """So that none of them is given up, and one of them must still answer all prompts."""
    for budget in (3.0, 5.0):
        search = searched(lambda strength: (0.5, 1.0), budget=budget)
        found = search.best()
        assert found is not None and search.spent <= search.budget


def test_below_the_floor_the_search_goes_to_what_is_above() -> None:
    """The best adherence lies where quality is just below the floor, on all prompts but not on the first ones."""

    def tempting(strength: float) -> tuple[float, float]:
        return min(0.9, 0.3 + 0.3 * strength), 1.0 if strength < 1.5 else 0.85

    search = searched(tempting, budget=4.0)
    found = search.best()
    assert found is not None and search.rank(found)[0] and found.candidate.strength >= 0.75


def test_two_searches_of_one_curve_are_the_same() -> None:
    first, second = searched(hill(0.9, 2.0, 8.0)), searched(hill(0.9, 2.0, 8.0))
    tables: list[Any] = [curve_table({"guide": one}, one.unsteered) for one in (first, second)]
    pd.testing.assert_frame_equal(*tables)


def test_searches_in_step_are_each_alone_in_fewer_calls() -> None:
    class Counted(Known):
        rounds = 0

        def many(self, asked: Sequence[Asked]) -> list[pd.DataFrame]:
            self.rounds += 1
            return super().many(asked)

    def made(methods: Sequence[str]) -> tuple[dict[str, Search], int]:
        runs = Counted(hill(0.9, 0.5, 8.0))
        unsteered = Tried(Candidate("unsteered", 0.0), [runs.rows(Way(), stretch) for stretch in blocks(N)])
        grids = {
            name: Grid(name, {}, lambda way: way.steer.edits[0].strength if way.steer else math.nan) for name in methods
        }
        found = {name: Search(grid, runs, unsteered, 0.0, 0.9, 4 * N * LONG) for name, grid in grids.items()}
        assert in_step(runs, found) == {}
        return found, runs.rounds

    names = ["guide", "spotlight"]
    (both, rounds), alone = made(names), [made([name]) for name in names]
    assert rounds == max(count for _, count in alone) < sum(count for _, count in alone)
    for name, (one, _) in zip(names, alone, strict=True):
        pd.testing.assert_frame_equal(
            *(curve_table({name: found[name]}, found[name].unsteered) for found in (both, one))
        )


@pytest.mark.parametrize(("method", "least"), [("guide", BATCH), ("directer", GATE_BATCH)])
def test_points_answer_together_until_a_batch_is_worth_it(method: str, least: int) -> None:
    runs = Known(hill(0.9, 2.0, 8.0))
    unsteered = Tried(Candidate("unsteered", 0.0), [runs.rows(Way(), stretch) for stretch in blocks(N)])
    search = Search(Grid(method, {}, lambda way: 0.1), runs, unsteered, 0.0, 0.9, 10**9)
    points = [Tried(point) for point in search.grid.points()]
    size = N // 8
    assert least <= size * len(search._together(points, points[0])) < least + size


def test_what_harms_unrelated_answers_is_not_chosen() -> None:
    search, other = searched(hill(0.9, 2.0, 8.0)), searched(hill(0.7, 0.5, 8.0))
    side = Harmless()
    found = search.best()
    assert found is not None
    side.harmed = found.candidate.strength
    table, chosen = best_table({"guide": search, "other": other}, search.unsteered, side)
    assert table["side_kept"].tolist() == [0.5, 1.0] and table["chosen"].tolist() == [False, True]
    assert chosen is other.best()
