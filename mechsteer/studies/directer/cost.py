"""What decoding costs, one prompt at a time: time to first token, time a token, throughput, memory."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.decoding import Directer, generate
from mechsteer.models import model_device
from mechsteer.prompts import Prompt
from mechsteer.steering import attention_bias, spotlight

if TYPE_CHECKING:
    import pandas as pd

CONTESTANTS: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "directer": {"strategy": Directer()},
    "spotlight": {"steer": spotlight(target=0.1)},
    "guide": {"steer": attention_bias(delta=2.0)},
}


TIMES = ("first_token_ms", "token_ms", "tokens_per_second")


def cost(model: Any, prompts: Sequence[Prompt], *, max_new_tokens: int, rounds: int = 3) -> "pd.DataFrame":
    """Measure the contestants, taking turns: prompt after prompt, round after round.

    Args:
        model: A loaded model.
        prompts: Prompts with the span ``instruction``, run one at a time.
        max_new_tokens: The most new tokens.
        rounds: How often each is run.

    Returns:
        One row a contestant: method; first_token_ms (a whole run of one token), token_ms (of each later token),
        tokens_per_second (of whole runs), each the median over prompts and rounds; the same as multiples of
        zero-shot's (``*_times``), medians of ratios within a round; peak_mb, above the loaded model: tensors on a CPU,
        allocated memory on a GPU; tokens (mean length), prompt_tokens, n, rounds, device, threads, cores.
    """
    import pandas as pd

    def run(prompt: Prompt, new: int, options: dict[str, Any]) -> tuple[float, int]:
        begun = time.perf_counter()
        made = generate(model, prompt, max_new_tokens=new, **options)
        if model_device(model).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun, made.lengths[0]

    turns = []
    for options in CONTESTANTS.values():
        run(prompts[0], 2, options)  # what happens once is not measured
    for number in range(rounds):
        for place, prompt in enumerate(prompts):
            for name, options in CONTESTANTS.items():
                first, _ = run(prompt, 1, options)
                whole, length = run(prompt, max_new_tokens, options)
                later = 1000 * (whole - first) / max(1, length - 1)
                turns.append(
                    {
                        "turn": (number, place),
                        "method": name,
                        "tokens": length,
                        "first_token_ms": 1000 * first,
                        "token_ms": later,
                        "tokens_per_second": length / whole,
                    }
                )
    table = pd.DataFrame(turns)
    wide = {column: table.pivot(index="turn", columns="method", values=column) for column in TIMES}
    longest = max(prompts, key=len)
    rows = []
    for name, options in CONTESTANTS.items():
        row: dict[str, Any] = {"method": name}
        for column, values in wide.items():
            row[column] = median(values[name])
        for column, values in wide.items():
            row[f"{column}_times"] = median(values[name] / values["zero-shot"])
        row["peak_mb"] = peak(
            lambda options=options: run(longest, min(16, max_new_tokens), options), model_device(model)
        )
        row["tokens"] = float(table[table["method"] == name]["tokens"].mean())
        rows.append(row)
    about = {"n": len(prompts), "rounds": rounds, "device": str(model_device(model))}
    lengths = sum(map(len, prompts)) / len(prompts)
    return pd.DataFrame(rows).assign(
        prompt_tokens=lengths, **about, threads=torch.get_num_threads(), cores=os.cpu_count()
    )


def peak(run: Callable[[], Any], device: torch.device) -> float:
    """The most memory that PyTorch held during a run above what it held before, in MB (10^6 bytes)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler would write to stderr that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    held = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most / 1e6
