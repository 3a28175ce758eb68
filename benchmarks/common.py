"""What the benchmarks share: random checkpoints of a useful size, and taking turns."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import mechsteer as ms
from mechsteer.models.info import set_info
from mechsteer.report import show

VOCAB = 32128
RESULTS = Path(__file__).parent / "results"


def checkpoint(family: str, folder: Path, *, layers: int = 6, context: int = 1024, spread: float = 0.02) -> Path:
    """A random checkpoint without a tokenizer of its own; its tokens are numbers, which is all that is needed here.

    Weights are drawn with the standard deviation ``spread``; of a Llama, the larger, the surer it is of its tokens.
    """
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "eos_token_id": 1}
    if family == "t5":
        config = t.T5Config(
            vocab_size=VOCAB,
            d_model=512,
            d_kv=64,
            d_ff=1024,
            num_heads=8,
            num_layers=layers,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=True,
            decoder_start_token_id=0,
            **ids,
        )
        model: Any = t.T5ForConditionalGeneration(config)
    elif family == "llama":
        config = t.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=context,
            initializer_range=spread,
            bos_token_id=1,
            **ids,
        )
        model = t.LlamaForCausalLM(config)
    else:
        config = t.GPT2Config(
            vocab_size=VOCAB, n_embd=512, n_head=8, n_layer=layers, n_positions=context, bos_token_id=1, **ids
        )
        model = t.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    special = ["<pad>", "</s>"]  # a special token named t1 would be cut out of t17
    words = special + [f"t{i}" for i in range(len(special), VOCAB)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="t2"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=special[0], eos_token=special[1]).save_pretrained(
        folder
    )
    return folder


def resident(field: str) -> float:
    """Resident memory of this process in MB: ``VmRSS`` now, or ``VmHWM``, the peak. Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def peak_above(run: Callable[[], Any]) -> float:
    """By how many MB the peak of resident memory during a run is above what was resident before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def without_eos(model: Any) -> None:
    """Let every row run to the end."""
    set_info(model, replace(ms.model_info(model), eos_ids=()))


def measure(runs: dict[str, Callable[[], Any]], rounds: int, *, warm: bool = True) -> pd.DataFrame:
    """Seconds of each contestant in each round, and of processor time; one unmeasured run of each comes first.

    Args:
        runs: The contestants.
        rounds: How often each runs.
        warm: Make that first run; without it the caller has warmed up with less.
    """
    for run in runs.values() if warm else ():
        run()
    rows = []
    for number in range(rounds):
        for name, run in runs.items():
            began, worked = time.perf_counter(), time.process_time()
            run()
            took, work = time.perf_counter() - began, time.process_time() - worked
            rows.append({"round": number, "contestant": name, "seconds": took, "processor": work})
            print(f"round {number + 1} of {rounds}: {name}: {took:.2f} s", flush=True)
    return pd.DataFrame(rows)


def ratios(seconds: pd.DataFrame, bases: dict[str, str]) -> pd.DataFrame:
    """Median seconds of each contestant, and how many times its base's of the same round, with the range.

    Args:
        seconds: From :func:`measure`.
        bases: For a contestant, what it is compared with; those that are not in it stand alone.
    """
    rows = []
    for name in dict.fromkeys(seconds["contestant"]):
        mine, base = (seconds[seconds["contestant"] == n].set_index("round") for n in (name, bases.get(name, name)))
        times, work = mine["seconds"] / base["seconds"], mine["processor"] / base["processor"]
        rows.append(
            {
                "contestant": name,
                "against": bases.get(name, ""),
                "median seconds": mine["seconds"].median(),
                "times (median)": times.median(),
                "smallest": times.min(),
                "largest": times.max(),
                "times in processor time (median)": work.median(),
            }
        )
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, name: str, threads: int, rounds: int, folder: Path = RESULTS) -> None:
    """Print a table, and write it as CSV with what it was measured with."""
    print(show(table, decimals=2))
    folder.mkdir(parents=True, exist_ok=True)
    table.assign(threads=threads, rounds=rounds, torch=torch.__version__).to_csv(
        folder / f"{name}.csv", index=False, float_format="%.4g"
    )
