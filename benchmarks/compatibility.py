"""The lowest and the newest versions that ``pyproject.toml`` allows, each in an environment of its own.

``lowest`` installs each package that ``pyproject.toml`` names at the lower end of its range, ``newest`` the newest that
fits together; then a selection of the tests runs there: loading and equality with Hugging Face, steering, generation,
capture, SAEs, tables. On Linux, PyPI's older ``torch`` is the CUDA build: several gigabytes to fetch.

Run: ``.venv/bin/python -m benchmarks.compatibility lowest newest [--out FOLDER]``; the exit code is 1 where tests fail.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from packaging.requirements import Requirement

from benchmarks import environments
from benchmarks.sentences import ROOT

SHOWN = ("torch", "transformers", "transformer-lens", "sae-lens", "pandas", "pyarrow", "numpy")
TESTING = ("pytest", "pytest-timeout", "hypothesis", "beartype", "tyro", "gguf")
SELECTION = (
    "tests/test_public_names.py",
    "tests/test_files.py",
    "tests/models/test_load.py",
    "tests/models/test_parity.py",
    "tests/steering/test_against_hugging_face.py",
    "tests/steering/test_features.py",
    "tests/steering/test_store.py",
    "tests/decoding/test_generate.py",
    "tests/activations/test_store.py",
    "tests/plots/test_charts.py",
)
"""Files of the tests; what they mark as slow is left out."""

CHOSEN = "not harness and not versions and not (against_hugging_face and t5)"
"""Left out: what needs an extra, what names the build of torch, and T5's equations, which the tests put into a function
of Hugging Face's T5 that older versions do not have (``test_parity.py`` compares T5 in all of them)."""


@dataclass(frozen=True)
class Options:
    """Which environments."""

    ends: tyro.conf.Positional[tuple[Literal["lowest", "newest"], ...]] = ("lowest", "newest")
    """The ends of the ranges."""
    out: Path = Path(tempfile.gettempdir()) / "mechsteer-compatibility"
    """Folder outside the repository for the environments."""
    keep: bool = False
    """Use an environment that is there already."""
    pins: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME==VERSION ...")] = ()
    """Versions to try in the place of the ends."""


def lowest(requirement: str) -> str:
    """A requirement at the lower end of its range: ``torch>=2.6,<3`` is ``torch==2.6``."""
    made = Requirement(requirement)
    (low,) = [one.version for one in made.specifier if one.operator in (">=", "==")]
    return f"{made.name}=={low}"


def requirements(end: str, pins: tuple[str, ...] = ()) -> list[str]:
    """What is installed for an end of the ranges."""
    given = {Requirement(pin).name: pin for pin in pins}
    named = environments.project()["project"]["dependencies"]
    found = {Requirement(one).name: lowest(one) if end == "lowest" else one for one in named}
    return list((found | given).values())


def versions(python: Path) -> dict[str, str]:
    """The versions that an environment has."""
    code = f"import json; from importlib.metadata import version as v; print(json.dumps({{n: v(n) for n in {SHOWN}}}))"
    return json.loads(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout)


def tested(python: Path) -> int:
    """Run the selection as users meet the package, without type checks; warnings are no errors. pytest's exit code."""
    pytest = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "-W",
        "default",
        "-o",
        "addopts=",
    ]
    given = environments.environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*pytest, "-m", "not slow", "-k", CHOSEN, *SELECTION], cwd=ROOT, env=given).returncode


def main(options: Options) -> None:
    """Install, test, and say."""
    out, failed = environments.outside(options.out), []
    for end in options.ends:
        python = out / end / "bin" / "python"
        if not (options.keep and python.exists()):
            python = environments.make(out / end)
            environments.install(python, *requirements(end, options.pins), *TESTING)
        print(f"{end}: " + ", ".join(f"{name} {found}" for name, found in versions(python).items()), flush=True)
        if tested(python):
            failed.append(end)
    print(f"failed: {', '.join(failed)}" if failed else f"{' and '.join(options.ends)}: the tests pass")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
