"""What Influence costs at long context: time and peak memory, against the straightforward way.

Random models of 12 layers, 8 heads and width 512, like Llama and like GPT-2, a prompt of 2,048 tokens of which 8 are
the instruction. The straightforward way is what the paper's released code does: one forward of Hugging Face's model
with eager attention and ``output_attentions=True``, attention inputs and outputs kept by hooks, and the recursion over
what was kept. It does not compute logits either. Both give the same numbers; the table says how nearly.

Time: the contestants take turns, round after round, in one process; ratios are taken within a round. Memory: each has a
process of its own, and what counts is the peak of resident memory above what the loaded model takes, after a run on a
short prompt. Linux only, for it reads ``/proc``.

Run: ``.venv/bin/python benchmarks/influence.py`` (about 5 minutes on one thread).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from common import VOCAB, checkpoint, measure, peak_above
from torch import Tensor

import mechsteer as ms
from mechsteer.analysis.influence import influence
from mechsteer.report import show

LAYERS, LENGTH, INSTRUCTION = 12, 2048, 8
HERE = Path(__file__).parent
OURS, PLAIN = "mechsteer", "all attentions kept"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """How often each contestant runs."""
    threads: int = 1
    """PyTorch threads."""
    family: tuple[str, ...] = ("llama", "gpt2")
    """Models."""


def tokens(length: int) -> Tensor:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(1))


def ours(folder: Path) -> Callable[[int], Tensor]:
    """Influence at the last layer, by position, of a prompt of some length."""
    model = ms.load(str(folder))

    def run(length: int) -> Tensor:
        made = ms.Prompt("random tokens", tokens(length), {"instruction": [(0, INSTRUCTION)]})
        table = influence(model, made)
        return torch.tensor(table.loc[table["layer"] == LAYERS - 1, "influence"].to_numpy())

    return run


def plain(folder: Path) -> Callable[[int], Tensor]:
    """The same, from everything kept."""
    import transformers as t

    model = t.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    blocks = getattr(model, "layers", None) or model.h
    attentions = [getattr(block, "self_attn", None) or block.attn for block in blocks]

    @torch.no_grad()
    def run(length: int) -> Tensor:
        updates: list[Tensor] = []
        with ExitStack() as stack:
            for attention in attentions:
                handle = attention.register_forward_hook(lambda m, args, out: updates.append(out[0]))
                stack.callback(handle.remove)
            out = model(tokens(length)[None], output_attentions=True, output_hidden_states=True, use_cache=False)
        now = torch.zeros(length)
        now[:INSTRUCTION] = 1
        for layer, weights in enumerate(out.attentions):
            arriving = weights[0].mean(0) @ now
            stream = out.hidden_states[layer][0].norm(p=1, dim=-1)
            update = updates[layer][0].norm(p=1, dim=-1)
            now = (stream * now + update * arriving) / (stream + update)
        return now

    return run


CONTESTANTS: dict[str, Callable[[Path], Callable[[int], Tensor]]] = {OURS: ours, PLAIN: plain}


def peak_alone(name: str, folder: Path) -> float:
    """Peak memory in MB above the loaded model, in this process."""
    run = CONTESTANTS[name](folder)
    run(2 * INSTRUCTION)
    return peak_above(lambda: run(LENGTH))


def peak(name: str, folder: Path, threads: int) -> float:
    """:func:`peak_alone` in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, str(folder), str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def compare(family: str, options: Options) -> pd.DataFrame:
    """One row a contestant."""
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(family, Path(name), layers=LAYERS, context=LENGTH)
        peaks = {name: peak(name, folder, options.threads) for name in CONTESTANTS}
        runs: dict[str, Any] = {name: make(folder) for name, make in CONTESTANTS.items()}
        difference = float((runs[OURS](LENGTH) - runs[PLAIN](LENGTH)).abs().max())
        seconds = measure({name: lambda run=run: run(LENGTH) for name, run in runs.items()}, options.rounds)
    wide = seconds.pivot(index="round", columns="contestant", values="seconds")
    ratio = wide.div(wide[PLAIN], axis=0)
    return pd.DataFrame(
        {
            "model": family,
            "contestant": list(CONTESTANTS),
            "peak MB": [peaks[n] for n in CONTESTANTS],
            "times the memory": [peaks[n] / peaks[PLAIN] for n in CONTESTANTS],
            "median seconds": [wide[n].median() for n in CONTESTANTS],
            "times the time (median)": [ratio[n].median() for n in CONTESTANTS],
            "smallest": [ratio[n].min() for n in CONTESTANTS],
            "largest": [ratio[n].max() for n in CONTESTANTS],
            "largest difference": difference,
        }
    )


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    table = pd.concat([compare(family, options) for family in options.family], ignore_index=True)
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, {options.rounds} rounds\n")
    print(show(table, decimals=2))
    (HERE / "results").mkdir(exist_ok=True)
    table.assign(threads=options.threads, rounds=options.rounds, torch=torch.__version__).to_csv(
        HERE / "results" / "influence.csv", index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(int(sys.argv[4]))
        print(json.dumps(peak_alone(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(tyro.cli(Options, description=__doc__))
