"""Train instruct-llama-base: the run of instruct-llama, stopped before the phase that teaches instructions.

The same seed gives the model that instruct-llama was tuned from, with its weights rounded to float16 in the file.
"""

from pathlib import Path

import torch

from mechsteer.organisms import instruct_llama

PHASES = instruct_llama.PHASES[:-1]


def train(out: Path | str, *, seed: int = 1, progress: bool = True) -> Path:
    """Train from scratch and write a Hugging Face checkpoint directory; about 12 minutes on one CPU core."""
    return instruct_llama.train(
        out, seed=seed, phases=PHASES, progress=progress, name="instruct-llama-base", dtype=torch.float16
    )
