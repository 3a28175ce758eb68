"""``mechsteer sweep``: a grid of cells. Imports nothing heavy until it runs."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from mechsteer.command.options import Device, Positional, shown_as, threads
from mechsteer.errors import MechsteerError


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Compute a grid of models, methods, layers, strengths and seeds, cell by cell.

    A sweep that was stopped or killed goes on where it was when the same command is given again. A cell that fails does
    not stop the others; then the exit code is 1.
    """

    grid: Positional[Annotated[Path, shown_as("GRID")]]
    """A .toml or .json file with a table [grid] of axes, e.g. model = "organism:trap-t5", task = "memotrap", method
    = "add", layer = [1, 2, 3], strength = [0.5, 1.0]; or several [[grid]], one after another. The names are explained
    in mechsteer.studies.sweep.steering. Before the first table, modules = ["my_method"] imports modules that register
    methods of your own, and run = "module:function" names a function that computes the cells, whose names are its
    own."""
    out: Annotated[Path, shown_as("FOLDER")] = Path("results/sweep")
    """Folder for the cells, results.parquet and summary.csv."""
    executor: Literal["serial", "processes", "ray"] = "serial"
    """This process, worker processes on this machine, or a Ray cluster (needs mechsteer[ray])."""
    workers: Annotated[int | None, shown_as("INT")] = None
    """Worker processes, each with a model of its own. Default: 2."""
    retries: Annotated[int | None, shown_as("INT")] = None
    """How often a cell is tried again whose worker died. Default: 2."""
    resume: bool = True
    """Skip finished cells; --no-resume refuses a folder that has any."""
    address: Annotated[str | None, shown_as("ADDRESS")] = None
    """Ray: a running cluster, e.g. auto. Default: RAY_ADDRESS, else one on this machine for the time of the sweep."""
    num_cpus: Annotated[float | None, shown_as("NUMBER")] = None
    """Ray: CPUs of each worker. Default: 1."""
    num_gpus: Annotated[float | None, shown_as("NUMBER")] = None
    """Ray: GPUs of each worker; below 1 to share one. Default: 0."""
    device: Device = None
    batch_size: int = 64
    """Prompts computed together; does not change the results."""


def run(c: Sweep) -> None:
    """Compute the cells and print the summary; exits with 1 where one failed."""
    from mechsteer.report import show
    from mechsteer.studies.sweep import read_grid, read_modules, sweep

    executor = _executor(c)
    cells, run = read_grid(c.grid)
    given = {"run": run, "modules": read_modules(c.grid)}
    own: dict[str, Any] = {name: value for name, value in given.items() if value}
    if own:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: code of one's own is found where one is
    threads(str(cells[0].get("model")))
    result = sweep(cells, c.out, executor=executor, resume=c.resume, device=c.device, batch_size=c.batch_size, **own)
    summary = result.summary.drop(columns="cell")
    failed = int((summary["state"] == "failed").sum())
    scores = list(summary)[list(summary).index("rows") + 1 :]  # shown also where they are the same in all cells
    told = [name for name in summary if len(summary) == 1 or name in scores or len(set(map(str, summary[name]))) > 1]
    print(show(summary[told], decimals=3))
    print(f"\nAll rows are in {c.out}/results.parquet, and these in {c.out}/summary.csv")
    if failed:
        print(
            f"mechsteer: {failed} of {len(summary)} cells failed; {c.out}/errors/ says how. The same command tries "
            "them again.",
            file=sys.stderr,
        )
        sys.exit(1)


def _executor(c: Sweep) -> Any:
    """The executor with its options; one that is another executor's is refused."""
    from mechsteer.studies.sweep.executors import Processes, Ray, Serial

    kind = {"serial": Serial, "processes": Processes, "ray": Ray}[c.executor]
    given = {name: getattr(c, name) for name in ("workers", "retries", "address", "num_cpus", "num_gpus")}
    options = {name: value for name, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in known:
            fix = "" if name not in ("workers", "retries") else " Give --executor processes, or ray."
            raise MechsteerError(f"--{name.replace('_', '-')} has no meaning with --executor {c.executor}.{fix}")
    return kind(**options)
