"""Every module can be imported, and the package and its help text come up without the heavy libraries."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mechsteer

PACKAGE = Path(mechsteer.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
HEAVY = ("torch", "transformer_lens", "transformers", "sae_lens", "pandas", "pyarrow", "matplotlib")


def heavy_modules_after(code: str) -> list[str]:
    """The heavy libraries that a fresh Python has loaded after running ``code``."""
    report = f"import json, sys; sys.stderr.write(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_module_can_be_imported(name: str) -> None:
    if name.startswith("mechsteer.inspect_bridge"):
        pytest.importorskip("inspect_ai")  # an extra that the development environment does not have
    importlib.import_module(name)


def test_the_check_for_heavy_modules_sees_them() -> None:
    assert "pandas" in heavy_modules_after("import pandas")


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import mechsteer; dir(mechsteer)") == []


@pytest.mark.parametrize("arguments", [["--help"], ["reproduce", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from mechsteer.cli import main
sys.argv = ["mechsteer", *{arguments!r}]
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
"""
    assert heavy_modules_after(code) == []
