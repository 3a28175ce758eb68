"""mechsteer beside Hugging Face by length and by batch: how ratios grow where prompts are long or many.

Random models like Llama, GPT-2 and T5 (6 layers, width 512), and any checkpoint that is named (``--model FOLDER`` or
the environment variable MECHSTEER_BENCH_MODEL). Three tasks:

- ``long``: a prompt and 8 greedy tokens after it, unsteered and under GUIDE in all layers; T5 answers 64 tokens to four
  inputs;
- ``batch``: 64 greedy tokens after prompts of 40 tokens;
- ``inside``: one pass that reads out its last position, beside the residual streams of all layers there, and Influence.

The contestants of a size take turns, round after round, in one process; each ratio is taken within a round. Beside the
ratio of the time that passed stands the one of processor time, which other work on the machine disturbs less.

Run: ``.venv/bin/python benchmarks/speed.py``; with ``--rounds 1 --lengths 256 --batches 1`` for a look.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import tyro
from common import RESULTS, checkpoint, measure, ratios, without_eos, write

import mechsteer as ms
from mechsteer.models import advance, start

HF, OURS, GUIDE = "Hugging Face (sdpa)", "mechsteer", "mechsteer, GUIDE in all layers"
FORWARD, CAPTURE, INFLUENCE = "forward pass", "capture, last token, all layers", "influence"
BASES = {OURS: HF, GUIDE: OURS, CAPTURE: FORWARD, INFLUENCE: FORWARD}
"""What each contestant is compared with."""

Runs = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: Path | None = None
    """A checkpoint folder to measure too; default: MECHSTEER_BENCH_MODEL where that is set."""
    families: tuple[Literal["llama", "gpt2", "t5"], ...] = ("llama", "gpt2", "t5")
    """Random models."""
    lengths: tuple[int, ...] = (256, 1024, 2048, 4096)
    """Tokens of the prompts; of T5's inputs, a quarter."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Rows of the batches."""
    tasks: tuple[Literal["long", "batch", "inside"], ...] = ("long", "batch", "inside")
    """Which tasks."""
    rounds: int = 5
    """How often each contestant runs."""
    threads: int = 2
    """PyTorch threads."""
    device: str = "cpu"
    """Where to measure."""
    out: Path = RESULTS
    """Where the table goes."""


@dataclass(frozen=True)
class Subject:
    """One model, hooked and as Hugging Face has it."""

    name: str
    model: Any
    hf: Any

    @property
    def two_stacks(self) -> bool:
        """Whether it is an encoder-decoder."""
        return bool(self.hf.config.is_encoder_decoder)

    def prompts(self, count: int, length: int) -> list[ms.Prompt]:
        """Random tokens, of which the first 16 after the start are the instruction."""
        shape, generator = (count, length), torch.Generator().manual_seed(1)
        tokens = torch.randint(3, min(self.model.cfg.d_vocab, 32000), shape, generator=generator)
        spans = {"instruction": [(1, 17)], "task": [(17, length)]}
        return [ms.Prompt("random tokens", row, spans, encoder_decoder=self.two_stacks) for row in tokens]

    def theirs(self, prompts: list[ms.Prompt], new: int) -> Any:
        """Hugging Face's greedy tokens."""
        tokens = torch.stack([p.tokens for p in prompts]).to(self.hf.device)
        with torch.no_grad():
            return self.hf.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, do_sample=False
            )

    def ours(self, prompts: list[ms.Prompt], new: int, steer: Any = None) -> Any:
        """The same with mechsteer."""
        return ms.generate(self.model, prompts, max_new_tokens=new, batch_size=len(prompts), steer=steer)

    @torch.no_grad()
    def forward(self, prompt: ms.Prompt) -> float:
        """One pass that reads out its last position."""
        tokens = prompt.tokens[None]
        mask = torch.ones_like(tokens, dtype=torch.bool)
        return advance(self.model, start(self.model, tokens, mask), tokens, mask).sum().item()


def subject(name: str, folder: Path, device: str) -> Subject:
    """Load both. No row ends early."""
    import transformers as t

    model = ms.load(str(folder), device=device)
    without_eos(model)
    auto = t.AutoModelForSeq2SeqLM if hasattr(model, "decoder_final_ln") else t.AutoModelForCausalLM
    hf = auto.from_pretrained(folder, attn_implementation="sdpa").eval().requires_grad_(False).to(device)
    hf.generation_config.eos_token_id, hf.generation_config.pad_token_id = None, model.tokenizer.pad_token_id
    return Subject(name, model, hf)


def long(s: Subject, length: int) -> Runs:
    """A prompt and a few tokens after it; of T5, an answer."""
    count, new = (4, 64) if s.two_stacks else (1, 8)
    prompts = s.prompts(count, length)
    guide = ms.attention_bias("instruction", 1.0)
    return {
        HF: lambda: s.theirs(prompts, new),
        OURS: lambda: s.ours(prompts, new),
        GUIDE: lambda: s.ours(prompts, new, guide),
    }


def batch(s: Subject, rows: int) -> Runs:
    """Many tokens after short prompts."""
    prompts = s.prompts(rows, 40)
    return {HF: lambda: s.theirs(prompts, 64), OURS: lambda: s.ours(prompts, 64)}


def inside(s: Subject, length: int) -> Runs:
    """What it costs to look inside."""
    (prompt,) = s.prompts(1, length)
    return {
        FORWARD: lambda: s.forward(prompt),
        CAPTURE: lambda: ms.capture(s.model, prompt, sites="resid_post"),
        INFLUENCE: lambda: ms.influence(s.model, prompt),
    }


def sizes(s: Subject, task: str, options: Options) -> list[int]:
    """Lengths or batches."""
    if task == "batch":
        return list(options.batches)
    if s.two_stacks:
        return [max(length // 4, 32) for length in options.lengths] if task == "long" else []
    limit = s.model.cfg.n_ctx - 8
    return [length for length in options.lengths if length <= limit]


def table(s: Subject, options: Options) -> pd.DataFrame:
    """All that is measured of one model."""
    make = {"long": long, "batch": batch, "inside": inside}
    parts = []
    for task in options.tasks:
        for size in sizes(s, task, options):
            print(f"{s.name}, {task}, {size}", flush=True)
            found = ratios(measure(make[task](s, size), options.rounds), BASES)
            parts.append(found.assign(model=s.name, task=task, size=size))
    return pd.concat(parts, ignore_index=True)


def main(options: Options) -> None:
    """Measure, print, write."""
    torch.set_num_threads(options.threads)
    named = options.model or os.environ.get("MECHSTEER_BENCH_MODEL")
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for family in options.families:
            path = checkpoint(family, Path(folder) / family, context=max(options.lengths) + 8)
            tables.append(table(subject(f"random {family}", path, options.device), options))
        if named:
            tables.append(table(subject(Path(named).name, Path(named), options.device), options))
    whole = pd.concat(tables, ignore_index=True)
    order = ["model", "task", "size"]
    write(whole[order + [c for c in whole if c not in order]], "speed", options.threads, options.rounds, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
