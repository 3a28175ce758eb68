"""Golden numbers: the main tables of every study on its bundled models, to five digits, in ``tests/golden``.

What the pages say about the bundled models is compared with them in the tests (``tests/test_golden.py``). Here what the
code computes is: each study is run as ``mechsteer reproduce`` runs it, which takes about an hour on two cores for
all of them and continues where it was stopped. Cells that lie in the folder already are not computed again, so give a
new folder when the code has changed. Greedy decoding is the same to the bit on one machine; another one may differ in
the last digit, or in a sample of which two tokens are nearly as likely.

Run: ``.venv/bin/python -m benchmarks.golden [STUDY ...] [--out FOLDER]`` compares, and ends with 1 where something
differs; with ``--write`` the tables are written.
"""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from benchmarks.same_tables import differences, left_out
from mechsteer.files import atomic_path
from mechsteer.studies.registry import STUDIES

FOLDER = Path(__file__).parents[1] / "tests" / "golden"

TABLES = {
    "t5-dola": ("summary", "side_effects", "null_vectors", "by_trap_word"),
    "dola-decoding": ("summary", "lengths"),
    "inside": ("summary", "frozen"),
    "steer-instruct": ("summary", "by_kind"),
    "steering": ("summary", "scopes"),
    "guide": ("summary", "by_strength", "baselines", "against_last", "prediction", "choice"),
    "directer": ("summary", "choice", "ablation", "rankings", "strengths", "sweeps", "gate"),
    "layerwise": ("summary", "layers", "examples", "sparse", "calculus"),
    "compose": ("summary", "choice", "gains"),
}
"""The tables that are kept, by study: the summary, and what the pages tell of others."""

ENDS = ("_low", "_high", "_low_pp", "_high_pp")


@dataclass(frozen=True)
class Options:
    """Which studies."""

    studies: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="STUDY ...")]] = ()
    """Default: all that run on bundled models."""
    out: Path = Path("results/golden")
    """Folder for what the studies compute."""
    write: bool = False
    """Write the tables instead of comparing with them."""


def path_of(study: str, table: str) -> Path:
    """Where a golden table lies."""
    return FOLDER / f"{study}.{table}.csv"


def text_of(table: pd.DataFrame) -> str:
    """The table as it is kept: five digits, without what it was made with and how long it took; rounding noise is 0.

    Ends of intervals are left out: they follow from the same samples.
    """
    kept = [name for name in map(str, table.columns) if not (left_out(name) or name.endswith(ENDS))]
    return table[kept].round(5).to_csv(index=False, float_format="%.5g", lineterminator="\n")


def read(text: str) -> pd.DataFrame:
    """A kept table again; empty texts stay what they are."""
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=["", "nan"])


def changes(study: str, tables: dict[str, Any]) -> Iterator[str]:
    """What differs from the golden tables of a study, a line each; columns that have come since do not."""
    for name in TABLES[study]:
        path = path_of(study, name)
        if not path.exists():
            yield f"{study}, {name}: there is no golden table"
            continue
        now, before = read(text_of(tables[name])), read(path.read_text(encoding="utf-8"))
        kept = now[[column for column in now.columns if column in before.columns]]
        yield from (f"{study}, {name}: {line}" for line in differences(before, kept))


def main(options: Options) -> None:
    """Run the studies, and write or compare."""
    wanted, found = options.studies or tuple(TABLES), 0
    unknown = [name for name in wanted if name not in TABLES]
    if unknown:
        sys.exit(f"no golden tables of {', '.join(unknown)}; there are: {', '.join(TABLES)}")
    for study in wanted:
        tables = STUDIES[study].run(out=options.out / study, batch_size=128, draw=False).tables
        if options.write:
            for name in TABLES[study]:
                with atomic_path(path_of(study, name)) as temporary:
                    temporary.write_text(text_of(tables[name]), encoding="utf-8")
            continue
        for line in changes(study, tables):
            print(line)
            found += 1
    print(f"{len(wanted)} studies, {'written' if options.write else f'{found} differences'}.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(tyro.cli(Options))
