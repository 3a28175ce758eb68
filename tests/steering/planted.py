"""A tiny model with an attention sink."""

from pathlib import Path
from typing import Any

import mechsteer as ms


def planted(directory: Path, *, token: int = 3, factor: float = 3000.0, dtype: str = "float32") -> Any:
    """The model of a checkpoint, one token's embedding so large that its stream stays so: by default <s>, the first."""
    model = ms.load(str(directory), dtype=dtype, check=False)
    model.embed.W_E[token] *= factor
    return model
