"""What the sweeps of the tests compute: small tables, in any process; and a script that is killed."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from mechsteer.studies.sweep.grids import Cell, grid

CELLS = grid(a=[0, 1, 2, 3], b=[0, 1, 2])


def log(text: str) -> None:
    """Write down which process did what, in the folder that the environment names."""
    with Path(os.environ["SWEEP_LOG"]).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {text}\n")


def load(name: str, *, device: str | None, dtype: str | None) -> str:
    """A model."""
    log(f"load {name}")
    return f"{name} on {device}, {dtype}"


def rows(cell: Cell, model: Any) -> Any:
    """Three rows with text, numbers, truth values and a gap."""
    import pandas as pd

    value = cell["a"] * 10 + cell["b"]
    table = {"sample": range(3), "text": f"{cell['a']}/{cell['b']}", "score": [value / 3, None, 1e-9]}
    return pd.DataFrame(table).assign(right=[True, False, value > 5], by=model)


def grouped(cell: Cell, model: Any) -> Any:
    """The mean score of each text, which is the index."""
    return rows(cell, model).groupby("text")[["score"]].mean()


def constant(cell: Cell, model: Any) -> Any:
    """The same score in every cell."""
    import pandas as pd

    return pd.DataFrame({"score": [0.5]})


def slow(cell: Cell, model: Any) -> Any:
    """The same, where ``SWEEP_SECONDS`` says so late enough that something can happen in the middle."""
    log("begin")
    time.sleep(60 if cell["a"] == 1 and "SWEEP_STUCK" in os.environ else float(os.environ.get("SWEEP_SECONDS", "0")))
    return rows(cell, model)


def failing(cell: Cell, model: Any) -> Any:
    """Two cells fail until a file is there; one returns no table."""
    return rows(cell, model) if Path(os.environ["SWEEP_LOG"]).exists() else failing_always(cell, model)


def failing_always(cell: Cell, model: Any) -> Any:
    """Two cells fail; one returns no table."""
    if cell["a"] == 1 and cell["b"] < 2:
        raise KeyError("no such thing")
    return "no table" if cell["a"] == 2 and cell["b"] == 2 else rows(cell, model)


def dies_once(cell: Cell, model: Any) -> Any:
    """The process is killed in the middle of one cell, the first time that it is tried."""
    log(f"begin {cell['a']} {cell['b']}")
    time.sleep(0.05)
    first = Path(os.environ["SWEEP_LOG"]).read_text(encoding="utf-8").count("begin 1 1\n") == 1
    if (cell["a"], cell["b"]) == (1, 1) and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(cell, model)


def always_dies(cell: Cell, model: Any) -> Any:
    """The process is killed in the middle of one cell, whenever it is tried."""
    if (cell["a"], cell["b"]) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(cell, model)


def script(out: Path, executor: str) -> None:
    """What a script does, one that Ctrl-C ends."""
    from mechsteer.studies.sweep import sweep

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
    cells = grid(model="m", a=[0, 1, 2, 3], b=[0, 1, 2])
    try:
        sweep(cells, out, run=slow, load=load, executor=executor, progress=False)
    except KeyboardInterrupt:
        os._exit(130)
