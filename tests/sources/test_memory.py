"""However many prompts were captured, no analysis reads more than some of their rows at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.activations import moments
from mechsteer.directions import differences_in_means
from mechsteer.sources import ROWS, Recorded
from tests.steering.saes import make_sae
from tests.tiny import WORDS

READ: dict[str, tuple[Callable[[Any, Recorded], Any], int]] = {
    "similarity": (lambda m, s: ms.similarity(s, n_boot=10), ROWS),
    "separability": (lambda m, s: ms.separability(s), ROWS),
    "differences_in_means": (lambda m, s: differences_in_means(s), ROWS),
    "instruction_features": (lambda m, s: ms.instruction_features(s, make_sae(m)), ROWS),
    "logit_lens": (lambda m, s: ms.logit_lens(m, s, top_k=1, batch_size=7), 7),
    "volatility": (lambda m, s: ms.volatility(m, s, n_boot=10, batch_size=7), 7),
    "moments": (lambda m, s: moments(s, batch_size=7), 7),
}


@pytest.fixture(scope="module")
def stored(tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], ms.ActivationStore]:
    """So many pairs of different prompts, in a store of several shards."""
    model, folder = tiny("llama-gqa"), tmp_path_factory.mktemp("memory")
    draw = np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(draw.choice(WORDS[:18], size=1 + i % 5)) for i in range(140)))[:80]
    with_it = [ms.prompt(model, text, instruction="answer in capitals") for text in texts]
    ms.ActivationStore.create(folder / "s", shard_mb=0.03)
    groups = {"with": with_it, "without": [ms.prompt(model, text) for text in texts]}
    for size in (ROWS + 2, len(texts)):
        some = {f"{name} {size}": prompts[:size] for name, prompts in groups.items()}
        ms.capture(model, some, sites="resid_post", store=folder / "s", batch_size=64)
    return lambda size: ms.ActivationStore.open(folder / "s")


@pytest.mark.parametrize("name", READ)
def test_as_many_rows_of_many_prompts_as_of_few(name: str, stored: Callable, tiny: Callable) -> None:
    run, most = READ[name]
    store = stored(0)
    largest: dict[str, int] = {}
    sizes = sorted({key.split()[1] for key in store.groups}, key=int)
    assert len(sizes) == 2 and int(sizes[1]) > 2 * int(sizes[0])
    for size in sizes:
        whole = store.recorded()
        counts = []

        def read(site: str, rows: np.ndarray, of: Recorded = whole, counts: list[int] = counts) -> torch.Tensor:
            counts.append(len(rows))
            return of.read(site, rows)

        groups = {side: whole.groups[f"{side} {size}"] for side in ("with", "without")}
        run(tiny("llama-gqa"), replace(whole, groups=groups, read=read))
        largest[size] = max(counts)
        assert sum(counts) >= (1 if name == "instruction_features" else 3) * 2 * int(size)  # all of them, at each layer
    assert set(largest.values()) == {most}


def test_what_was_read_is_given_back(stored: Callable) -> None:
    store = stored(0)
    before = ms.similarity(store, groups=[f"{side} {ROWS + 2}" for side in ("with", "without")], n_boot=10)
    assert store._files
    store.release()  # and can be read again
    again = ms.similarity(store, groups=[f"{side} {ROWS + 2}" for side in ("with", "without")], n_boot=10)
    assert again.equals(before)


def resident(file: Path) -> int:
    """How many bytes of a mapped file are in this process's memory."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            here = line.endswith(str(file))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux only")
def test_pages_of_a_shard_do_not_stay(stored: Callable) -> None:
    store = stored(0)
    site = store.sites[0]
    shard = sorted(store.path.glob("*.safetensors"))[0]
    store[site][[0, 1]]
    assert resident(shard) > 0
    store.recorded().read(site, np.array([0, 1]))
    assert resident(shard) == 0
