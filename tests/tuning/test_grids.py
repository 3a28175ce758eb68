"""Points of a method: which come first, which are neighbours, and when the best is at the edge."""

import math
from collections.abc import Callable

import pytest
import torch

from mechsteer.directions import Direction
from mechsteer.tuning.grids import Grid
from mechsteer.tuning.ladders import FAMILIES, Way, layers_tried


def strength(way: Way) -> float:
    assert way.steer is not None
    return way.steer.edits[0].strength


def guide(measure: Callable[[Way], float] = strength) -> Grid:
    return Grid("guide", {}, measure)


def vectors() -> Grid:
    directions = {
        layer: Direction(torch.ones(4), f"blocks.{layer}.hook_resid_post", "mine", 1.0, 2.0) for layer in (0, 1, 2)
    }
    return Grid("vector", directions, strength)


def test_the_first_points_are_spread_over_the_divergence() -> None:
    grid = guide()
    ladder = grid.ladder
    found = [point.strength for point in grid.first(3)]
    assert found[0] == ladder[0] and found[-1] == ladder[-1] and found[1] in ladder[4:8]
    assert len(grid.first(100)) == len(ladder)


def test_points_that_move_nothing_are_left_out() -> None:
    still = guide(lambda way: 0.0 if strength(way) < 2 else strength(way))
    assert min(point.strength for point in still.points()) >= 2
    assert guide(lambda way: 0.0).first(4) == []


def test_gates_are_spread_over_the_ladder() -> None:
    grid = Grid("directer", {}, lambda way: pytest.fail("asked"))
    assert len({point.strength for point in grid.first(4)}) == 4


def test_the_first_points_of_vectors_are_spread_over_layers_too() -> None:
    found = vectors().first(5)
    assert {point.layer for point in found} == {0, 1, 2}


def test_vectors_are_in_shares_of_the_norm() -> None:
    grid = vectors()
    for point in grid.points():
        assert strength(grid.way(point)) == point.strength * 2.0
    d = grid.directions[1]
    moved = FAMILIES["project"].make(0.1, d).steer.edits[0]
    assert math.isclose(moved.strength, d.mean_projection - d.norm + 0.1 * d.activation_norm)


def test_the_ladder_grows_at_its_strong_end_alone() -> None:
    grid = guide()
    length, last = len(grid.ladder), grid.at(-1, -1)
    assert not grid.grow(grid.at(length - 2, -1)) and len(grid.ladder) == length
    assert grid.grow(last) and grid.ladder[-1] == 1.5 * last.strength
    assert not grid.grow(last), "it is the end no more"
    assert grid.size == len(FAMILIES["guide"].ladder)  # what is compared with stays the grid as it was


def test_a_ladder_that_has_no_stronger_one_stays() -> None:
    grid = Grid("spotlight", {}, strength)
    while grid.grow(grid.at(-1, -1)):
        pass
    assert 0.99 <= grid.ladder[-1] < 1


def test_the_edge_is_the_strongest_that_was_tried() -> None:
    grid = guide()
    best = grid.at(4, -1)
    assert grid.is_edge(best, [best, grid.at(1, -1)])
    assert not grid.is_edge(best, [best, grid.at(5, -1)])
    stacked = vectors()
    here, elsewhere = stacked.at(4, 0), stacked.at(6, 1)
    assert stacked.is_edge(here, [here, elsewhere])


def test_every_ladder_goes_from_weak_to_strong_and_on() -> None:
    d = Direction(torch.ones(4), "blocks.1.hook_resid_post", "mine", 1.0, 2.0)
    for family in FAMILIES.values():
        signs = {b > a for a, b in zip(family.ladder, family.ladder[1:], strict=False)}
        beyond = family.stronger(family.ladder[-1])
        assert len(signs) == 1 and beyond is not None and (beyond > family.ladder[-1]) in signs
        for strength in (*family.ladder, beyond):
            family.make(strength, *([d] if family.kind == "vector" else []))


def test_few_layers_are_all_tried_and_of_many_six() -> None:
    assert layers_tried(4) == [0, 1, 2, 3]
    assert len(layers_tried(30)) == 6 and set(layers_tried(30)) <= set(range(30))
