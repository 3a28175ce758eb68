"""What steering costs: each family against unsteered generation, and a vector add against other libraries.

A random Llama-like model (6 layers, width 512), batch 8, prompts of 40 tokens of which 8 are the instruction, 64 new
tokens, no early stop. The contestants take turns, round after round, in one process; ratios are taken within a round.

repeng and steering-vectors do not share an environment with mechsteer (they need older releases of transformers). Name
the Python of an environment that has them and they take their turns in a process of their own, on the same checkpoint
and tokens: ``--peer-python /path/to/python``. Their cost is measured against the unsteered Hugging Face ``generate`` of
that environment.

Run: ``.venv/bin/python benchmarks/steering.py`` (about 5 minutes on one thread).
"""

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import VOCAB, checkpoint, measure, without_eos

import mechsteer as ms
from mechsteer.report import show

BATCH, INSTRUCTION, TASK, NEW, LAYER = 8, 8, 32, 64, 3
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """How often each contestant runs."""
    threads: int = 1
    """PyTorch threads."""
    peer_python: Path | None = None
    """The Python of an environment with repeng and steering-vectors."""


def contestants(folder: Path) -> dict[str, Callable[[], Any]]:
    """Unsteered first, then one of each family."""
    model = ms.load(str(folder))
    without_eos(model)
    tokens = torch.randint(3, VOCAB, (BATCH, INSTRUCTION + TASK), generator=torch.Generator().manual_seed(1)).tolist()
    words = [[f"t{i}" for i in row] for row in tokens]
    prompts = [ms.prompt(model, " ".join(row[INSTRUCTION:]), instruction=" ".join(row[:INSTRUCTION])) for row in words]
    direction = ms.random_direction(model, layer=LAYER, seed=0)
    at_heads = ms.random_direction(model, site=f"blocks.{LAYER}.attn.hook_z", seed=0)
    delta = ms.Direction(at_heads.unit.repeat(model.cfg.n_heads), at_heads.site, "random", meta=at_heads.meta)
    families = {
        "unsteered": None,
        "add, one site": ms.add(direction, 4.0),
        "project, one site": ms.project(direction, target=4.0),
        "heads, one layer": ms.heads(delta, scope="all"),
        "attention_bias, all layers": ms.attention_bias("instruction", 2.0),
        "pasta, all layers and heads": ms.pasta("instruction", 0.1),
        "spotlight, all layers": ms.spotlight("instruction", 0.1),
        "scale_keys, all layers": ms.scale_keys("instruction", 10.0),
    }
    return {
        name: lambda steer=steer: ms.generate(model, prompts, steer=steer, max_new_tokens=NEW)
        for name, steer in families.items()
    }


def ratios(seconds: pd.DataFrame, base: str) -> pd.DataFrame:
    """Median seconds, and how many times the unsteered time of the same round: median and range."""
    wide = seconds.pivot(index="round", columns="contestant", values="seconds")
    relative = wide.div(wide[base], axis=0)
    order = list(dict.fromkeys(seconds["contestant"]))
    return pd.DataFrame(
        {
            "contestant": order,
            "median seconds": [wide[name].median() for name in order],
            "times unsteered (median)": [relative[name].median() for name in order],
            "smallest": [relative[name].min() for name in order],
            "largest": [relative[name].max() for name in order],
        }
    )


def peers(python: Path, folder: Path, options: Options) -> pd.DataFrame:
    """The other libraries, in their own environment."""
    command = [python, HERE / "peer_steering.py", folder, str(options.rounds), str(options.threads)]
    output = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    return pd.DataFrame(json.loads(output.splitlines()[-1]))


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint("llama", Path(folder))
        tables = [ratios(measure(contestants(path), options.rounds), "unsteered")]
        if options.peer_python is not None:
            tables.append(ratios(peers(options.peer_python, path, options), "Hugging Face, unsteered"))
    table = pd.concat(tables, ignore_index=True)
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    print(show(table, decimals=2))
    (HERE / "results").mkdir(exist_ok=True)
    table.assign(threads=options.threads, rounds=options.rounds, torch=torch.__version__).to_csv(
        HERE / "results" / "steering.csv", index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
