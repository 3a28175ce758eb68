"""A small run of the study, made once a session."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.studies.t5_dola import controls
from mechsteer.studies.t5_dola import study as t5_dola
from tests.typecheck import unchecked

SMALL: dict[str, Any] = {
    "layers": [0, 2],
    "strengths": [1.0],
    "absolute": [20.0],
    "n_random": 3,
    "progress": False,
}


@pytest.fixture(scope="session")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 12 mining and 16 evaluation traps."""
    return write_traps(tmp_path_factory.mktemp("traps") / "small.csv", 12, 16)


def write_traps(path: Path, mining: int, evaluation: int) -> Path:
    """A CSV file of the first bundled traps."""
    task = ms.tasks.memotrap()
    traps = task.mining[:mining] + task.samples[:evaluation]
    rows = [(t.prompt, repr(list(t.classes)), t.answer_index, t.split) for t in traps]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prompt", "classes", "answer_index", "split"), *rows])
    return path


def small_recall() -> ms.tasks.Answers:
    """A few of the questions that steering must not change."""
    return replace(ms.tasks.recall(), samples=ms.tasks.recall().samples[:6])


def small_copying() -> ms.tasks.Answers:
    """A few of the others."""
    return replace(ms.tasks.copying(), samples=ms.tasks.copying().samples[:6])


@pytest.fixture(scope="session")
def small_run(trap_t5: Any, traps: Path) -> Callable[..., t5_dola.Result]:
    """A function that runs the small study into a folder, without figures; arguments replace the small ones."""

    def run(out: Path, model: Any = trap_t5, *, drawn: bool = False, **arguments: Any) -> t5_dola.Result:
        with pytest.MonkeyPatch.context() as patch, unchecked():
            patch.setattr(t5_dola, "_SIDE_TASKS", (small_recall, small_copying))
            patch.setattr(controls, "SEEDS", (0, 1))
            return t5_dola.run(model, out, draw=drawn, **({"data": traps} | SMALL | arguments))

    return run


@pytest.fixture(scope="session")
def study(small_run: Callable[..., t5_dola.Result], tmp_path_factory: pytest.TempPathFactory) -> t5_dola.Result:
    """The small study's result. Its folder is not to be changed: copy it."""
    return small_run(tmp_path_factory.mktemp("study"), drawn=True)
