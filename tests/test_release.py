"""The version stands in one place, what needs an extra names it, and the checks of a release see what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mechsteer
from benchmarks import compatibility, environments, release, smoke
from benchmarks.environments import project
from benchmarks.sentences import ROOT

WITHOUT = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None  # as if it were not installed
sys.path.insert(0, {root!r})
from benchmarks import smoke
smoke.importlib.util.find_spec = lambda name: None
smoke.extras()
"""


def test_the_version_stands_in_one_place() -> None:
    assert release.version() == mechsteer.__version__
    assert "version" in project()["project"]["dynamic"] and "version" not in project()["project"]
    assert project()["tool"]["hatch"]["version"]["path"] == "mechsteer/__init__.py"
    assert [line for line in release.unready() if "unreleased" not in line] == []


def test_what_a_release_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    (tmp_path / "mechsteer").mkdir()

    def unready(version: str, heading: str, cited: str) -> list[str]:
        (tmp_path / "mechsteer" / "__init__.py").write_text(f'__version__ = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
        (tmp_path / "CITATION.cff").write_text(f"title: x\nversion: {cited}\nlicense: MIT\n")
        return release.unready()

    assert unready("1.0.0", "1.0.0 (2026-12-01)", "1.0.0") == unready("1.0.0rc1", "1.0.0rc1 (soon)", "1.0.0rc1") == []
    assert len(unready("1.0", "1.0 (2026-12-01)", "1.0")) == 1
    assert unready("1.0.0", "1.0.0 (unreleased)", "1.0.0") == ["CHANGELOG.md calls 1.0.0 unreleased: it needs the date"]
    assert len(unready("1.0.0", "0.9.0 (2026-01-01)", "0.9.0")) == 2


def test_without_an_extra_what_needs_it_says_which() -> None:
    hidden = [module for module, _ in smoke.EXTRAS.values()]
    code = WITHOUT.format(hidden=hidden, root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in smoke.EXTRAS:
        assert re.search(rf"^extra {name}: .*mechsteer\[{name}\]", done.stdout, re.MULTILINE)
    assert set(smoke.EXTRAS) == set(project()["project"]["optional-dependencies"]) - {"notebooks"}


def test_the_base_install_has_what_users_listed() -> None:
    names = {re.split(r"[>=<\[]", one)[0] for one in project()["project"]["dependencies"]}
    assert {"transformer-lens", "torch", "sae-lens", "circuitsvis", "jaxtyping", "pandas"} <= names


def test_the_ends_of_the_ranges() -> None:
    assert compatibility.lowest("torch>=2.6,<3") == "torch==2.6"
    made = compatibility.requirements("lowest", ("torch==2.7.1",))
    assert "torch==2.7.1" in made and len(made) == len(project()["project"]["dependencies"])
    assert all("==" in one for one in made)
    assert compatibility.requirements("newest") == project()["project"]["dependencies"]
    assert [name for name in compatibility.SELECTION if not (ROOT / name).exists()] == []


def test_environments_lie_outside_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environments.outside(tmp_path) == tmp_path.resolve()
    with pytest.raises(SystemExit, match="lies in the repository"):
        environments.outside(ROOT / "results" / "x")
    monkeypatch.setenv("PYTHONPATH", "x")
    assert "PYTHONPATH" not in environments.environment()
