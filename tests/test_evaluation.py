"""``evaluate``: one row a sample, with everything needed to make it again."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.evaluation import Task, describe
from mechsteer.models.info import set_info
from mechsteer.tasks import MemoTrap, copying, memotrap

LEADING = ["task", "method", "site", "scope", "strength", "strategy", "seed"]


@pytest.fixture(scope="module")
def task() -> MemoTrap:
    return replace(memotrap(), samples=memotrap().samples[:7])


@pytest.fixture(scope="module")
def direction(trap_t5: Any) -> ms.Direction:
    return ms.gradient_direction(trap_t5, memotrap().mining[:8], layer=2)


def test_every_row_carries_its_provenance(trap_t5: Any, task: MemoTrap, direction: ms.Direction) -> None:
    table = ms.evaluate(trap_t5, task, steer=ms.add(direction, 20.0, scope="generated"))
    own = list(task.run(trap_t5).columns)
    assert list(table.columns)[: len(LEADING) + len(own) + 1] == [*LEADING, *own, "data_hash"]
    info = ms.model_info(trap_t5)
    expected = {
        "task": "memotrap",
        "method": "add",
        "site": "decoder.2.hook_resid_post",
        "scope": "generated",
        "strength": 20.0,
        "strategy": "Greedy(repetition_penalty=1.0)",
        "data_hash": task.data_hash,
        "model_name": "organism:trap-t5",
        "model_family": "t5",
        "model_revision": "",
        "model_fingerprint": info.fingerprint,
        "model_dtype": "float32",
        "version_torch": torch.__version__,
    }
    for column, value in expected.items():
        assert table[column].tolist() == [value] * 7, column
    assert table["seed"].isna().all()


def test_unsteered_rows_say_so(trap_t5: Any, task: MemoTrap) -> None:
    table = ms.evaluate(trap_t5, task)
    assert table.loc[0, ["method", "site", "scope", "strength"]].tolist() == ["unsteered", "", "", 0.0]


def test_composed_interventions_are_described_in_order(trap_t5: Any, task: MemoTrap, direction: ms.Direction) -> None:
    other = ms.random_direction(trap_t5, seed=3, layer=4)
    both = ms.add(other, 5.0, scope="last_prompt") + ms.add(direction, 20.0)
    table = ms.evaluate(trap_t5, task, steer=both)
    assert table["method"].unique().tolist() == ["add + add"]
    assert table["site"].unique().tolist() == ["decoder.4.hook_resid_post + decoder.2.hook_resid_post"]
    assert table["scope"].unique().tolist() == ["last_prompt + all"]
    assert table["strength"].isna().all()
    assert describe(ms.Intervention()) == describe(None)


def test_steering_changes_the_scores_and_strength_zero_does_not(
    trap_t5: Any, task: MemoTrap, direction: ms.Direction
) -> None:
    plain = ms.evaluate(trap_t5, task)
    steered = ms.evaluate(trap_t5, task, steer=ms.add(direction, direction.activation_norm))
    zero = ms.evaluate(trap_t5, task, steer=ms.add(direction, 0.0))
    assert steered["correct"].mean() > plain["correct"].mean()
    own = ["output", "correct", "success", "strict", "memorised", "logprob_target", "logprob_trap"]
    assert_frame_equal(zero[own], plain[own], check_exact=True)


@pytest.mark.parametrize("strategy", [None, ms.Sample(seed=5)], ids=["greedy", "sample"])
def test_the_batch_size_does_not_change_the_numbers(
    trap_t5: Any, task: MemoTrap, direction: ms.Direction, strategy: Any
) -> None:
    steer = ms.add(direction, 20.0)
    tables = [ms.evaluate(trap_t5, task, steer=steer, strategy=strategy, batch_size=size) for size in (1, 3, 64)]
    for table in tables[1:]:
        assert_frame_equal(table, tables[0], rtol=0, atol=1e-4)
        assert table["output"].equals(tables[0]["output"])


def test_samples_say_their_seed_and_repeat_with_it(trap_t5: Any, task: MemoTrap) -> None:
    hot = [ms.evaluate(trap_t5, task, strategy=ms.Sample(temperature=3.0, seed=seed)) for seed in (7, 7, 8)]
    assert [table["seed"].unique().tolist() for table in hot] == [[7], [7], [8]]
    assert hot[0].loc[0, "strategy"].startswith("Sample(temperature=3.0")
    assert_frame_equal(hot[0], hot[1])
    assert not hot[0]["output"].equals(hot[2]["output"])


def test_a_task_without_samples_is_refused(trap_t5: Any) -> None:
    with pytest.raises(ms.MechsteerError, match="The task 'copy' has no samples"):
        ms.evaluate(trap_t5, replace(copying(), samples=()))


def test_an_intervention_that_does_not_fit_is_refused(tiny: Any, trap_t5: Any, task: MemoTrap) -> None:
    foreign = ms.random_direction(tiny("t5"), seed=0, layer=1)
    with pytest.raises(ms.MechsteerError, match="The direction has width 32"):
        ms.evaluate(trap_t5, task, steer=ms.add(foreign, 1.0))


def test_a_task_of_ones_own_needs_no_base_class(trap_t5: Any) -> None:
    import pandas as pd

    @dataclass(frozen=True)
    class Lengths:
        name: str = "lengths"
        samples: tuple[str, ...] = ("a", "bb")
        data_hash: str = "none"

        def run(self, model: Any, *, steer: Any, strategy: Any, batch_size: int, progress: bool) -> pd.DataFrame:
            return pd.DataFrame({"length": [len(sample) for sample in self.samples]})

    assert isinstance(Lengths(), Task)
    table = ms.evaluate(trap_t5, Lengths())
    assert list(table.columns)[: len(LEADING) + 2] == [*LEADING, "length", "data_hash"]


def test_the_function_stays_reachable_after_the_studies_are_imported() -> None:
    code = "import mechsteer as ms; ms.studies; import mechsteer.evaluation; assert callable(ms.evaluate), ms.evaluate"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_was_applied_of_the_generation_config_stands_in_every_row(trap_t5: Any, task: MemoTrap) -> None:
    info = ms.model_info(trap_t5)
    plain = ms.evaluate(trap_t5, task)
    forbidden = sorted(
        {id for text in plain["output"] for id in trap_t5.tokenizer(text)["input_ids"]} - {*info.eos_ids}
    )
    set_info(trap_t5, replace(info, generation_config={"suppress_tokens": forbidden}))
    try:
        applied = ms.evaluate(trap_t5, task)
        without = ms.evaluate(trap_t5, task, generation_config=False)
    finally:
        set_info(trap_t5, info)
    assert set(plain["generation_config"]) == set(without["generation_config"]) == {"{}"}
    assert json.loads(applied["generation_config"][0]) == {"suppress_tokens": forbidden}
    assert without["output"].equals(plain["output"]) and not applied["output"].equals(plain["output"])
