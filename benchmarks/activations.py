"""What capturing activations costs, and how fast a store is written and read.

Capture: random models of 6 layers, width 512, batch 8, prompts of 64 tokens, 1 thread. The residual stream after every
layer at the last token of every prompt, against a plain forward pass of the hooked model and of Hugging Face's (both
with logits at all positions), the hooked model's pass without the read-out, and the library's ``run_with_cache`` of the
same sites. The contestants take turns, round after round, in one process; ratios are taken within a round.

Store: rows as a capture hands them over (6 sites, width 512, float32) written as shards with checksums and index,
against one file of the same bytes written and fsynced; then rows read back at random from all shards.

Run: ``.venv/bin/python benchmarks/activations.py`` (about 5 minutes).
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from common import VOCAB, checkpoint, measure

import mechsteer as ms
from mechsteer.activations import ActivationStore, capture
from mechsteer.activations.positions import Rows
from mechsteer.activations.streaming import Chunk, make_plan
from mechsteer.activations.writing import key_of, writing
from mechsteer.report import show
from mechsteer.steering import Intervention

BATCH, LENGTH, WIDTH, LAYERS = 8, 64, 512, 6
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 7
    """How often each contestant runs."""
    threads: int = 1
    """PyTorch threads."""
    repeats: int = 5
    """Passes of each contestant in one turn."""
    megabytes: int = 500
    """How much to write to the store."""
    folder: Path | None = None
    """On which disk; default: that of temporary files."""


def forwards(folder: Path, repeats: int) -> dict[str, Callable[[], Any]]:
    """A plain forward first, then the ways to get the residual stream."""
    from transformers import AutoModelForCausalLM

    model = ms.load(str(folder))
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = torch.randint(3, VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    names = [tuple(f"t{i}" for i in row) for row in tokens.tolist()]
    prompts = [ms.Prompt(" ".join(n), row, {"task": [(0, LENGTH)]}, n) for n, row in zip(names, tokens, strict=True)]
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS)]
    runs: dict[str, Callable[[], Any]] = {
        "forward": lambda: model(tokens, prepend_bos=False),
        "forward, no read-out": lambda: model(tokens, prepend_bos=False, stop_at_layer=LAYERS),
        "Hugging Face forward": lambda: hf(tokens),
        "run_with_cache": lambda: model.run_with_cache(tokens, names_filter=sites, prepend_bos=False),
        "run_with_cache, no read-out": lambda: model.run_with_cache(
            tokens, names_filter=sites, prepend_bos=False, stop_at_layer=LAYERS
        ),
        "capture, last token": lambda: capture(model, prompts, sites="resid_post"),
        "capture, all tokens": lambda: capture(model, prompts, sites="resid_post", positions="all"),
    }
    _, cache = runs["run_with_cache"]()
    for site, values in runs["capture, last token"]().items():
        torch.testing.assert_close(values, cache[site][:, -1], atol=1e-4, rtol=1e-4)
    return {name: lambda run=run: [run() for _ in range(repeats)] for name, run in runs.items()}


def ratios(seconds: pd.DataFrame, repeats: int) -> pd.DataFrame:
    """Median seconds of one pass, and times the plain forward and run_with_cache of the same round."""
    wide = seconds.pivot(index="round", columns="contestant", values="seconds") / repeats
    order = list(dict.fromkeys(seconds["contestant"]))
    columns: dict[str, Any] = {"contestant": order, "median seconds": [wide[name].median() for name in order]}
    for base in ("forward", "Hugging Face forward", "run_with_cache"):
        relative = wide.div(wide[base], axis=0)
        columns[f"times {base}"] = [relative[name].median() for name in order]
        columns[f"times {base}, range"] = [f"{relative[name].min():.2f}-{relative[name].max():.2f}" for name in order]
    return pd.DataFrame(columns)


def chunks(count: int) -> list[Chunk]:
    """Batches of 32 prompts of 64 tokens, every position."""
    n = 32 * 64
    values = {f"blocks.{layer}.hook_resid_post": torch.randn(n, WIDTH) for layer in range(LAYERS)}
    rows = [Rows([32 * i + r // 64 for r in range(n)], [r % 64 for r in range(n)], [5] * n, [False] * n)
            for i in range(count)]  # fmt: skip
    return [Chunk({"blocks": row}, values) for row in rows]


def disk(model: Any, folder: Path, megabytes: int) -> dict[str, Callable[[], Any]]:
    """A raw write and a store of the same bytes."""
    plan = make_plan(model, "resid_post", "all", Intervention())
    made = chunks(-(-megabytes * 10**6 // (32 * 64 * WIDTH * 4 * LAYERS)))
    raw = [x.numpy().tobytes() for chunk in made[:1] for x in chunk.values.values()]
    prompts = [ms.Prompt(f"prompt {i}", torch.tensor([i]), {}) for i in range(32 * len(made))]

    def sequential() -> None:
        with (folder / "raw").open("wb") as file:
            for _ in made:
                for part in raw:
                    file.write(part)
            file.flush()
            os.fsync(file.fileno())
        (folder / "raw").unlink()

    def store() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        with writing(ActivationStore.create(folder / "store"), key_of(model, plan), plan) as writer:
            for chunk in made:
                writer.add(chunk, prompts, model.tokenizer)
            writer.flush()

    return {"raw write and fsync": sequential, "store": store}


def written(seconds: pd.DataFrame, size: int) -> pd.DataFrame:
    """MB/s of each, and the store's share of the raw speed in the same round."""
    wide = size / 1e6 / seconds.pivot(index="round", columns="contestant", values="seconds")
    share = wide.div(wide["raw write and fsync"], axis=0)
    return pd.DataFrame(
        {
            "contestant": wide.columns,
            "median MB/s": wide.median().to_numpy(),
            "share of raw": share.median().to_numpy(),
            "share of raw, range": [f"{share[name].min():.2f}-{share[name].max():.2f}" for name in wide],
        }
    )


def random_reads(path: Path, rounds: int, batch: int = 4096) -> pd.DataFrame:
    """Rows a second, drawn at random from all shards in batches; the file cache is warm."""
    rows = ActivationStore.open(path)["blocks.3.hook_resid_post"]
    draw = np.random.default_rng(0)
    speeds = []
    for _ in range(rounds):
        chosen = draw.integers(len(rows), size=(10, batch))
        began = time.perf_counter()
        for one in chosen:
            rows[one]
        speeds.append(chosen.size / (time.perf_counter() - began))
    return pd.DataFrame(
        {
            "contestant": [f"random rows, batches of {batch}"],
            "rows a second": [float(np.median(speeds))],
            "rows a second, range": [f"{min(speeds):.0f}-{max(speeds):.0f}"],
        }
    )


@torch.no_grad()
def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    tables = []
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        for family in ("llama", "gpt2"):
            path = checkpoint(family, folder / family)
            table = ratios(measure(forwards(path, options.repeats), options.rounds), options.repeats)
            tables.append(table.assign(part="capture", model=family))
        model = ms.load(str(folder / "gpt2"))
        seconds = measure(disk(model, folder, options.megabytes), options.rounds)
        size = sum(path.stat().st_size for path in (folder / "store").glob("*.safetensors"))
        tables.append(written(seconds, size).assign(part="write", megabytes=size / 1e6))
        tables.append(random_reads(folder / "store", options.rounds).assign(part="read"))
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    for table in tables:
        print(show(table, decimals=3), "\n")
    (HERE / "results").mkdir(exist_ok=True)
    pd.concat(tables, ignore_index=True).assign(
        threads=options.threads, rounds=options.rounds, torch=torch.__version__
    ).to_csv(HERE / "results" / "activations.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
