"""What is built and shipped: the wheel carries its data and finds it; the sdist is enough to build the wheel."""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not a checkout")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel made from that sdist, without any network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_package_and_all_its_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tracked = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert {f"mechsteer/{name}" for name in tracked.splitlines() if (ROOT / name).exists()} <= names
    assert {"mechsteer/__init__.py", "mechsteer/py.typed", "mechsteer/data/published/README.md"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mechsteer"}
    assert not [name for name in names if "__pycache__" in name or name.startswith("mechsteer/tests")]


def test_the_page_of_bundled_models_says_how_large_the_wheel_is(wheel: zipfile.ZipFile) -> None:
    def size(start: str) -> int:
        return sum(one.compress_size for one in wheel.infolist() if one.filename.startswith(start))

    every, models, saes = (size(start) for start in ("", "mechsteer/data/organisms/", "mechsteer/data/saes/"))
    megabytes = [round(bytes_ / 1e6) for bytes_ in (every, models, saes, every - models - saes)]
    page = " ".join((ROOT / "docs" / "bundled.md").read_text(encoding="utf-8").split())
    said = re.search(r"The wheel has (\d+) MB: (\d+) of these models, (\d+) of their SAEs, and (\d+) of code", page)
    assert said is not None and list(map(int, said.groups())) == megabytes


def test_wheel_has_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert "mechsteer = mechsteer.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert b"MIT License" in wheel.read(f"{info}/licenses/LICENSE")


def test_the_package_page_has_no_link_to_a_file_beside_it(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    header, _, page = wheel.read(f"{info}/METADATA").decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in header and page.startswith("# mechsteer")
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets and [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_links_of_the_readme_lead_to_the_repository_where_there_is_one() -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    text = "![a figure](assets/a.png) [the `page`](docs/a.md#b) [out](https://arxiv.org/abs/1) [here](#below)"
    rest = "[out](https://arxiv.org/abs/1) [here](#below)"
    assert build.absolute(text) == f" the `page` {rest}"
    assert build.absolute(text, "https://example.org/x/") == (
        "![a figure](https://example.org/x/raw/main/assets/a.png) "
        f"[the `page`](https://example.org/x/blob/main/docs/a.md#b) {rest}"
    )


def test_installed_wheel_finds_its_data(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", "import mechsteer.files as f; print(f.data_path('published', 't5_dola_best.csv'))"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == site.resolve() / "mechsteer/data/published/t5_dola_best.csv"


def test_sdist_holds_what_is_needed_and_no_more(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        top = {"/".join(name.split("/")[1:2]) for name in archive.getnames()}
    assert {"mechsteer", "data", "tests", "README.md", "LICENSE", "pyproject.toml"} <= top
    assert not top & {".venv", ".git", "results", "dist", ".ci"}
