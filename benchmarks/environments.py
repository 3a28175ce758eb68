"""Environments of their own, outside the repository, for what is tested as others install it."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.sentences import ROOT

HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MECHSTEER_DATA")


def project() -> dict[str, Any]:
    """``pyproject.toml``."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def outside(folder: Path) -> Path:
    """The folder, absolute; it must not lie in the repository, whose files an installed package must not need."""
    folder = folder.resolve()
    if folder.is_relative_to(ROOT):
        sys.exit(f"{folder} lies in the repository: give a folder outside of it.")
    return folder


def make(folder: Path) -> Path:
    """A new, empty environment; its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def install(python: Path, *arguments: object, constraints: Path | None = None) -> None:
    """``pip install`` into it, with the pip that runs this (a new environment has an old one)."""
    given = ["--constraint", str(constraints)] if constraints else []
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-input",
        "--no-compile",
        *given,
        *map(str, arguments),
    ]
    if subprocess.run(pip, env=environment()).returncode:
        sys.exit(f"pip could not install {' '.join(map(str, arguments))}.")


def environment() -> dict[str, str]:
    """What a command in such an environment sees: no path of this one, and no network where it is not asked for."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": kept.get("OMP_NUM_THREADS", "1")}
