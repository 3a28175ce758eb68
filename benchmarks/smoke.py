"""What an installed mechsteer must do with the base install alone, in an empty folder, with no network.

``benchmarks/release.py`` runs this file with the Python of a fresh environment (``python -I smoke.py FOLDER``). It
imports nothing of the repository. What an extra brings must be refused in one line that names the extra.
"""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mechsteer as ms


def uses(folder: Path) -> None:
    """Load, steer, generate, capture."""
    model = ms.load("organism:instruct-llama")
    prompt = ms.prompt(model, "Tell me about the writer.", instruction="Use only uppercase letters.")
    steer = ms.attention_bias(delta=1.0)
    plain = ms.generate(model, prompt, max_new_tokens=16).texts[0]
    steered = ms.generate(model, prompt, steer=steer, max_new_tokens=16).texts[0]
    assert steered == steered.upper() and steered.strip(), (plain, steered)
    assert ms.generate(model, prompt, steer=ms.attention_bias(delta=0.0), max_new_tokens=16).texts[0] == plain
    steer.explain(model, prompt)
    direction = ms.difference_in_means(model, [("the bear is big", "the cat is small")], layer=2)
    assert ms.Direction.load(direction.save(folder / "d.safetensors")).vector.equal(direction.vector)
    store = ms.capture(model, ["the bear", "the cat is small"], sites="resid_post", store=folder / "store")
    assert len(ms.ActivationStore.open(folder / "store").index) == len(store.index)
    print("load, steer, generate, capture: work")


def demo(folder: Path) -> None:
    """The study of ``make demo``, by the command; its summary goes to the caller as a file."""
    command = [str(Path(sys.executable).parent / "mechsteer"), "reproduce", "t5-dola", "--out", str(folder / "t5-dola")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    assert (folder / "t5-dola" / "report.html").exists() and list((folder / "t5-dola" / "figures").glob("*.png"))
    print("mechsteer reproduce t5-dola: works")


def _ray() -> Any:
    from mechsteer.studies.sweep import grid, sweep

    return sweep(grid(model="organism:trap-t5"), "sweep", executor="ray")


def _harness() -> Any:
    import mechsteer.harness

    return mechsteer.harness.SteeredLM


def _inspect() -> Any:
    return importlib.import_module("mechsteer.inspect_bridge")


def _control_vector() -> Any:
    import torch

    return ms.Direction(torch.ones(4), "blocks.1.hook_resid_post", "x").to_gguf("c.gguf")


EXTRAS: dict[str, tuple[str, Callable[[], Any]]] = {
    "eval": ("lm_eval", _harness),
    "ray": ("ray", _ray),
    "inspect": ("inspect_ai", _inspect),
    "gguf": ("gguf", _control_vector),
    "explore": ("panel", lambda: ms.explore("organism:instruct-llama", "Tell me about the writer.")),
}
"""For each extra: a module that it brings, and what needs it."""


def extras() -> None:
    """Without an extra, what needs it says which."""
    for name, (module, use) in EXTRAS.items():
        if importlib.util.find_spec(module):
            print(f"extra {name}: {module} is here without it")
            continue
        try:
            use()
        except (ms.MechsteerError, ImportError) as error:
            assert f"mechsteer[{name}]" in str(error) and "\n" not in str(error), error
            print(f"extra {name}: {error}")
        else:
            raise AssertionError(f"{module} is not here, and nothing says so")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    package = Path(ms.__file__).parent
    assert "site-packages" in package.parts, package
    print(json.dumps({"version": ms.__version__, "package": str(package)}))
    extras()
    uses(place)
    demo(place)
