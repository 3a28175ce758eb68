"""What steering costs while decoding: DIRECTER and GUIDE against plain greedy decoding and against DIRECTER one by one.

A random Llama-like model of 6 layers and width 512, one prompt of 256 tokens of which 16 are the instruction, 128 new
tokens. How often DIRECTER needs trials depends on how sure a model is, so there are two: one drawn as usual, unsure of
every token, so that it needs them at every step; and one drawn with larger weights, whose steps are partly settled.

The sequential way is the paper's loop as its released code runs it, in Hugging Face's model: a copy of the cache for
the raw pass, one for each trial and one for each layer that is ranked, and one pass after another. (It has the paper's
trials and ranking, so that both write the same tokens; the table says how many of them.)

The contestants take turns, round after round, in one process; ratios are taken within a round. Memory is measured in a
process for each: the peak above what was resident after a short run. Linux only, for it reads ``/proc``.

Run: ``.venv/bin/python benchmarks/directer.py`` (about 6 minutes on one thread).
"""

import copy
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import VOCAB, checkpoint, measure, peak_above, without_eos

import mechsteer as ms
from mechsteer.report import show

PROMPT, SPAN, NEW, LAYERS = 256, (8, 24), 128, 6
ALPHA, BETA = 100.0, 0.5
SPREADS = {"unsure model": 0.02, "surer model": 0.12}
RESULTS = Path(__file__).parent / "results"
PLAIN, OURS, GUIDE, SEQUENTIAL = "greedy", "DIRECTER", "GUIDE, all layers", "DIRECTER, one by one"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """How often each contestant runs."""
    threads: int = 1
    """PyTorch threads."""


Run = Callable[[int], list[int]]


class Sequential:
    """The paper's loop in Hugging Face's model, one pass and one copy of the cache after another."""

    def __init__(self, folder: Path) -> None:
        import transformers as t

        self.model = t.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.seen: dict[int, tuple[Any, Any]] = {}

    def step(self, token: torch.Tensor, cache: Any, layers: list[int]) -> tuple[torch.Tensor, Any]:
        """One token against a copy of the cache whose instruction keys are scaled in some layers."""
        cache = copy.deepcopy(cache)
        for layer in layers:
            cache.layers[layer].keys[:, :, slice(*SPAN)] *= ALPHA
        out = self.model(token, past_key_values=cache, use_cache=True)
        return out.logits[0, -1].float(), cache

    def ranking(self, token: torch.Tensor, cache: Any) -> list[int]:
        """One pass without and one with each layer's keys scaled; equations 3 to 6."""
        handles = []
        for layer, block in enumerate(self.model.model.layers):

            def keep(module: Any, args: Any, kwargs: Any, out: Any, layer: int = layer) -> None:
                self.seen[layer] = (kwargs["hidden_states"][0, -1], out[0][0, -1])

            handles.append(block.self_attn.register_forward_hook(keep, with_kwargs=True))
        states = []
        for layers in [[], *([layer] for layer in range(LAYERS))]:
            self.step(token, cache, layers)
            states.append(dict(self.seen))
        for handle in handles:
            handle.remove()

        def distance(a: torch.Tensor, b: torch.Tensor) -> float:
            return 1 - float(torch.cosine_similarity(a.double(), b.double(), dim=0))

        raw, scores = states[0], []
        for one in states[1:]:
            effects = [distance(raw[j][0], one[j][1]) + distance(one[j][0], raw[j][1]) for j in range(LAYERS)]
            scores.append(sum(effects))
        return sorted(range(LAYERS), key=lambda layer: -scores[layer])

    @torch.no_grad()
    def run(self, tokens: torch.Tensor, new: int) -> list[int]:
        """The new tokens."""
        out = self.model(tokens[None, :-1], use_cache=True, logits_to_keep=1)
        cache, token = out.past_key_values, tokens[None, -1:]
        ranked: list[int] = []
        written: list[int] = []
        for _ in range(new):
            logits, after = self.step(token, cache, [])
            if not ranked:
                ranked = self.ranking(token, cache)
            p = logits.softmax(-1)
            first, second = p.topk(2).values.tolist()
            chosen = int(p.argmax())
            size = 0 if second < BETA * first else LAYERS
            while size:
                steered = int(self.step(token, cache, ranked[:size])[0].argmax())
                if p[steered] >= BETA * p.max():
                    chosen = steered
                    break
                size //= 2
            written.append(chosen)
            cache, token = after, torch.tensor([[chosen]])
        return written


def tokens(length: int) -> torch.Tensor:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(1))


def contestants(folder: Path, names: tuple[str, ...] = (PLAIN, OURS, GUIDE, SEQUENTIAL)) -> dict[str, Run]:
    """Functions from a number of new tokens to the tokens."""
    prompt = ms.Prompt("random tokens", tokens(PROMPT), {"instruction": [SPAN]})
    runs: dict[str, Run] = {}
    if set(names) != {SEQUENTIAL}:
        model = ms.load(str(folder))
        without_eos(model)

        def ours(new: int, **options: Any) -> list[int]:
            return ms.generate(model, prompt, max_new_tokens=new, **options).tokens[0].tolist()

        runs[PLAIN] = ours
        runs[OURS] = lambda new: ours(new, strategy=ms.Directer(alpha=ALPHA, beta=BETA))
        runs[GUIDE] = lambda new: ours(new, steer=ms.attention_bias(delta=2.0))
    if SEQUENTIAL in names:
        sequential = Sequential(folder)
        runs[SEQUENTIAL] = lambda new: sequential.run(prompt.tokens, new)
    return {name: runs[name] for name in names}


def peak_alone(name: str, folder: Path) -> float:
    """Peak memory in MB above the loaded model, in this process."""
    run = contestants(folder, (name,))[name]
    run(1)
    return peak_above(lambda: run(NEW))


def peak(name: str, folder: Path, threads: int) -> float:
    """:func:`peak_alone` in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, str(folder), str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def compare(label: str, spread: float, options: Options) -> pd.DataFrame:
    """One row a contestant."""
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint("llama", Path(name), layers=LAYERS, spread=spread)
        runs = contestants(folder)
        peaks = {name: peak(name, folder, options.threads) for name in runs}
        written = {name: run(NEW) for name, run in runs.items()}
        seconds = measure({name: lambda run=run: run(NEW) for name, run in runs.items()}, options.rounds)
        first = measure({name: lambda run=run: run(1) for name, run in runs.items()}, 3 * options.rounds)
        model = ms.load(str(folder))
        without_eos(model)
        prompt = ms.Prompt("random tokens", tokens(PROMPT), {"instruction": [SPAN]})
        trace = ms.generate(model, prompt, strategy=ms.Directer(alpha=ALPHA, beta=BETA), max_new_tokens=NEW).trace
    wide, wide_first = (
        table.pivot(index="round", columns="contestant", values="seconds") for table in (seconds, first)
    )
    ratio, ratio_first = wide.div(wide[PLAIN], axis=0), wide_first.div(wide_first[PLAIN], axis=0)
    same = sum(a == b for a, b in zip(written[OURS], written[SEQUENTIAL], strict=True))
    return pd.DataFrame(
        {
            "model": label,
            "contestant": list(runs),
            "median seconds": [wide[n].median() for n in runs],
            "times greedy (median)": [ratio[n].median() for n in runs],
            "smallest": [ratio[n].min() for n in runs],
            "largest": [ratio[n].max() for n in runs],
            "first token, ms": [1000 * wide_first[n].median() for n in runs],
            "times greedy's first": [ratio_first[n].median() for n in runs],
            "peak MB": [peaks[n] for n in runs],
            "steps that need trials": (~trace["skipped"]).mean(),
            "trials in such a step": trace.loc[~trace["skipped"], "trials"].mean(),
            "tokens as one by one": same / NEW,
        }
    )


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    table = pd.concat([compare(label, spread, options) for label, spread in SPREADS.items()], ignore_index=True)
    print(f"\n{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    print(show(table, decimals=2))
    RESULTS.mkdir(exist_ok=True)
    made = table.assign(threads=options.threads, rounds=options.rounds, torch=torch.__version__)
    made.to_csv(RESULTS / "directer.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(int(sys.argv[4]))
        print(json.dumps(peak_alone(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(tyro.cli(Options, description=__doc__))
