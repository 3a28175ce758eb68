"""Every benchmark, one after the other, and every table that they made as Markdown in ``results/README.md``.

Each benchmark has a process of its own, so that what one leaves in memory does not slow the next. One that fails is
named at the end; the tables of the others are written all the same, and that of the last good run of it stays.

Run: ``make bench``, or with options ``make bench BENCH="--rounds 1 --only speed"``.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

HERE = Path(__file__).parent
SCRIPTS = (
    "speed",
    "generation",
    "steering",
    "directer",
    "directer_checkpoint",
    "influence",
    "activations",
    "from_store",
    "evaluation",
)
"""In the order in which the tables stand."""
_PROVENANCE = ("threads", "rounds", "torch")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    only: tuple[str, ...] = ()
    """Names of benchmarks; default: all."""
    rounds: int | None = None
    """How often each contestant runs; default: each benchmark's own."""
    threads: int | None = None
    """PyTorch threads; default: each benchmark's own."""
    model: Path | None = None
    """A checkpoint folder, for ``speed`` to measure too and ``directer_checkpoint`` and ``from_store`` to measure."""
    tables: bool = False
    """Run nothing: only write the Markdown from the tables that are there."""


def command(name: str, options: Options) -> list[str]:
    """How one benchmark is run."""
    given = {"--rounds": options.rounds, "--threads": options.threads}
    if name in ("speed", "directer_checkpoint", "from_store"):
        given["--model"] = options.model
    parts = [(option, str(value)) for option, value in given.items() if value is not None]
    return [sys.executable, str(HERE / f"{name}.py"), *(word for part in parts for word in part)]


def markdown(name: str, folder: Path) -> str:
    """A benchmark's table, with what it is and what it was measured with."""
    table = pd.read_csv(folder / f"{name}.csv")
    known = [column for column in _PROVENANCE if column in table]
    measured = ", ".join(f"{column} {'/'.join(map(str, table[column].unique()))}" for column in known)
    shown = table.drop(columns=known)
    lines = ["| " + " | ".join(map(str, shown.columns)) + " |", "|" + "---|" * len(shown.columns)]
    for row in shown.itertuples(index=False):
        lines.append("| " + " | ".join(_cell(value) for value in row) + " |")
    first = (HERE / f"{name}.py").read_text().split('"""')[1].split("\n")[0]
    return f"## {name}\n\n{first}\n\n({measured})\n\n" + "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def write_tables(folder: Path) -> Path:
    """All tables that are there in one file."""
    made = [markdown(name, folder) for name in SCRIPTS if (folder / f"{name}.csv").exists()]
    path = folder / "README.md"
    path.write_text(
        "# Results\n\nWritten by `make bench`; the numbers are those of the CSV files.\n\n" + "\n".join(made)
    )
    return path


def main(options: Options) -> None:
    """Run, write, and say what failed."""
    unknown = sorted(set(options.only) - set(SCRIPTS))
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(SCRIPTS)}.")
    failed = []
    for name in () if options.tables else options.only or SCRIPTS:
        print(f"\n== {name}", flush=True)
        if subprocess.run(command(name, options), cwd=HERE.parent).returncode:
            failed.append(name)
    print(f"\nTables: {write_tables(HERE / 'results')}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
