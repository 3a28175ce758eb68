"""Writers that are killed, and two that write at the same time; in a copy of the tests' process (test_store.py).

:func:`attack` makes stores whose writer killed itself (SIGKILL) at the first, second, third ... file operation in the
store's folder, until one finishes; and one store into which two processes capture, each from its end of the same
prompts. Children are forked, so that the imports are paid once.
"""

import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import mechsteer as ms
from mechsteer.activations import ActivationStore, capture
from tests.typecheck import unchecked

OPTIONS: dict[str, Any] = {"sites": ["resid_post", "z"], "positions": "all", "batch_size": 2}
SHARD_MB, KILLED_SHARD_MB = 0.004, 0.012
WORDS = "the a cat dog sat on mat in house answer capitals task quote word write ends red blue".split()
TEXTS = [" ".join(WORDS[i : i + 2 + i % 5]) for i in range(12)]


def kill_at(folder: Path, nth: int) -> None:
    """Kill this process before the nth operation on a file in the folder."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in {"open", "os.rename", "os.remove"} and str(folder) in str(arguments[0]):
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def forked(run: Any) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    return pid


def kill(model: Any, folder: Path) -> None:
    for nth in range(1, 200):
        path = folder / f"store-{nth}"
        ActivationStore.create(path, shard_mb=KILLED_SHARD_MB)

        def run(path: Path = path, nth: int = nth) -> None:
            kill_at(path, nth)
            capture(model, TEXTS, store=path, **OPTIONS)

        _, status = os.waitpid(forked(run), 0)
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


def race(model: Any, folder: Path) -> None:
    path = folder / "shared"
    ActivationStore.create(path, shard_mb=SHARD_MB)

    def run(texts: list[str], note: Path) -> None:
        refused = 0
        while True:
            try:
                capture(model, texts, store=path, **OPTIONS)
                break
            except ms.MechsteerError as error:
                assert "is being written to by another process" in str(error), error
                refused += 1
                time.sleep(0.001)
        note.write_text(str(refused))

    children = [
        forked(lambda: [run(TEXTS[i : i + 2], folder / "first") for i in range(0, 8, 2)]),
        forked(lambda: [run(TEXTS[i : i + 2], folder / "second") for i in range(10, 2, -2)]),
    ]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]


def attack(model: Any, folder: Path) -> None:
    """Make the stores."""
    warnings.simplefilter("ignore")
    with unchecked(), tempfile.TemporaryDirectory() as warm:  # what is imported when first needed is imported once
        capture(model, TEXTS[0], store=warm, **OPTIONS)
        kill(model, folder)
        race(model, folder)
