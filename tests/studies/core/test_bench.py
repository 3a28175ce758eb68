"""The bench of a study: cells once, the same with workers, directions once, and the choice on validation data."""

import multiprocessing
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from tqdm.auto import tqdm

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.models import taken_once
from mechsteer.steering import attention_bias, pasta, scale_keys, spotlight
from mechsteer.studies.core import cells
from mechsteer.studies.core.bench import Bench, Wanted, decoder_only, opened
from mechsteer.studies.core.choose import best
from mechsteer.studies.sweep.executors import Executor, Job, Processes, Serial
from mechsteer.tasks import MemoTrap


@pytest.fixture(scope="module")
def task() -> MemoTrap:
    traps = ms.tasks.memotrap()
    return MemoTrap(traps.name, traps.samples[:2])


def bench_of(model: Any, folder: Path, executor: Executor | None = None) -> Bench:
    return Bench(model, folder, 8, tqdm(disable=True), executor)


@pytest.fixture
def wanted(task: MemoTrap, trap_t5: Any) -> list[Wanted]:
    d = ms.random_direction(trap_t5, seed=0, layer=1)
    return [Wanted(task), Wanted(task, ms.add(d, 3.0)), Wanted(task, strategy=ms.DoLa())]


def refuse(*_: Any, **__: Any) -> pd.DataFrame:
    pytest.fail("computed again")


@pytest.mark.parametrize("executor", [Serial(), Processes(1)], ids=["serial", "processes"])
def test_workers_give_the_same_cells_to_the_bit(
    executor: Executor, wanted: list[Wanted], trap_t5: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, bench = bench_of(trap_t5, tmp_path / "plain"), bench_of(trap_t5, tmp_path / "workers", executor)
    expected = [plain.rows(one) for one in wanted]
    bench.prefetch(wanted)
    monkeypatch.setattr(cells, "evaluate", refuse)
    for one, table in zip(wanted, expected, strict=True):
        assert_frame_equal(bench.rows(one), table, check_exact=True)
    names = [{path.name for path in (tmp_path / folder / "cells").iterdir()} for folder in ("plain", "workers")]
    assert names[0] == names[1] and len(names[0]) == len(wanted)
    bench.prefetch(wanted)  # all is there: no worker is started


def by_whom(model: Any, task: MemoTrap, **_: Any) -> pd.DataFrame:
    """Which process computed a cell, with which object for a model."""
    return pd.DataFrame({"pid": [os.getpid()], "model": [id(model)]})


def test_workers_and_their_models_stay_until_the_bench_closes(
    wanted: list[Wanted], trap_t5: Any, tmp_path: Path
) -> None:
    asked = [replace(one, rows=by_whom) for one in wanted]
    with opened("any", trap_t5, tmp_path, batch_size=8, progress=False, executor=Processes(1)) as bench:
        for one in asked:
            bench.prefetch([one])
        rows = pd.concat([bench.rows(one) for one in asked])
        assert len(rows) == 3 and len(rows.drop_duplicates()) == 1
        pid = int(rows["pid"].iloc[0])
        assert pid in [child.pid for child in multiprocessing.active_children()]
    for _ in range(900):
        if pid not in [child.pid for child in multiprocessing.active_children()]:
            return
        time.sleep(0.1)
    pytest.fail("the worker is still there")


def test_a_model_that_was_changed_is_not_measured_by_workers(
    wanted: list[Wanted], trap_t5: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = next(trap_t5.parameters())
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.mul_(1.01)
        with pytest.raises(MechsteerError, match="not the model that the study runs on"):
            bench_of(trap_t5, tmp_path, Serial()).prefetch(wanted[:1])
    finally:
        with torch.no_grad():
            parameter.copy_(before)


@pytest.mark.parametrize(
    "steer", [attention_bias(), pasta(), spotlight(), scale_keys()], ids=lambda s: s.edits[0].method
)
def test_what_a_worker_is_sent_stays_what_it_is(steer: Any) -> None:
    job = pickle.loads(pickle.dumps(Job("id", {"wanted": Wanted(None, steer)})))
    assert ms.cell_key(None, steer=job.cell["wanted"].steer) == ms.cell_key(None, steer=steer)


def test_directions_are_made_once_and_a_damaged_file_again(trap_t5: Any, tmp_path: Path) -> None:
    made: list[list[int]] = []

    def make(layers: Any) -> dict[int, ms.Direction]:
        made.append(list(layers))
        return {layer: ms.random_direction(trap_t5, seed=layer, layer=layer) for layer in layers}

    bench = bench_of(trap_t5, tmp_path)
    first = bench.directions("d", [0, 2], "a", make)
    again = bench.directions("d", [0, 2], "a", make)
    assert made == [[0, 2]] and list(again) == [0, 2]
    assert all(torch.equal(first[layer].vector, again[layer].vector) for layer in first)
    bench.directions("d", [0, 2], "b", make)
    bench.directions("d", [0], "a", make)
    assert len(made) == 3, "other data and other layers are other directions"
    for path in (tmp_path / "directions").iterdir():
        path.write_bytes(b"damaged")
    assert torch.equal(bench.directions("d", [0], "a", make)[0].vector, first[0].vector) and len(made) == 4


def test_the_bar_moves_with_every_cell(task: MemoTrap, trap_t5: Any, tmp_path: Path) -> None:
    with opened("x", trap_t5, tmp_path, batch_size=8, progress=False, total=2) as bench, taken_once():
        moved: list[int] = []
        bench.bar.update = lambda n=1: moved.append(n)
        bench.evaluate(task)
        bench.evaluate(task)
    assert moved == [1, 1]


def test_the_best_option_passes_the_filter_and_ties_go_to_the_first() -> None:
    worth = {"a": 1.0, "b": 3.0, "c": 3.0, "d": 9.0}
    assert best(worth, worth.__getitem__, passes=lambda name: name != "d") == "b"
    assert best(worth, worth.__getitem__) == "d"
    assert best(reversed([*worth][:3]), worth.__getitem__) == "c"
    assert best(worth, worth.__getitem__, passes=lambda name: False) is None
    assert best([], worth.__getitem__) is None


def test_an_encoder_decoder_is_refused(trap_t5: Any) -> None:
    with pytest.raises(MechsteerError, match="is an encoder-decoder"):
        decoder_only(trap_t5)
