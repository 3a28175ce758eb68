"""What the training of every organism shares: the optimiser loop, its schedule, and writing all or nothing."""

import glob
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm.auto import tqdm

from mechsteer.errors import MechsteerError
from mechsteer.files import folder_lock, writable_dir

IGNORED_LABEL = -100
REPORTED_STEPS = 100

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one mix of tasks, its own AdamW and its own cosine schedule."""

    name: str
    steps: int
    learning_rate: float
    warmup: int
    mix: Mapping[str, float]


def optimise(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_of: Callable[[Batch], Float[Tensor, ""]],
    *,
    name: str,
    steps: int,
    learning_rate: float,
    warmup: int,
    weight_decay: float = 0.01,
    progress: bool = True,
) -> float:
    """Train on `steps` batches with a fresh AdamW; return the mean loss of the last hundred steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step + 1, steps, warmup))
    losses: list[float] = []
    model.train()
    with tqdm(total=steps, desc=name, disable=not progress) as bar:
        for batch in islice(batches, steps):
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{mean(losses[-REPORTED_STEPS:]):.3f}", refresh=False)
            bar.update()
    return mean(losses[-REPORTED_STEPS:])


def rate(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of a step relative to the peak: linear warm-up, then a cosine down to 5 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    return min(1.0, step / warmup) * (0.05 + 0.95 * cosine)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; not a number for no values."""
    return sum(values) / len(values) if values else math.nan


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside, as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_checkpoint(
    folder: Path, model: Any, tokenizer: Any, recipe: Mapping[str, Any], *, threads: int, started: float
) -> None:
    """Write the model, its tokenizer and ``training.json``: the recipe, the versions, and the time since `started`."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": threads,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    (folder / "training.json").write_text(json.dumps({**recipe, **made}, indent=2) + "\n", encoding="utf-8")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Give a scratch folder beside `out` that becomes `out` at the end, and is removed when anything goes wrong.

    What a killed run left is removed by the next one for the same `out` (not on Windows, see :mod:`mechsteer.files`).

    Raises:
        MechsteerError: if `out` exists, or cannot be written.
    """
    if out.exists():
        raise MechsteerError(f"{out} exists: choose another directory, or remove it first.")
    prefix = f".{out.name}.unfinished."
    for left in writable_dir(out.parent).glob(f"{glob.escape(prefix)}*"):
        with folder_lock(left) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    try:
        with folder_lock(folder):
            yield folder
        folder.chmod(0o755)
        folder.rename(out)
    except (OSError, SafetensorError) as error:
        raise MechsteerError(f"Cannot write {out}: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
