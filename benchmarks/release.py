"""Is this a release? Wheel and sdist are built, installed as others install them, and used.

Both are built from the repository as it is; the wheel is installed into a fresh environment outside of it, the base
install alone, with the versions of ``constraints.txt``; there ``benchmarks/smoke.py`` loads, steers, generates,
captures and runs the study of ``make demo``, whose tables must be the golden ones; then the sdist takes the wheel's
place and does the same. It says how large all of it is. About ten minutes, most of them pip's.

Run: ``make release-check``, or ``.venv/bin/python -m benchmarks.release [--out FOLDER]``; the exit code is 1 where
something fails.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from benchmarks import environments
from benchmarks.golden import changes
from benchmarks.measures import size
from benchmarks.sentences import ROOT


@dataclass(frozen=True)
class Options:
    """Where."""

    out: Path = Path(tempfile.gettempdir()) / "mechsteer-release"
    """Folder outside the repository for the builds and the environment."""


def version() -> str:
    """The version, from the one place where it stands."""
    text = (ROOT / "mechsteer" / "__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    return found


def unready() -> list[str]:
    """What has another version than the package, and what a release of it still lacks, a line each."""
    now, wrong = version(), []
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", now):
        wrong.append(f"{now} is no semantic version (MAJOR.MINOR.PATCH, and a1, b1 or rc1)")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    top = re.search(r"^## (\S+) \((.*)\)$", changelog, re.MULTILINE)
    if top is None or top[1] != now:
        wrong.append(f"the first heading of CHANGELOG.md is not of {now}")
    elif top[2] == "unreleased":
        wrong.append(f"CHANGELOG.md calls {now} unreleased: it needs the date")
    if f"\nversion: {now}\n" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8").replace('"', ""):
        wrong.append(f"CITATION.cff has another version than {now}")
    return wrong


def built(out: Path) -> tuple[Path, Path]:
    """The wheel, made from the sdist, and the sdist."""
    for old in [*out.glob("mechsteer-*.whl"), *out.glob("mechsteer-*.tar.gz")]:
        old.unlink()
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = out.glob("mechsteer-*.whl"), out.glob("mechsteer-*.tar.gz")
    return wheel, sdist


def used(python: Path, place: Path) -> list[str]:
    """Use what is installed, in an empty folder; what differs from the golden tables."""
    smoke = [str(python), "-I", "-u", str(ROOT / "benchmarks" / "smoke.py"), str(place)]
    subprocess.run(smoke, check=True, cwd=place, env=environments.environment())
    found = {path.stem: pd.read_parquet(path) for path in (place / "t5-dola").glob("*.parquet")}
    return list(changes("t5-dola", found))


def check(out: Path) -> tuple[list[str], list[float]]:
    """Build, install and use.

    Returns:
        What is wrong; and MB of the wheel, of the sdist and of the installed package, and GB of it with what it needs.
    """
    out.mkdir(parents=True, exist_ok=True)
    wheel, sdist = built(out)
    python = environments.make(out / "environment")
    before = size(out / "environment")
    environments.install(python, wheel, constraints=ROOT / "constraints.txt")
    wrong, sizes = [], []
    for source in (wheel, sdist):
        if source is sdist:
            environments.install(python, "--no-deps", "--force-reinstall", sdist)
        print(f"\n{source.name}", flush=True)
        sizes.append(source.stat().st_size / 1e6)
        with tempfile.TemporaryDirectory(dir=out) as place:
            wrong += [f"{source.name}: {line}" for line in used(python, Path(place))]
    (package,) = (out / "environment").rglob("site-packages/mechsteer")
    return wrong, [*sizes, size(package) / 1e6, (size(out / "environment") - before) / 1e9]


def main(options: Options) -> None:
    """Check, and say."""
    wrong, sizes = check(environments.outside(options.out))
    print("\nwheel {:.1f} MB, sdist {:.1f} MB, installed {:.1f} MB, with what it needs {:.2f} GB".format(*sizes))
    print("\n".join([*wrong, *(f"before a release: {line}" for line in unready())]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
