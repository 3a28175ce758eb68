"""Planted causes are named: models whose weights, and prompts whose form, say why they ignore an instruction."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from tests.planted import PLANTS, planted_task, varied, write_plant
from tests.typecheck import unchecked

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Any]:
    """A function from a cause and a seed to the diagnosis of a model that has it."""
    made: dict[tuple[str, int], Any] = {}

    def get(cause: str, seed: int) -> Any:
        if (cause, seed) not in made:
            plant = varied(PLANTS[cause], seed)
            model = ms.load(str(write_plant(plant, tmp_path_factory.mktemp("plant"), seed)))
            with unchecked():
                made[cause, seed] = ms.diagnose(model, planted_task(model, plant, seed, n=10))
        return made[cause, seed]

    return get


@pytest.mark.parametrize("cause", PLANTS)
def test_the_cause_is_named(diagnosed: Callable[[str, int], Any], cause: str) -> None:
    seeds = SEEDS if cause == "truncated away" else SEEDS[:1]
    assert [diagnosed(cause, seed).cause for seed in seeds] == [cause] * len(seeds)
