"""Everything that should hold on a device, in a few minutes: parity, invariances and ratios, on one page.

- Parity: every configuration of ``tests/hub.py`` in each dtype against Hugging Face's model in the same dtype there.
- Invariances, of four families in each dtype: a batch equals its rows, cached equals uncached, padding changes nothing,
  strength zero is unsteered, and looking at weights changes nothing. In half precision sums are made in another order
  for other shapes, so there the numbers are the largest differences of log-probabilities, beside what is allowed.
- Ratios: ``speed.py`` with fewer sizes.

What does not fit into ``--seconds`` is named and left out. Run: ``benchmarks/on_device.sh`` (CUDA), or on the CPU
``.venv/bin/python -m benchmarks.on_device --device cpu --only Llama --seconds 120``.
"""

import itertools
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import tyro
from torch import Tensor
from transformers.utils import logging

import mechsteer as ms
from benchmarks.families import as_prompt
from mechsteer.models import hooked, verify
from tests.hub import CONFIGS, write

HERE = Path(__file__).parent
FAMILIES = ("GPT-2", "Llama 3 (grouped queries)", "Mistral 0.1 (window)", "Gemma 2", "T5 1.1")
"""Whose invariances are looked at."""
ALLOWED = {"float32": 2e-4, "float16": 5e-2, "bfloat16": 3e-1}
"""Of log-probabilities of the chosen tokens."""
LENGTHS, NEW = (40, 23, 9), 6


@dataclass(frozen=True)
class Options:
    """What to check."""

    device: str = "cuda"
    """Where."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16", "float16")
    """In which dtypes."""
    only: str = ""
    """Only the configurations whose names have this in them."""
    seconds: float = 420.0
    """After how long nothing new is begun."""
    ratios: bool = True
    """Whether ratios are measured."""
    out: Path = HERE / "results"
    """Where ``on_device.md`` and its tables go."""


def card(device: str) -> str:
    """The name of what is measured on."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "CPU"
    return f"{name}, torch {torch.__version__}"


def parity(name: str, dtype: str, device: str, folder: Path) -> dict[str, Any]:
    """One configuration in one dtype."""
    row: dict[str, Any] = {"configuration": name, "dtype": dtype}
    try:
        model = ms.load(str(folder), device=device, dtype=dtype, check=False)
        found = verify(model)
    except ms.MechsteerError as error:
        return row | {"result": f"refused: {str(error)[:70]}"}
    except (RuntimeError, ValueError, TypeError) as error:
        return row | {"result": f"FAILED: {type(error).__name__}: {str(error)[:70]}"}
    difference = next(column for column in found if "diff" in column)
    return row | {
        "result": "equal" if found["ok"].all() else "DIFFERS",
        "largest difference": found[difference].max(),
        "same most likely token": found["argmax_agreement"].min(),
    }


def prompts(model: Any) -> list[ms.Prompt]:
    """Random tokens of several lengths."""
    generator = torch.Generator().manual_seed(3)
    return [as_prompt(model, torch.randint(4, 300, (length,), generator=generator)) for length in LENGTHS]


def logprobs(model: Any, given: list[ms.Prompt], continuation: Tensor, steer: Any = None) -> Tensor:
    """Of the same continuations, by :func:`mechsteer.decoding.score.score_ids`, whole."""
    from mechsteer.decoding.score import score_ids

    ids = [[row.tolist()] for row in continuation]
    return score_ids(model, given, ids, steer=steer)[0][:, 0]


def invariances(model: Any) -> dict[str, float]:
    """The largest difference of each kind."""
    given = prompts(model)
    generator = torch.Generator().manual_seed(5)
    after = torch.randint(4, 300, (len(given), NEW), generator=generator)
    together = logprobs(model, given, after)
    alone = torch.cat([logprobs(model, [p], row[None]) for p, row in zip(given, after, strict=True)])
    zero = logprobs(model, given, after, ms.attention_bias(delta=0.0))
    guide = ms.attention_bias(delta=1.5)
    watched = [(name, lambda x, hook: None) for name in model.hook_dict if name.endswith("attn.hook_pattern")]
    with hooked(model, watched):
        looked_at = logprobs(model, given, after, guide)
    generated = ms.generate(model, given, max_new_tokens=NEW)
    rescored = [
        logprobs(model, [p], tokens[None, :length])
        for p, tokens, length in zip(given, generated.tokens, generated.lengths, strict=True)
    ]
    return {
        "batch and padding": _largest(together, alone),
        "zero strength": _largest(together, zero),
        "looking at weights, under GUIDE": _largest(logprobs(model, given, after, guide), looked_at),
        "cached": _largest(generated.logprobs.sum(1), torch.cat(rescored)),
    }


def _largest(one: Tensor, other: Tensor) -> float:
    return (one.cpu().float() - other.cpu().float()).abs().max().item()


def checked(options: Options) -> Iterator[tuple[str, Callable[[Path], list[dict[str, Any]]]]]:
    """What is to be done, in order: a configuration, and rows from its checkpoint's folder."""

    def of_parity(name: str) -> Callable[[Path], list[dict[str, Any]]]:
        return lambda folder: [parity(name, dtype, options.device, folder) for dtype in options.dtypes]

    def of_invariances(name: str) -> Callable[[Path], list[dict[str, Any]]]:
        def rows(folder: Path) -> list[dict[str, Any]]:
            found = []
            for dtype in options.dtypes:
                model = ms.load(str(folder), device=options.device, dtype=dtype, check=False)
                for kind, value in invariances(model).items():
                    allowed = 0.0 if kind == "zero strength" else ALLOWED[dtype] * NEW
                    kinds = {"invariance": kind, "largest difference": value, "allowed": allowed}
                    found.append({"configuration": name, "dtype": dtype, **kinds, "ok": value <= allowed})
            return found

        return rows

    chosen = [name for name in CONFIGS if options.only in name]
    for name in chosen:
        if name in FAMILIES:
            yield name, of_invariances(name)
    for name in chosen:
        yield name, of_parity(name)


def ratios(options: Options, folder: Path) -> pd.DataFrame:
    """``speed.py`` in a process of its own."""
    sizes = "--families llama t5 --tasks long batch --lengths 1024 4096 --batches 1 8 --rounds 3 --threads 2"
    command = [sys.executable, str(HERE / "speed.py"), *sizes.split(), "--device", options.device, "--out", str(folder)]
    subprocess.run(command, check=True)
    return pd.read_csv(folder / "speed.csv")


def markdown(table: pd.DataFrame) -> str:
    """A table."""
    lines = [" | ".join(map(str, table.columns)), "|".join("---" for _ in table.columns)]
    lines += [" | ".join(_cell(value) for value in row) for row in table.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    return f"{value:.2g}" if isinstance(value, float) else str(value).replace("|", "/")


def main(options: Options) -> None:
    """Check, write, and fail where something does not hold."""
    logging.disable_progress_bar()
    began, rows, left = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, work) in enumerate(checked(options)):
            if time.monotonic() - began > options.seconds * (0.7 if options.ratios else 1.0):
                left.append(name)
                continue
            folder = Path(temporary) / str(number)
            try:
                write(CONFIGS[name], folder)
            except Exception as error:  # transformers makes no such model: a refusal is looked for all the same
                print(f"{name}: {type(error).__name__}")
            rows += work(folder)
            print(*rows[-1].values(), sep=" | ", flush=True)
        table = pd.DataFrame(rows)
        parts = {}
        for part, kind in (("parity", "result"), ("invariances", "invariance")):
            if kind in table:
                order = ["configuration", "dtype", kind, *table.columns.drop(["configuration", "dtype", kind])]
                parts[part] = table.loc[table[kind].notna(), order].dropna(axis=1, how="all")
        if options.ratios and time.monotonic() - began < options.seconds:
            parts["ratios"] = ratios(options, Path(temporary))
        elif options.ratios:
            left.append("ratios")
    seconds = time.monotonic() - began
    title = f"# On a device\n\n{card(options.device)}; {seconds:.0f} seconds.\n\n"
    missing = f"Left out for want of time: {', '.join(dict.fromkeys(left))}.\n\n" if left else ""
    options.out.mkdir(parents=True, exist_ok=True)
    page = "\n".join(f"## {name}\n\n{markdown(part)}" for name, part in parts.items())
    (options.out / "on_device.md").write_text(title + missing + page)
    for name, part in parts.items():
        part.to_csv(options.out / f"on_device_{name}.csv", index=False, float_format="%.4g")
    wrong = [r for r in rows if str(r.get("result", "")).startswith(("DIFFERS", "FAILED")) or r.get("ok") is False]
    print(f"\n{options.out / 'on_device.md'}: {len(rows)} checks, {len(wrong)} of them wrong. {missing}")
    for row in itertools.islice(wrong, 20):
        print(*row.values(), sep=" | ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
