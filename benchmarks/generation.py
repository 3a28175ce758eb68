"""Greedy generation side by side: mechsteer, TransformerLens's own ``generate``, and Hugging Face's.

Random models of T5-small's size, of a small GPT-2's and of a small Llama's; batch 8, prompts of 32 tokens, 64 new
tokens, no early stop. Within one process the contestants take turns, round after round, so that whatever else the
machine does hits all of them; every ratio is taken within a round, and its median and range over rounds are reported.

TransformerLens's ``generate`` runs on the model that mechsteer loaded, whose memory layout is the faster one for it.

Run: ``.venv/bin/python benchmarks/generation.py`` (about 15 minutes on one thread).
"""

import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import tyro
from common import VOCAB, checkpoint, measure, without_eos

import mechsteer as ms
from mechsteer.report import show

BATCH, PROMPT, NEW = 8, 32, 64
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    family: Literal["t5", "gpt2", "llama", "all"] = "all"
    """Which model type."""
    rounds: int = 5
    """How often each contestant runs."""
    threads: int = 1
    """PyTorch threads."""


def contestants(family: str, folder: Path) -> dict[str, Callable[[], Any]]:
    """What takes part, by name. The first is what the others are compared with."""
    import transformers as t

    model = ms.load(str(folder))
    without_eos(model)
    auto = t.AutoModelForSeq2SeqLM if family == "t5" else t.AutoModelForCausalLM
    hf = {kind: auto.from_pretrained(folder, attn_implementation=kind).eval() for kind in ("sdpa", "eager")}
    tokens = torch.randint(3, VOCAB, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    texts = [" ".join(f"t{i}" for i in row) for row in tokens.tolist()]
    prompts = [ms.prompt(model, text) for text in texts]
    steer = ms.add(ms.random_direction(model, layer=3, seed=0), 4.0)

    def hugging_face(kind: str) -> Any:
        hf[kind].generation_config.eos_token_id = None
        with torch.no_grad():
            return hf[kind].generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False
            )

    def library(**options: Any) -> Any:
        arguments = {"max_new_tokens": NEW, "do_sample": False, "stop_at_eos": False, "verbose": False, **options}
        if family == "t5":
            return model.generate(tokens, torch.ones_like(tokens), return_type="tensor", **arguments)
        return model.generate(tokens, return_type="tokens", prepend_bos=False, **arguments)

    runs: dict[str, Callable[[], Any]] = {
        "mechsteer": lambda: ms.generate(model, prompts, max_new_tokens=NEW),
        "mechsteer, one steering hook": lambda: ms.generate(model, prompts, steer=steer, max_new_tokens=NEW),
        "Hugging Face (sdpa, its default)": lambda: hugging_face("sdpa"),
        "Hugging Face (eager)": lambda: hugging_face("eager"),
    }
    if family == "t5":
        return runs | {"TransformerLens generate (has no cache)": library}
    return runs | {
        "TransformerLens generate, cached": library,
        "TransformerLens generate, uncached": lambda: library(use_past_kv_cache=False),
    }


def ratios(family: str, seconds: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of each contestant, and how many times mechsteer's unsteered time, with its range."""
    wide = seconds.pivot(index="round", columns="contestant", values="seconds")
    relative = wide.div(wide["mechsteer"], axis=0)
    order = list(dict.fromkeys(seconds["contestant"]))
    return pd.DataFrame(
        {
            "model": family,
            "contestant": order,
            "median seconds": [wide[name].median() for name in order],
            "times mechsteer (median)": [relative[name].median() for name in order],
            "smallest": [relative[name].min() for name in order],
            "largest": [relative[name].max() for name in order],
        }
    )


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    tables = []
    for family in ("t5", "gpt2", "llama") if options.family == "all" else (options.family,):
        with tempfile.TemporaryDirectory() as folder:
            tables.append(
                ratios(family, measure(contestants(family, checkpoint(family, Path(folder))), options.rounds))
            )
    table = pd.concat(tables, ignore_index=True)
    print(f"\n{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    print(show(table, decimals=2))
    RESULTS.mkdir(exist_ok=True)
    table.assign(threads=options.threads, rounds=options.rounds, torch=torch.__version__).to_csv(
        RESULTS / "generation.csv", index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
