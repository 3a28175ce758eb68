"""Every notebook runs from its first cell to its last, with smaller numbers than it shows.

Each runs in a copy of this process, which has imported already what a new kernel would take long to import, with its
own folders for what it writes. ``make test`` runs the first in a kernel, and ``make notebooks`` all of them, whole.
"""

import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import matplotlib_inline.backend_inline  # noqa: F401  what each copy would import
import pytest

from mechsteer.decoding.loop import Writer
from tests.studies.conftest import write_traps

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IN_A_KERNEL = "00_quickstart"  # see the Makefile
TRAPS, FEW_KINDS, NEW_TOKENS = "few_traps.csv", ("upper", "json", "french"), 8  # no answer is longer
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="not a checkout")
SMALLER = {
    "01_t5_memotrap": {
        "tasks.memotrap()": f"tasks.memotrap({TRAPS!r})",
        "layers = range(len(model.decoder))": "layers = [2, 6]",
        "n_random=20": f"data={TRAPS!r}, n_random=1, layers=[6], strengths=[1.0], absolute=[20.0]",
    },
    "02_steering": {"n=10": "n=3"},
    "03_inside_the_model": {
        "traps = task.samples": "task = type(task)(task.name, task.samples[:48], task.mining)\ntraps = task.samples",
        "n=20": "n=4",
        "[kind] * 20": "[kind] * 4",
        "n=8": "n=2",
        "n=5": "n=1",
        "(0, 8, 16, 24)": "(0, 24)",
    },
    "04_instruction_vectors": {
        "LAYERS = [1, 3, 5]": "LAYERS = [1, 5]",
        "n_boot=200": "n_boot=20",
        "        return task\n": "        return replace(task, samples=task.samples[:4])\n",
        "(0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)": "(0.5, 1.0)",
        "(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)": "(0.0, 1.0)",
    },
    "05_guide": {
        "instructions(n": f"instructions({FEW_KINDS}, n",
        "n=2": "n=1",
        "n=4": "n=1",
        "n=5": "n=2",
        "n=8": "n=2",
        '"Important: …", "*marked*", "twice", ': "",
        "(0.0, 1.0, 2.0, 3.0, 5.0)": "(0.0, 2.0)",
        "range(0, 101, 25)": "(0, 100)",
        "tolerance=0.02": "tolerance=0.2",
    },
    "06_directer": {
        "n=4": "n=2",
        "(1, 2, 4, 6)": "(1, 6)",
        "(0.9, 0.7, 0.5, 0.3, 0.1)": "(0.9, 0.1)",
    },
    "07_sparse_and_sae": {
        "rules(rule, **options)": "rules(rule, n=16, **options)",
        "points=8": "points=3, max_steps=10",
        "layer=LAYER)": "layer=LAYER, max_steps=10)",
        "n=40": "n=40, max_steps=10",
        "n=28": "n=6",
        "(1, 2, 3, 5, 7, 10, 20)": "(1, 10)",
    },
    "08_your_own_model": {
        "notes=24, n=12": "notes=12, n=8",
        '("guide", "spotlight")': '("guide",)',
    },
}
"""What is replaced in the cells of a notebook: the same calls for fewer samples and settings."""


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, with the smaller numbers."""
    made = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in made if cell["cell_type"] == "code"]
    for shown, smaller in SMALLER.get(notebook.stem, {}).items():
        assert any(shown in source for source in sources), f"{notebook.name} no longer has {shown!r}"
        sources = [source.replace(shown, smaller) for source in sources]
    return sources


def run(sources: list[str], folder: Path) -> None:
    """Run cells as a kernel does; the first that fails says so."""
    import jaxtyping
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui: Any = None) -> None:
            """There is none."""

    begin = Writer.__post_init__

    def begin_shorter(self: Writer) -> None:
        self.max_new_tokens = min(self.max_new_tokens, NEW_TOKENS)
        begin(self)

    Writer.__post_init__ = begin_shorter  # in this copy of the process
    os.chdir(folder)
    jaxtyping.config.update("jaxtyping_disable", True)
    warnings.resetwarnings()
    shell = Shell.instance()
    shell.run_line_magic("matplotlib", "inline")
    for source in sources:
        shell.run_cell(source).raise_error()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for notebooks, beside the folders that they read."""
    for name in ("data", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    made = tmp_path / "notebooks"
    made.mkdir()
    write_traps(made / TRAPS, 24, 40)
    return made


@pytest.mark.parametrize("notebook", [p for p in NOTEBOOKS if p.stem != IN_A_KERNEL], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_it_runs(notebook: Path, folder: Path, tmp_path: Path, trap_t5: Any) -> None:
    sources, said = cells(notebook), tmp_path / "said"
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            code = 1
            try:
                run(sources, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                file.flush()
                os._exit(code)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:  # such as this test's time limit
        os.kill(child, signal.SIGKILL)
        raise
    assert status == 0, said.read_text()[-4000:]


def test_every_notebook_that_is_made_smaller_is_there() -> None:
    assert {*SMALLER, IN_A_KERNEL} <= {path.stem for path in NOTEBOOKS}
