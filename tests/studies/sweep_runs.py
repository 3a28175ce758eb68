"""What the sweeps of the tests compute: small tables, without a model, in any process; and a script that is killed."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.studies.grid import Cell, grid


def rows(cell: Cell, model: Any) -> Any:
    """Three rows with text, numbers, truth values and gaps."""
    import pandas as pd

    value = cell["a"] * 10 + cell["b"]
    return pd.DataFrame({"sample": range(3), "text": f"{cell['a']}/{cell['b']}", "score": [value / 3, None, 1e-9]})


def slow(cell: Cell, model: Any) -> Any:
    """The same, late enough that something can happen in the middle."""
    time.sleep(0.2)
    return rows(cell, model)


def failing(cell: Cell, model: Any) -> Any:
    """Fails in one cell, as long as a file is not there; another returns no table."""
    if cell["a"] == 1 and not Path(cell["repaired"]).exists():
        raise KeyError("no such thing")
    return rows(cell, model) if cell["a"] != 2 else None


def load(name: str, *, device: str | None, dtype: str | None) -> dict[str, Any]:
    """A model that writes down that it was loaded, and by which process."""
    folder, _, own = name.partition("|")
    with (Path(folder) / "loads").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {own}\n")
    return {"name": own, "folder": folder}


def with_model(cell: Cell, model: Any) -> Any:
    """Rows that name the model."""
    time.sleep(0.05)
    return rows(cell, model).assign(by=model["name"])


def dies_once(cell: Cell, model: Any) -> Any:
    """One cell kills its own process in the middle, the first time; it writes down who worked."""
    folder = Path(model["folder"])
    with (folder / "work").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {cell['a']} {cell['b']}\n")
    if (cell["a"], cell["b"]) == (1, 1) and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return with_model(cell, model)


def always_dies(cell: Cell, model: Any) -> Any:
    """One cell kills every process that tries it."""
    if (cell["a"], cell["b"]) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(cell, model)


def cells() -> list[Cell]:
    """A dozen cells."""
    return grid(a=[0, 1, 2, 3], b=[0, 1, 2])


if __name__ == "__main__":
    from mechsteer.studies.sweep import sweep

    out, executor, name = sys.argv[1:]
    try:
        sweep(cells(), out, run=f"tests.studies.sweep_runs:{name}", executor=executor, progress=False)
    except MechsteerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
