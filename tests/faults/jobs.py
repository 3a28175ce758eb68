"""Long work of each kind, small: what writes into a folder and goes on there after it was killed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mechsteer as ms

WORDS = "the a cat dog sat on mat in house answer capitals task quote word write ends red blue".split()
TEXTS = [" ".join(WORDS[i : i + 2 + i % 5]) for i in range(14)]
ASKED = [{"prompt": text, "instruction": "answer in capitals"} for text in TEXTS[:8]]

Job = Callable[[Path], object]


def capture(model: Any) -> Job:
    """Activations into a store of small shards."""

    def run(folder: Path) -> None:
        from mechsteer.activations.store import is_store

        if not is_store(folder / "store"):
            ms.ActivationStore.create(folder / "store", shard_mb=0.006)
        ms.capture(model, TEXTS, sites=["resid_post", "z"], batch_size=2, store=folder / "store")

    return run


def cell(one: Any, model: Any) -> Any:
    """What the sweep computes."""
    import pandas as pd

    value = one["a"] * 10 + one["b"]
    return pd.DataFrame({"sample": range(3), "score": [value / 3, None, 1e-9], "text": [None, None, f"{value}"]})


def sweep(model: Any) -> Job:
    """A grid of cells."""
    from mechsteer.studies.sweep import grid
    from mechsteer.studies.sweep import sweep as run

    return lambda folder: run(grid(a=range(5), b=range(4)), folder, run=cell, progress=False)


def pool(model: Any) -> Job:
    """The same grid in two worker processes."""
    from mechsteer.studies.sweep import Processes, grid
    from mechsteer.studies.sweep import sweep as run

    cells = grid(a=range(5), b=range(4))
    return lambda folder: run(cells, folder, run="tests.faults.jobs:slow_cell", executor=Processes(2), progress=False)


def ray(model: Any) -> Job:
    """The same grid on a Ray cluster of this machine, which ends with the process that started it."""
    from mechsteer.studies.sweep import Ray, grid
    from mechsteer.studies.sweep import sweep as run

    cells = grid(a=range(5), b=range(4))
    return lambda folder: run(cells, folder, run="tests.faults.jobs:slow_cell", executor=Ray(2), progress=False)


def slow_cell(one: Any, model: Any) -> Any:
    """What workers compute: as :func:`cell`, and long enough that some are killed in it."""
    time.sleep(0.05)
    return cell(one, model)


def evaluation(model: Any) -> Job:
    """Rows of a task, in parts."""
    task = ms.task([{"prompt": text} for text in TEXTS], "lowercase", max_new_tokens=4)
    return lambda folder: ms.evaluate(model, task, batch_size=2, out=folder)


def study(model: Any) -> Job:
    """A study on the bundled model, with its figures."""
    from mechsteer.studies.t5_sublayers.study import run

    loaded = ms.load("organism:trap-t5")
    return lambda folder: run(loaded, folder, n=2, progress=False)


def organism(model: Any) -> Job:
    """Training of a bundled model, tiny; where it is there already, nothing is left to do."""
    from mechsteer.organisms.rules_gpt2 import Shape, train

    shape = Shape(d_model=16, n_layers=1, n_heads=2, d_mlp=16, vocabulary=600)

    def run(folder: Path) -> None:
        if not (folder / "model").exists():
            train(folder / "model", shape=shape, steps=30, batch_size=2, warmup=1, progress=False)

    return run


def tune(model: Any) -> Job:
    """A search over strengths."""
    task = ms.task(ASKED, "lowercase", max_new_tokens=4)
    return lambda folder: ms.tune(model, task, ("guide", "vector"), floor=0.0, side=TEXTS[:2], out=folder)


JOBS: dict[str, Callable[[Any], Job]] = {
    "capture": capture,
    "sweep": sweep,
    "pool": pool,
    "ray": ray,
    "evaluate": evaluation,
    "study": study,
    "tune": tune,
    "organism": organism,
}

SHARE = {"ray": 0.2, "pool": 0.5}
"""By job, how many kills it gets of one that is not named: starting workers takes seconds."""
