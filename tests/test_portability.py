"""What only some systems have is used where it is known, and done without elsewhere; TransformerLens has one place."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from mechsteer.errors import MechsteerError
from tests.test_importable import PACKAGE

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "msvcrt", "winreg", "posix", "syslog"}
CALLS = {
    "os": "fork forkpty getuid geteuid getgid getpgid setsid killpg mkfifo chown sysconf sched_getaffinity uname nice",
    "signal": "SIGKILL SIGALRM SIGHUP SIGUSR1 SIGUSR2 alarm setitimer pthread_kill pause",
}
KNOWN = {
    "activations/manifest.py": {"fcntl"},  # writing to a store is refused
    "files.py": {"fcntl"},  # what killed writers left stays
    "prompts/rendering.py": {"resource", "os.sysconf", "/proc"},  # no limit of memory
    "models/halving.py": {"/proc"},  # free memory is not known
}
"""By file: what it uses, and what happens without it. docs/compatibility.md says the same."""


def unsafe(tree: ast.AST) -> set[str]:
    """What a module uses that Windows or macOS may not have."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} & MODULES
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in CALLS.get(node.value.id, "").split():
                found.add(f"{node.value.id}.{node.attr}")
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("/proc", "/dev"))
        ):
            found.add("/proc")
    return found


@functools.cache
def trees() -> dict[str, ast.AST]:
    return {
        str(path.relative_to(PACKAGE).as_posix()): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }


def test_what_only_some_systems_have_is_known() -> None:
    assert {name: found for name, tree in trees().items() if (found := unsafe(tree))} == KNOWN


def test_such_calls_are_seen() -> None:
    code = (
        "import fcntl, os\nfrom resource import getrlimit\nos.fork()\nx = os.environ\nopen('/proc/stat')\nsignal.SIGINT"
    )
    assert unsafe(ast.parse(code)) == {"fcntl", "resource", "os.fork", "/proc"}


def test_the_page_names_them() -> None:
    page = PACKAGE.parent / "docs" / "compatibility.md"
    if not page.exists():
        pytest.skip("not a checkout")
    text = page.read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"`{name}`" not in text] == []


WITHOUT = """
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None  # as on Windows
from pathlib import Path
folder = Path(sys.argv[1])
from mechsteer import files
files.write_json(folder / "a.json", [1])
with files.folder_lock(folder) as held:
    assert not held
assert [path.name for path in folder.iterdir()] == ["a.json"]
print("done")
"""


def test_without_file_locks_files_are_written_as_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_without_file_locks_a_store_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechsteer.activations.manifest import locked

    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(MechsteerError, match="needs a system with fcntl"), locked(tmp_path):
        raise AssertionError("it was")


def names_transformer_lens(tree: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "transformer_lens" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformer_lens")
        for node in ast.walk(tree)
    )


def test_only_models_imports_transformer_lens() -> None:
    found = {name.split("/")[0] for name, tree in trees().items() if names_transformer_lens(tree)}
    assert found == {"models"}
