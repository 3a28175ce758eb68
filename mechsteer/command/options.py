"""What the options of several commands share. Imports nothing heavy."""

import os
from typing import Annotated, Any

import tyro

Positional = tyro.conf.Positional


def shown_as(metavar: str) -> Any:
    """What stands for the value in the help text."""
    return tyro.conf.arg(metavar=metavar)


Device = Annotated[str | None, shown_as("DEVICE")]


def threads(model: str) -> None:
    """One thread for the bundled models: they are so small that sharing the work costs more than it saves."""
    if model.startswith("organism:") and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)
